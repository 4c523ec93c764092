// SPDX-License-Identifier: Apache-2.0
#include <seqprim/attention/forward.hpp>
#include <seqprim/attention/ragged.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/position/position.hpp>
#include <seqprim/score/score.hpp>

#include <cmath>
#include <cstdint>
#include <support/catch.hpp>
#include <support/random.hpp>
#include <vector>

using namespace seqprim;
using attention::paged;
using attention::ragged;

namespace {

constexpr index_t heads = 4, kv_heads = 2, dim = 16, page_size = 8, sequences = 4, longest = 70;

/// Whole sequences, and the operator over each of them at once: what any schedule of arrivals must give.
template <class Op> void require_schedule(const Op& op) {
  test::random_numbers random(91);
  tensor<float, 4> q(sequences, heads, longest, dim), k(sequences, kv_heads, longest, dim),
      v(sequences, kv_heads, longest, dim), whole(sequences, heads, longest, dim);
  random.fill(q);
  random.fill(k);
  random.fill(v);
  attention::forward(cpu{}, op, q, k, v, whole);

  tensor<float, 4> k_pages(40, kv_heads, page_size, dim), v_pages(40, kv_heads, page_size, dim);
  k_pages.fill(std::nanf(""));
  v_pages.fill(std::nanf(""));
  tensor<std::int32_t, 2> entries(sequences, 9);
  std::int32_t next_page = 0;
  for (index_t b = 0; b < sequences; ++b)
    for (index_t n = 0; n < 9; ++n) entries(b, n) = next_page++;
  std::vector<std::int32_t> lengths(sequences, 0);
  const attention::page_table table{entries, lengths};
  index_t compared = 0;
  for (int step = 0; step < 14; ++step) {
    std::vector<std::int32_t> offsets{0}, before = lengths;
    for (std::size_t b = 0; b < sequences; ++b) {
      const auto wish = static_cast<std::int32_t>(step == 0                   ? 11 * static_cast<index_t>(b)
                                                  : random.integer(0, 3) == 0 ? random.integer(2, 20)
                                                                              : random.integer(0, 1));
      const auto n = std::min(wish, static_cast<std::int32_t>(longest) - lengths[b]);
      lengths[b] += n;
      offsets.push_back(offsets.back() + n);
    }
    const index_t total = offsets.back();
    tensor<float, 4> q_new(1, heads, total, dim), k_new(1, kv_heads, total, dim), v_new(1, kv_heads, total, dim),
        out(1, heads, total, dim);
    const auto each = [&](const auto& body) {
      for (std::size_t b = 0; b < sequences; ++b)
        for (index_t i = offsets[b]; i < offsets[b + 1]; ++i)
          for (index_t d = 0; d < dim; ++d) body(static_cast<index_t>(b), i, before[b] + i - offsets[b], d);
    };
    each([&](index_t b, index_t row, index_t token, index_t d) {
      for (index_t h = 0; h < heads; ++h) q_new(0, h, row, d) = q(b, h, token, d);
      for (index_t h = 0; h < kv_heads; ++h) {
        k_new(0, h, row, d) = k(b, h, token, d);
        v_new(0, h, row, d) = v(b, h, token, d);
      }
    });
    // example-begin ragged
    attention::append(cpu{}, op, ragged{k_new, offsets}, ragged{v_new, offsets}, paged{k_pages, table},
                      paged{v_pages, table});
    attention::decode(cpu{}, op, ragged{q_new, offsets}, paged{k_pages, table}, paged{v_pages, table}, out);
    // example-end ragged
    bool close = true;
    each([&](index_t b, index_t row, index_t token, index_t d) {
      for (index_t h = 0; h < heads; ++h, ++compared)
        close = close && std::fabs(out(0, h, row, d) - whole(b, h, token, d)) <= 4e-6f;
    });
    CAPTURE(step, offsets);
    REQUIRE(close);
  }
  REQUIRE(compared > 0);
}

}  // namespace

