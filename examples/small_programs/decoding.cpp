// SPDX-License-Identifier: Apache-2.0
// example-begin decoding
// Decoding with a KV cache: one operator for the prompt, for one token at a time, and for drafts that are taken back.
//
// Shapes   q, out [batch, heads, len, head_dim]; k, v [batch, kv_heads, len, head_dim]
//          k_cache, v_cache [batch, kv_heads, capacity, head_dim]: keys with their positions encoded, and values
#include <seqprim/attention/attention.hpp>
#include <seqprim/core/core.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/position/rotary.hpp>

#include <cmath>
#include <cstdio>

using namespace seqprim;

int main() {
  const cpu executor{};
  const index_t batch = 2, heads = 8, kv_heads = 2, head_dim = 64, len = 700, prompt = 500, capacity = 1024;

  // What the projections of a layer give for a text. Here they are random.
  tensor<bfloat16, 4> q(batch, heads, len, head_dim), k(batch, kv_heads, len, head_dim),
      v(batch, kv_heads, len, head_dim);
  std::uint32_t drawn = 0;
  for (auto* x : {&q, &k, &v})
    for (bfloat16& value : *x)
      value = bfloat16(4 * uniform_open(random_stream{.seed = 1}.word(random_domain::caller, drawn++)) - 2);

  const position::rotary<position::half_split> rope{.rotary_dim = head_dim};
  const attention::softmax op{mask::causal{}, score::identity{}, rope};
  tensor<bfloat16, 4> k_cache(batch, kv_heads, capacity, head_dim), v_cache(batch, kv_heads, capacity, head_dim);
  tensor<bfloat16, 4> out(batch, heads, len, head_dim);
  const auto rows = [](auto& x, range tokens) { return x.view().slice(2, tokens); };

  // The prompt in one call, then into the cache.
  const range first{0, prompt};
  attention::forward(executor, op, rows(q, first), rows(k, first), rows(v, first), rows(out, first));
  attention::append(executor, op, rows(k, first), rows(v, first), 0, k_cache, v_cache);

  // New tokens: their keys and values are appended, then they attend to all that is cached. The last query is at the last
  // key, so the operator needs no change.
  const auto read = [&](range tokens) {
    attention::append(executor, op, rows(k, tokens), rows(v, tokens), tokens.begin, k_cache, v_cache);
    const range cached{0, tokens.end};
    attention::decode(executor, op, rows(q, tokens), rows(k_cache, cached), rows(v_cache, cached), rows(out, tokens));
  };
  index_t past = prompt;  // tokens that count
  for (; past < 600; ++past) read({past, past + 1});

  // Speculative decoding: a draft of four tokens in one call, of which two are accepted. What was rejected stays in the
  // cache behind the tokens that count, until the next draft overwrites it.
  for (; past < len; past += 2) read({past, min(past + 4, len)});

  // All of it must be what one call over the whole text gives, but for roundings of the output to 8 bits.
  tensor<float, 4> whole(batch, heads, len, head_dim);
  attention::forward(executor, op, q, k, v, whole);
  float worst = 0;
  for (index_t i = 0; i < out.size(); ++i) worst = std::fmax(worst, std::fabs(float(out.data()[i]) - whole.data()[i]));
  std::printf("%d tokens decoded after a prompt of %d: largest difference from one forward pass %.4f\n",
              static_cast<int>(len - prompt), static_cast<int>(prompt), double(worst));
  return worst < 0.02f ? 0 : 1;
}
// example-end decoding
