// SPDX-License-Identifier: Apache-2.0
// example-begin paged-serving
// A paged decode loop with ragged arrivals: requests come and go, and each step serves all of them in two calls.
//
// Four slots share one pool of pages. In every step a slot reads the next piece of its prompt, or one token of its answer,
// or is idle.
//
// Shapes   q, out [1, heads, tokens, dim]; k, v [1, kv_heads, tokens, dim]: the new tokens of all slots, concatenated
//          k_pages, v_pages [pages, kv_heads, page_size, dim]; entries [slots, pages of a slot]; lengths [slots]
#include <seqprim/attention/attention.hpp>
#include <seqprim/core/core.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/position/rotary.hpp>

#include <cmath>
#include <cstdio>
#include <iterator>
#include <vector>

using namespace seqprim;

/// Hands out pages. A request reserves what its longest answer needs, so that no slot ever waits for the pages of another.
struct page_pool {
  std::vector<std::int32_t> free;
  std::size_t reserved = 0;  ///< of the free ones

  [[nodiscard]] bool reserve(index_t count) {
    if (free.size() < reserved + static_cast<std::size_t>(count)) return false;
    reserved += static_cast<std::size_t>(count);
    return true;
  }
  [[nodiscard]] std::int32_t take() {
    const std::int32_t page = free.back();
    free.pop_back(), --reserved;
    return page;
  }
};

struct request {
  index_t arrival, prompt, len;  ///< the step in which it comes; tokens before the answer, and with it
};
struct slot {
  index_t request = -1, past = 0;  ///< -1: idle; tokens in the cache
};

int main() {
  const cpu executor{};
  constexpr index_t slots = 4;
  const index_t pages = 36, page_size = 16, heads = 8, kv_heads = 2, dim = 64, longest = 300, piece = 48;
  const request requests[] = {{0, 200, 230}, {0, 7, 60}, {1, 1, 45}, {3, 250, 300}, {9, 30, 31}, {40, 33, 49}};
  const index_t count = std::size(requests);
  const attention::softmax op{mask::causal{}, score::identity{},
                              position::rotary<position::half_split>{.rotary_dim = dim}};

  // Random vectors in place of a layer's projections, for all tokens of all requests; and what must come out.
  tensor<bfloat16, 4> all_q(count, heads, longest, dim), all_k(count, kv_heads, longest, dim), all_v = all_k;
  std::uint32_t drawn = 0;
  for (auto* x : {&all_q, &all_k, &all_v})
    for (bfloat16& value : *x)
      value = bfloat16(4 * uniform_open(random_stream{.seed = 1}.word(random_domain::caller, drawn++)) - 2);
  tensor<float, 4> expected(count, heads, longest, dim);
  attention::forward(executor, op, all_q, all_k, all_v, expected);

  tensor<bfloat16, 4> k_pages(pages, kv_heads, page_size, dim), v_pages(pages, kv_heads, page_size, dim);
  tensor<std::int32_t, 2> entries(slots, ceil_div(longest, page_size));
  tensor<std::int32_t, 1> lengths(slots), offsets(slots + 1);
  const attention::page_table table{entries, lengths.view()};  // views: the table follows both
  page_pool pool;
  for (std::int32_t page = 0; page < pages; ++page) pool.free.push_back(page);
  slot running[slots];

  float worst = 0;
  index_t arrived = 0, served = 0, calls = 0;
  for (index_t step = 0; served < count; ++step) {
    // Requests that have arrived take idle slots, in order, when the pool can promise their pages.
    for (slot& s : running)
      if (s.request < 0 && arrived < count && requests[arrived].arrival <= step &&
          pool.reserve(ceil_div(requests[arrived].len, page_size)))
        s = {.request = arrived++};

    // What each slot brings, and pages for it.
    for (index_t b = 0; b < slots; ++b) {
      const slot& s = running[b];
      const index_t unread =
          s.request < 0 ? 0 : max<index_t>(requests[s.request].prompt - s.past, 1);  // or one new token
      const index_t len = s.past + min(unread, piece);
      for (index_t n = ceil_div(s.past, page_size); n < ceil_div(len, page_size); ++n) entries(b, n) = pool.take();
      lengths(b) = static_cast<std::int32_t>(len);
      offsets(b + 1) = offsets(b) + static_cast<std::int32_t>(len - s.past);
    }
    const index_t tokens = offsets(slots);
    if (tokens == 0) continue;

    // f(element of all texts, element of the new rows), for the tokens of this step.
    const auto for_new_tokens = [&](auto& texts, auto& rows, const auto& f) {
      for (index_t b = 0; b < slots; ++b)
        for (index_t h = 0; h < texts.extent(1); ++h)
          for (index_t i = offsets(b); i < offsets(b + 1); ++i)
            for (index_t d = 0; d < dim; ++d)
              f(texts(running[b].request, h, running[b].past + i - offsets(b), d), rows(0, h, i, d));
    };
    tensor<bfloat16, 4> q(1, heads, tokens, dim), k(1, kv_heads, tokens, dim), v(1, kv_heads, tokens, dim);
    tensor<float, 4> out(1, heads, tokens, dim);
    const auto copy = [](bfloat16 from, bfloat16& to) { to = from; };
    for_new_tokens(all_q, q, copy), for_new_tokens(all_k, k, copy), for_new_tokens(all_v, v, copy);

    // Two calls serve all slots: pieces of prompts and single tokens.
    using attention::paged, attention::ragged;
    const index_array begins = offsets.view();
    attention::append(executor, op, ragged{k, begins}, ragged{v, begins}, paged{k_pages, table}, paged{v_pages, table});
    attention::decode(executor, op, ragged{q, begins}, paged{k_pages, table}, paged{v_pages, table}, out);
    for_new_tokens(expected, out, [&](float e, float o) { worst = std::fmax(worst, std::fabs(e - o)); });
    ++calls;

    // Who is done gives its pages back.
    for (index_t b = 0; b < slots; ++b) {
      running[b].past = lengths(b);
      if (running[b].request < 0 || lengths(b) < requests[running[b].request].len) continue;
      for (index_t n = 0; n < ceil_div(index_t{lengths(b)}, page_size); ++n) pool.free.push_back(entries(b, n));
      running[b] = {};
      ++served;
    }
  }
  std::printf("%d requests in %d steps; largest difference from each of them alone %.4f\n", static_cast<int>(served),
              static_cast<int>(calls), double(worst));
  return worst < 0.02f && pool.free.size() == pages && pool.reserved == 0 ? 0 : 1;
}
// example-end paged-serving