TEST_CASE("ragged: any schedule of arrivals gives the rows of the whole sequences", "[attention][property]") {
  const position::rotary<position::half_split> rope{.rotary_dim = dim};
  SECTION("causal with rotary and ALiBi") {
    require_schedule(attention::softmax{mask::causal{}, score::alibi{.heads = heads}, rope});
  }
  SECTION("a window with sinks") {
    require_schedule(attention::softmax{mask::attention_sinks{.sinks = 2, .window = 9}});
  }
  SECTION("a composition") { require_schedule(attention::softmax{mask::causal{} & ~mask::key_range{5, 6}}); }
}

TEST_CASE("ragged: parts of the operator that depend on the sequence are those of the sequence", "[attention]") {
  test::random_numbers random(92);
  const std::vector<std::int32_t> offsets{0, 2, 2, 5}, lengths{9, 0, 12};
  const std::vector<index_t> prefix{4, 1, 11};
  tensor<float, 4> q(1, 2, 5, 8), pages(4, 2, 8, 8), out(1, 2, 5, 8), alone(1, 2, 3, 8);
  random.fill(q);
  random.fill(pages);
  tensor<std::int32_t, 2> entries(3, 2);
  entries(0, 0) = 2, entries(0, 1) = 0, entries(2, 0) = 1, entries(2, 1) = 3;
  const attention::page_table table{entries, lengths};
  attention::decode(cpu{}, attention::softmax{mask::prefix_per_batch{.lengths = prefix}}, ragged{q, offsets},
                    paged{pages, table}, paged{pages, table}, out);
  attention::decode(cpu{}, attention::softmax{mask::prefix{.length = 11}}, q.view().slice(2, {2, 5}),
                    paged{pages, table.sequence(2)}, paged{pages, table.sequence(2)}, alone);
  for (index_t h = 0; h < 2; ++h)
    for (index_t i = 0; i < 3; ++i)
      for (index_t d = 0; d < 8; ++d) REQUIRE(out(0, h, 2 + i, d) == alone(0, h, i, d));
}

TEST_CASE("ragged: what does not fit is refused before anything is written", "[attention][errors]") {
  tensor<float, 4> rows(1, 2, 5, 8), pages(4, 2, 8, 8), more(4, 2, 8, 8), out(1, 2, 5, 8);
  pages.fill(3.0f);
  tensor<std::int32_t, 2> entries(2, 2);
  entries(0, 0) = 0, entries(0, 1) = 1, entries(1, 0) = 2, entries(1, 1) = 3;
  const std::vector<std::int32_t> lengths{9, 2}, ends_early{0, 2, 4}, down{0, 6, 5}, too_many{0, 2, 5};
  const attention::page_table table{entries, lengths};
  const attention::softmax op{mask::causal{}};
  const auto append = [&](const std::vector<std::int32_t>& offsets) {
    attention::append(cpu{}, op, ragged{rows, offsets}, ragged{rows, offsets}, paged{pages, table}, paged{more, table});
  };
  REQUIRE_THROWS_WITH(append(ends_early), ContainsSubstring("end at 4, but it has 5 rows"));
  REQUIRE_THROWS_AS(append(down), precondition_error);
  REQUIRE_THROWS_WITH(append(too_many), ContainsSubstring("sequence 1 has 3 new rows, 2 keys"));
  REQUIRE_THROWS_WITH(
      attention::decode(cpu{}, op, ragged{rows, too_many}, paged{pages, table}, paged{pages, table}, out),
      ContainsSubstring("sequence 1 has 3 new rows, 2 keys"));
  for (const float x : pages) REQUIRE(x == 3.0f);
}

TEST_CASE("append: an idle slot of length 0 keeps its pages", "[attention]") {
  tensor<float, 4> rows(2, 2, 3, 8), k_pages(4, 2, 8, 8), v_pages(4, 2, 8, 8);
  rows.fill(1.0f);
  tensor<std::int32_t, 2> entries(2, 2);
  entries(0, 0) = 1, entries(1, 0) = -5, entries(1, 1) = 99;
  const std::vector<std::int32_t> lengths{3, 0};
  const attention::page_table table{entries, lengths};
  attention::append(cpu{}, attention::softmax{}, rows, rows, paged{k_pages, table}, paged{v_pages, table});
  for (index_t page = 0; page < 4; ++page)
    for (index_t i = 0; i < 8; ++i) REQUIRE(k_pages(page, 1, i, 5) == (page == 1 && i < 3 ? 1.0f : 0.0f));
}
