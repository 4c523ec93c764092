// SPDX-License-Identifier: Apache-2.0
// The operator places the queries: one value serves a whole sequence, pieces of it, single tokens, pages and packed batches.
#include <seqprim/attention/attention.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/position/position.hpp>
#include <seqprim/score/score.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <support/catch.hpp>
#include <support/random.hpp>
#include <vector>

using namespace seqprim;
using test::random_numbers;

namespace {

constexpr index_t heads = 4, kv_heads = 2, dim = 16, len = 83;
constexpr double tolerance = 2e-6;

struct sequence {
  tensor<float, 4> q{1, heads, len, dim}, k{1, kv_heads, len, dim}, v{1, kv_heads, len, dim};

  explicit sequence(random_numbers& random) {
    random.fill(q);
    random.fill(k);
    random.fill(v);
  }
};

template <class A, class B> double difference(const A& a, const B& b) {
  double largest = 0;
  const auto x = as_view(a);
  const auto y = as_view(b);
  for (index_t n = 0; n < x.extent(0); ++n)
    for (index_t h = 0; h < x.extent(1); ++h)
      for (index_t i = 0; i < x.extent(2); ++i)
        for (index_t d = 0; d < x.extent(3); ++d)
          largest =
              std::fmax(largest, std::fabs(static_cast<double>(x(n, h, i, d)) - static_cast<double>(y(n, h, i, d))));
  return largest;
}

/// The rows of `op` over the whole sequence are those of every other way to compute them.
template <class Op> void require_one_value(const Op& op) {
  random_numbers random(71);
  sequence s(random);
  tensor<float, 4> whole(1, heads, len, dim);
  attention::forward(cpu{}, op, s.q, s.k, s.v, whole);

  // Prefill in pieces: the last query of each piece is at the last key that is there.
  tensor<float, 4> pieces(1, heads, len, dim);
  for (const range part : {range{0, 7}, range{7, 40}, range{40, 41}, range{41, len}})
    attention::forward(cpu{}, op, s.q.view().slice(2, part), s.k.view().slice(2, {0, part.end}),
                       s.v.view().slice(2, {0, part.end}), pieces.view().slice(2, part));
  REQUIRE(difference(whole, pieces) <= tolerance);

  // Decoding one by one against a cache that append fills.
  tensor<float, 4> k_cache(1, kv_heads, len, dim), v_cache(1, kv_heads, len, dim), steps(1, heads, len, dim);
  for (index_t n = 0; n < len; ++n) {
    const range token{n, n + 1}, filled{0, n + 1};
    attention::append(cpu{}, op, s.k.view().slice(2, token), s.v.view().slice(2, token), n, k_cache, v_cache);
    attention::decode(cpu{}, op, s.q.view().slice(2, token), k_cache.view().slice(2, filled),
                      v_cache.view().slice(2, filled), steps.view().slice(2, token));
  }
  REQUIRE(difference(whole, steps) <= tolerance);

  // Pages of three sequences of unequal length, three new tokens each; the sequences are beginnings of the one above.
  const std::vector<std::int32_t> lengths{len, 5, 61};
  const index_t page_size = 8, new_len = 3;
  tensor<std::int32_t, 2> entries(3, (len + page_size - 1) / page_size);
  std::int32_t page = 0;
  for (std::int32_t& entry : entries) entry = page++;
  tensor<float, 4> k_pages(entries.size(), kv_heads, page_size, dim), v_pages(entries.size(), kv_heads, page_size, dim);
  tensor<float, 4> q_new(3, heads, new_len, dim), out_new(3, heads, new_len, dim);
  const auto copy = [](const auto& from, const auto& to) {
    for (index_t h = 0; h < from.extent(1); ++h)
      for (index_t i = 0; i < from.extent(2); ++i)
        for (index_t d = 0; d < dim; ++d) to(0, h, i, d) = from(0, h, i, d);
  };
  for (index_t b = 0; b < 3; ++b) {
    const index_t length = lengths[static_cast<std::size_t>(b)];
    const attention::page_table own{entries.view().slice(0, {b, b + 1}),
                                    index_array(&lengths[static_cast<std::size_t>(b)], 1)};
    attention::append(cpu{}, op, s.k.view().slice(2, {0, length}), s.v.view().slice(2, {0, length}),
                      attention::paged{k_pages, own}, attention::paged{v_pages, own});
    copy(s.q.view().slice(2, {length - new_len, length}), q_new.view().slice(0, {b, b + 1}));
  }
  const attention::page_table table{entries, lengths};
  attention::decode(cpu{}, op, q_new, attention::paged{k_pages, table}, attention::paged{v_pages, table}, out_new);
  for (index_t b = 0; b < 3; ++b) {
    const index_t length = lengths[static_cast<std::size_t>(b)];
    REQUIRE(difference(whole.view().slice(2, {length - new_len, length}), out_new.view().slice(0, {b, b + 1})) <=
            tolerance);
  }

  if constexpr (!position::is_placed<std::remove_cvref_t<decltype(op.position)>>) {  // those have maps of their own
    // Packed: the last tokens of the same sequences behind their keys, in one row.
    const std::vector<std::int32_t> q_offsets{0, 3, 6, 9}, k_offsets{0, len, len + 5, len + 5 + 61};
    tensor<float, 4> q_packed(1, heads, 9, dim), k_packed(1, kv_heads, len + 66, dim),
        v_packed(1, kv_heads, len + 66, dim), out_packed(1, heads, 9, dim);
    for (std::size_t b = 0; b < 3; ++b) {
      const index_t length = lengths[b];
      copy(s.q.view().slice(2, {length - 3, length}), q_packed.view().slice(2, {q_offsets[b], q_offsets[b + 1]}));
      copy(s.k.view().slice(2, {0, length}), k_packed.view().slice(2, {k_offsets[b], k_offsets[b + 1]}));
      copy(s.v.view().slice(2, {0, length}), v_packed.view().slice(2, {k_offsets[b], k_offsets[b + 1]}));
    }
    attention::forward(cpu{}, op.packed(packing{q_offsets, k_offsets}), q_packed, k_packed, v_packed, out_packed);
    for (std::size_t b = 0; b < 3; ++b) {
      const index_t length = lengths[b];
      REQUIRE(difference(whole.view().slice(2, {length - 3, length}),
                         out_packed.view().slice(2, {q_offsets[b], q_offsets[b + 1]})) <= tolerance);
    }
  }

  // Said by hand: rows anywhere in the sequence, for all batch rows or for each.
  tensor<float, 4> middle(1, heads, 10, dim);
  attention::forward(cpu{}, op.starting_at(30), s.q.view().slice(2, {30, 40}), s.k, s.v, middle);
  REQUIRE(difference(whole.view().slice(2, {30, 40}), middle) <= tolerance);
  const std::vector<index_t> starts{30};
  attention::forward(cpu{}, op.starting_at(starts), s.q.view().slice(2, {30, 40}), s.k, s.v, middle);
  REQUIRE(difference(whole.view().slice(2, {30, 40}), middle) <= tolerance);
}

}  // namespace

