// SPDX-License-Identifier: Apache-2.0
// Attention over a packed batch against one call for each sequence.
#include <seqprim/attention/attention.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/position/position.hpp>
#include <seqprim/score/score.hpp>

#include <attention/kernels.hpp>
#include <attention/problem.hpp>
#include <support/catch.hpp>
#include <vector>

using namespace seqprim;
namespace kernels = test::kernels;
using test::attention_problem;
using test::random_numbers;

namespace {

struct random_packing {
  std::vector<index_t> q{0}, k{0};

  random_packing(random_numbers& random, int count, index_t longest, bool same) {
    for (int d = 0; d < count; ++d) {
      const index_t queries = random.integer(0, 5) == 0 ? 0 : random.integer(1, longest);
      const index_t keys = same ? queries : random.integer(0, 5) == 0 ? 0 : random.integer(1, longest);
      q.push_back(q.back() + queries);
      k.push_back(k.back() + keys);
    }
  }
};

/// All of the results of attention over one problem. `decode` where its type allows.
template <class T> struct results {
  tensor<T, 4> out, dq, dk, dv, decoded;
  tensor<accumulator<T>, 3> lse;

  explicit results(const attention_problem<T>& p)
      : out(p.batch, p.heads, p.q_len, p.value_dim),
        dq(p.batch, p.heads, p.q_len, p.head_dim),
        dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
        dv(p.batch, p.kv_heads, p.k_len, p.value_dim),
        decoded(p.batch, p.heads, p.q_len, p.value_dim),
        lse(p.batch, p.heads, p.q_len) {}
};

/// `op(d)` is the operator of sequence d alone.
template <class T, class Packed, class Alone>
void require_same(const packing& sequences, const attention_problem<T>& p, random_numbers& random, const Packed& packed,
                  const Alone& alone, double tolerance) {
  results<T> all(p), each(p);
  tensor<T, 4> dout(p.batch, p.heads, p.q_len, p.value_dim);
  random.fill(dout);
  kernels::forward(cpu{}, packed, p.q, p.k, p.v, all.out, all.lse);
  kernels::backward(cpu{}, packed, p.q, p.k, p.v, all.out, all.lse, dout,
                    attention::gradients{}.dq(all.dq).dk(all.dk).dv(all.dv));
  if constexpr (std::is_same_v<T, float>) {
    if constexpr (std::is_same_v<decltype(packed.position), position::none>)
      kernels::decode(cpu{}, packed, p.q, p.k, p.v, all.decoded);
  }
  for (index_t d = 0; d < sequences.sequences(); ++d) {
    const range rows = sequences.queries(d), keys = sequences.keys(d);
    const auto op = alone(rows.size(), keys.size());
    const auto q_part = [&](auto& x) { return x.view().slice(2, rows); };
    const auto k_part = [&](auto& x) { return x.view().slice(2, keys); };
    kernels::forward(cpu{}, op, q_part(p.q), k_part(p.k), k_part(p.v), q_part(each.out), q_part(each.lse));
    kernels::backward(cpu{}, op, q_part(p.q), k_part(p.k), k_part(p.v), q_part(each.out), q_part(each.lse),
                      q_part(dout), attention::gradients{}.dq(q_part(each.dq)).dk(k_part(each.dk)).dv(k_part(each.dv)));
    if constexpr (std::is_same_v<T, float>) {
      if constexpr (std::is_same_v<decltype(packed.position), position::none>)
        kernels::decode(cpu{}, op, q_part(p.q), k_part(p.k), k_part(p.v), q_part(each.decoded));
    }
  }
  CAPTURE(p.q_len, p.k_len, p.heads, p.kv_heads, p.head_dim, p.value_dim, sequences.sequences());
  REQUIRE(test::distance(all.out, each.out) <= tolerance);
  REQUIRE(test::distance(all.decoded, each.decoded) <= tolerance);
  REQUIRE(test::distance(all.lse, each.lse) <= tolerance * 4);
  REQUIRE(test::distance(all.dq, each.dq) <= tolerance * 4);
  REQUIRE(test::distance(all.dk, each.dk) <= tolerance * 4 * static_cast<double>(p.heads / p.kv_heads));
  REQUIRE(test::distance(all.dv, each.dv) <= tolerance * 4 * static_cast<double>(p.heads / p.kv_heads));
}

}  // namespace