TEST_CASE("softmax: one value serves the whole sequence, pieces, decoding, pages and packed batches",
          "[attention][property]") {
  const position::rotary<position::half_split> rope{.rotary_dim = dim};
  SECTION("causal") { require_one_value(attention::softmax{mask::causal{}}); }
  SECTION("causal with ALiBi and rotary") {
    require_one_value(attention::softmax{mask::causal{}, score::alibi{.heads = heads}, rope});
  }
  SECTION("a window with sinks, soft cap and rotary") {
    require_one_value(
        attention::softmax{mask::attention_sinks{.sinks = 2, .window = 20}, score::soft_cap{.cap = 5}, rope});
  }
  SECTION("a composition") {
    require_one_value(attention::softmax{mask::causal{} & ~mask::key_range{3, 11}, score::alibi{.heads = heads}});
  }
}

TEST_CASE("softmax: a query of decode sees its whole cache, not key 0 alone", "[attention]") {
  random_numbers random(72);
  sequence s(random);
  const position::rotary<position::half_split> rope{.rotary_dim = dim};
  const attention::softmax op{mask::causal{}, score::identity{}, rope};
  tensor<float, 4> one(1, heads, 1, dim), all(1, heads, 1, dim);
  const auto last = s.q.view().slice(2, {len - 1, len});
  attention::decode(cpu{}, op, last, s.k, s.v, one);
  attention::decode(cpu{}, attention::softmax{mask::full{}, score::identity{}, rope}, last, s.k, s.v, all);
  REQUIRE(difference(one, all) <= tolerance);
  attention::decode(cpu{}, op.starting_at(0), last, s.k, s.v, one);
  for (index_t h = 0; h < heads; ++h)
    for (index_t d = 0; d < dim; ++d) REQUIRE(std::fabs(one(0, h, 0, d) - s.v(0, h / 2, 0, d)) <= 1e-6f);
}

TEST_CASE("softmax: key ids of a placed encoding count tokens of the cache, not rows of a call", "[attention]") {
  random_numbers random(73);
  sequence s(random);
  std::vector<index_t> ids;
  for (index_t n = 0; n < len; ++n) ids.push_back(3 * n + n % 5);
  const position::rotary<position::half_split> rope{.rotary_dim = dim};
  require_one_value(attention::softmax{mask::causal{}, score::identity{},
                                       position::placed{rope, position::token_ids{ids}, position::token_ids{ids}}});
}

TEST_CASE("softmax: starting positions for too few batch rows, and parts that place queries differently, are refused",
          "[attention][errors]") {
  tensor<float, 4> q(2, 2, 3, 8), k(2, 2, 5, 8), out(2, 2, 3, 8);
  const std::vector<index_t> one{0};
  REQUIRE_THROWS_WITH(attention::forward(cpu{}, attention::softmax{mask::causal{}}.starting_at(one), q, k, k, out),
                      ContainsSubstring("1 starting positions for 2 batch rows"));
  tensor<bool, 2> visible(3, 5);
  const attention::softmax mixed{mask::dense{visible.view()} & mask::causal{}};
  REQUIRE_THROWS_WITH(attention::forward(cpu{}, mixed, q, k, k, out), ContainsSubstring("starting_at"));
  const attention::softmax causal{mask::causal{}};
  REQUIRE_THROWS_WITH(attention::forward(cpu{}, causal.starting_at(std::numeric_limits<index_t>::max()), q, k, k, out),
                      ContainsSubstring("position 9223372036854775807, which must be in [-2^62, 2^62]"));
  REQUIRE_NOTHROW(attention::forward(cpu{}, mixed.starting_at(0), q, k, k, out));
  REQUIRE_NOTHROW(attention::forward(cpu{}, attention::softmax{mask::dense{visible.view()}}, q, k, k, out));
  REQUIRE_THROWS_AS(
      attention::forward(cpu{}, attention::softmax{mask::dense{visible.view()}}.starting_at(1), q, k, k, out),
      precondition_error);
}