TEMPLATE_TEST_CASE("packed: attention over the packed rows is attention over each sequence alone",
                   "[attention][property]", float, double) {
  // Each result is a sum of at most 80 products of normal numbers; the two ways add them in another order.
  const double tolerance = 80 * 4 * test::rounding<TestType>;
  random_numbers random(61);
  for (int trial = 0; trial < 24; ++trial) {
    const bool same = trial % 3 == 0;
    const random_packing offsets(random, trial % 8 == 7 ? 40 : 1 + trial % 5, trial % 8 == 7 ? 12 : 80, same);
    const alignment align = trial % 4 == 1 ? alignment::top_left : alignment::bottom_right;
    const packing sequences{offsets.q, offsets.k, align};
    const index_t kv_heads = random.integer(1, 2);
    attention_problem<TestType> p(1, kv_heads * random.integer(1, 3), kv_heads, sequences.q_len(), sequences.k_len(),
                                  random.integer(0, 1) == 0 ? 16 : 24, 8);
    p.fill(random);
    const auto offset = [&](index_t q_len, index_t k_len) { return align == alignment::top_left ? 0 : k_len - q_len; };
    CAPTURE(trial, same);
    switch (trial % 4) {
      case 0:
        require_same(
            sequences, p, random, attention::softmax{mask::packed{sequences, mask::causal{}}},
            [&](index_t q_len, index_t k_len) {
              return attention::softmax{mask::causal{}}.starting_at(offset(q_len, k_len));
            },
            tolerance);
        break;
      case 1:
        require_same(
            sequences, p, random,
            attention::softmax{mask::packed{sequences, mask::causal_window(9)},
                               score::packed{sequences, score::alibi{.heads = p.heads}}}
                .with_sink(0.5f),
            [&](index_t q_len, index_t k_len) {
              const index_t first = offset(q_len, k_len);
              return attention::softmax{mask::causal_window(9), score::alibi{.heads = p.heads}}
                  .starting_at(first)
                  .with_sink(0.5f);
            },
            tolerance);
        break;
      case 2:
        require_same(
            sequences, p, random, attention::softmax{mask::packed{sequences, mask::full{}}},
            [&](index_t, index_t) { return attention::softmax{mask::full{}}; }, tolerance);
        break;
      default: {
        const position::rotary<position::half_split> rotary{.rotary_dim = 16};
        require_same(
            sequences, p, random,
            attention::softmax{
                mask::packed{sequences, mask::attention_sinks{.sinks = 2, .window = 10}}, score::soft_cap{.cap = 3},
                position::placed{rotary, position::packed_queries{sequences}, position::packed_keys{sequences}}},
            [&](index_t q_len, index_t k_len) {
              const index_t first = offset(q_len, k_len);
              return attention::softmax{mask::attention_sinks{.sinks = 2, .window = 10}, score::soft_cap{.cap = 3},
                                        rotary}
                  .starting_at(first);
            },
            tolerance);
      }
    }
  }
}

TEST_CASE("packed: sequences without keys give zeros and lse -inf, whatever lies in the others", "[attention][edge]") {
  const std::vector<std::int32_t> q_offsets = {0, 20, 50, 51}, k_offsets = {0, 30, 30, 90};
  const packing sequences{q_offsets, k_offsets};
  attention_problem<float> p(1, 1, 1, 51, 90, 16, 16);
  random_numbers random(62);
  p.fill(random);
  for (index_t d = 0; d < 16; ++d) p.v(0, 0, 29, d) = std::nanf("");
  tensor<float, 4> out(1, 1, 51, 16);
  tensor<float, 3> lse(1, 1, 51);
  kernels::forward(cpu{}, attention::softmax{mask::packed{sequences, mask::causal{}}}, p.q, p.k, p.v, out, lse);
  for (index_t i = 0; i < 51; ++i) {
    REQUIRE(std::isinf(lse(0, 0, i)) == (i >= 20 && i < 50));
    for (index_t d = 0; d < 16; ++d) {
      REQUIRE(std::isnan(out(0, 0, i, d)) == (i == 19));  // the one query that stands at the bad value
      if (i >= 20 && i < 50) REQUIRE(out(0, 0, i, d) == 0.0f);
    }
  }
}

TEST_CASE("packed: the number of threads does not change a bit", "[attention][property]") {
  const std::vector<std::int32_t> offsets = {0, 64, 100, 300};
  random_numbers random(63);
  attention_problem<float> p(1, 2, 1, 300, 300, 32, 32);
  p.fill(random);
  const attention::softmax op{mask::packed{packing{offsets, offsets}, mask::causal{}}};
  tensor<float, 4> one(1, 2, 300, 32), many(1, 2, 300, 32);
  kernels::forward(cpu{.threads = 1}, op, p.q, p.k, p.v, one);
  kernels::forward(cpu{.threads = 5}, op, p.q, p.k, p.v, many);
  REQUIRE(std::equal(one.begin(), one.end(), many.begin()));
}

TEST_CASE("packed: a score with the packing of another batch is refused by every entry point", "[attention][errors]") {
  attention_problem<float> p(1, 2, 2, 10, 10, 8, 8);
  const std::vector<index_t> right = {0, 4, 10}, stale_q = {0, 4, 6}, stale_k = {0, 2, 10}, none = {0};
  const packing sequences{right, right};
  tensor<float, 4> out(1, 2, 10, 8), gradient(1, 2, 10, 8), weights(1, 2, 10, 10);
  tensor<float, 3> lse(1, 2, 10);
  out.fill(7.0f);
  gradient.fill(7.0f);
  const auto refused = [&](const packing& other, const std::string& reason) {
    const attention::softmax op{mask::packed{sequences, mask::causal{}},
                                score::packed{other, score::alibi{.heads = 2, .bidirectional = true}}};
    const auto says = ContainsSubstring(reason);
    REQUIRE_THROWS_WITH(kernels::forward(cpu{}, op, p.q, p.k, p.v, out, lse), says);
    REQUIRE_THROWS_WITH(kernels::decode(cpu{}, op, p.q, p.k, p.v, out, lse), says);
    REQUIRE_THROWS_WITH(kernels::backward(cpu{}, op, p.q, p.k, p.v, out, lse, out,
                                          attention::gradients{}.dq(gradient).dk(gradient).dv(gradient)),
                        says);
    REQUIRE_THROWS_WITH(attention::weights(cpu{}, op, p.q, p.k, lse, weights), says);
  };
  refused({stale_q, stale_k}, "packing: q_offsets ends at 6 but q_len is 10");
  refused({none, none}, "packing: the queries of the call are rows [0, 10), the sequences have 0 rows");
  refused({right, stale_q}, "packing: k_offsets ends at 6 but k_len is 10");
  for (const float x : out) REQUIRE(x == 7.0f);
  for (const float x : gradient) REQUIRE(x == 7.0f);
}

TEST_CASE("packed: the code of its pages runs", "[attention][docs]") {
  const cpu executor{};
  const index_t heads = 4, kv_heads = 2, dim = 16;
  random_numbers random(64);
  {
    // example-begin training
    // Three sequences of 20, 7 and 33 tokens, one behind the other: q, k, v [1, heads, 60, dim]
    const std::vector<std::int32_t> offsets = {0, 20, 27, 60};
    const packing sequences{offsets, offsets};

    const position::rotary<position::half_split> rope{.rotary_dim = 16};
    const attention::softmax op{
        mask::packed{sequences, mask::causal{}}, score::identity{},
        position::placed{rope, position::packed_queries{sequences}, position::packed_keys{sequences}}};
    // example-end training
    attention_problem<float> p(1, heads, kv_heads, 60, 60, dim, dim);
    p.fill(random);
    tensor<float, 4> out(1, heads, 60, dim), first(1, heads, 20, dim);
    attention::forward(executor, op, p.q, p.k, p.v, out);
    const range own{0, 20};
    attention::forward(executor, attention::softmax{mask::causal{}, score::identity{}, rope}, p.q.view().slice(2, own),
                       p.k.view().slice(2, own), p.v.view().slice(2, own), first);
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < 20; ++i)
        for (index_t d = 0; d < dim; ++d) REQUIRE(out(0, h, i, d) == Approx(first(0, h, i, d)).margin(1e-5));
  }
  {
    // example-begin serving
    // A new prompt of 20 tokens, the next 8 tokens of a sequence that has 30, and one token each for two sequences that
    // have 12 and 57: their queries stand at the end of their keys.
    const std::vector<std::int32_t> new_tokens = {0, 20, 28, 29, 30};
    const std::vector<std::int32_t> all_tokens = {0, 20, 58, 71, 129};
    const packing sequences{new_tokens, all_tokens};
    const attention::softmax op{mask::packed{sequences, mask::causal_window(4096)}};
    // example-end serving
    attention_problem<float> p(1, heads, kv_heads, 30, 129, dim, dim);
    p.fill(random);
    tensor<float, 4> out(1, heads, 30, dim), last(1, heads, 1, dim);
    attention::forward(executor, op, p.q, p.k, p.v, out);
    attention::forward(executor, attention::softmax{}, p.q.view().slice(2, {29, 30}), p.k.view().slice(2, {71, 129}),
                       p.v.view().slice(2, {71, 129}), last);
    for (index_t h = 0; h < heads; ++h)
      for (index_t d = 0; d < dim; ++d) REQUIRE(out(0, h, 29, d) == Approx(last(0, h, 0, d)).margin(1e-5));
  }
}
