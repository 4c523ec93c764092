// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/mask.hpp>

#include <array>
#include <cstdint>
#include <mask/brute_force.hpp>
#include <support/random.hpp>
#include <vector>

using namespace seqprim;
using namespace seqprim::test;

namespace {

struct sequences {
  std::vector<std::int32_t> q{0};
  std::vector<std::int64_t> k{0};

  [[nodiscard]] packing with(alignment align) const { return {q, k, align}; }
};

/// Sequences of 0 to `longest` tokens; a third of them with as many queries as keys.
sequences random_sequences(random_numbers& random, int count, index_t longest) {
  sequences s;
  for (int d = 0; d < count; ++d) {
    const index_t queries = random.integer(0, 4) == 0 ? 0 : random.integer(0, longest);
    const index_t keys = random.integer(0, 2) == 0 ? queries : random.integer(0, longest);
    s.q.push_back(s.q.back() + static_cast<std::int32_t>(queries));
    s.k.push_back(s.k.back() + keys);
  }
  return s;
}

/// The definition, sequence by sequence: `inner(d)` with rows and columns counted from the start of sequence d.
template <class M, class Inner>
void require_definition(const M& m, const sequences& s, alignment align, const Inner& inner) {
  for (std::size_t dq = 0; dq + 1 < s.q.size(); ++dq)
    for (index_t q = s.q[dq]; q < s.q[dq + 1]; ++q)
      for (std::size_t dk = 0; dk + 1 < s.k.size(); ++dk)
        for (index_t k = s.k[dk]; k < s.k[dk + 1]; ++k) {
          const index_t shift = align == alignment::top_left ? 0 : (s.k[dk + 1] - s.k[dk]) - (s.q[dq + 1] - s.q[dq]);
          const bool expected = dq == dk && inner(dq)(q - s.q[dq] + shift, k - s.k[dk]);
          if (m(q, k) != expected) {
            CAPTURE(q, k, dq, dk);
            REQUIRE(m(q, k) == expected);
          }
        }
  SUCCEED();
}

}  // namespace

TEST_CASE("packed: a query sees what the inner mask shows it within its own sequence", "[mask][property]") {
  const auto align = GENERATE(alignment::bottom_right, alignment::top_left);
  random_numbers random(31);
  for (int trial = 0; trial < 6; ++trial) {
    const sequences s = random_sequences(random, 1 + 3 * trial, 24);
    const packing p = s.with(align);
    const auto check = [&](const auto& inner) {
      const mask::packed m{p, inner};
      require_definition(m, s, align, [&](std::size_t) { return inner; });
      if (p.q_len() > 0 && p.k_len() > 0) require_exact(m, p.q_len(), p.k_len());
    };
    CAPTURE(trial, p.q_len(), p.k_len());
    check(mask::full{});
    check(mask::causal{});
    check(mask::shifted(mask::causal{}, 2));
    check(mask::causal_window(5));
    check(mask::sliding_window{.left = 3, .right = 6});
    check(mask::shifted(mask::sliding_window{.left = mask::unlimited, .right = 1}, -1));
    check(mask::attention_sinks{.sinks = 2, .window = 4});
    check(mask::causal{} & mask::causal_window(7));
  }
}

TEST_CASE("packed: compositions inside and outside are sound", "[mask][property]") {
  random_numbers random(32);
  const sequences s = random_sequences(random, 9, 20);
  const mask::packed causal{s.with(alignment::bottom_right), mask::causal{}};
  const auto inner = mask::causal{} & ~mask::key_range{2, 5};
  const mask::packed thinned{s.with(alignment::bottom_right), inner};
  require_definition(thinned, s, alignment::bottom_right, [&](std::size_t) { return inner; });
  const index_t q_len = s.q.back(), k_len = s.k.back();
  require_sound(thinned, q_len, k_len);
  require_sound(causal | mask::key_range{0, 3}, q_len, k_len);
  require_sound(causal & ~mask::key_range{10, 30}, q_len, k_len);
  require_sound(~causal, q_len, k_len);
}

TEST_CASE("packed: an inner mask that depends on the batch row gets the sequence", "[mask][property]") {
  const auto align = GENERATE(alignment::bottom_right, alignment::top_left);
  random_numbers random(33);
  const sequences s = random_sequences(random, 12, 15);
  std::vector<std::int32_t> lengths;
  for (std::size_t d = 0; d + 1 < s.k.size(); ++d)
    lengths.push_back(static_cast<std::int32_t>(random.integer(0, s.k[d + 1] - s.k[d])));
  const mask::prefix_per_batch prefixes{.lengths = lengths};
  const mask::packed m{s.with(align), prefixes};
  STATIC_REQUIRE(mask::depends_on_batch_or_head<decltype(m)>);
  STATIC_REQUIRE(mask::one_range_per_row<mask::bound<decltype(m)>>);
  mask::validate(m, {.q_len = s.q.back(), .k_len = s.k.back()});
  require_definition(mask::bind(m, 0, 0), s, align, [&](std::size_t d) { return mask::prefix{.length = lengths[d]}; });
  require_exact(mask::bind(m, 0, 3), s.q.back(), s.k.back());
}

TEST_CASE("packed: with one array on both sides it is documents", "[mask]") {
  const std::vector<std::int32_t> offsets = {0, 13, 14, 54, 61, 90};
  const mask::packed m{packing{offsets, offsets}, mask::causal_window(9)};
  const auto same = mask::documents(offsets) & mask::causal_window(9);
  for (index_t q = 0; q < 90; ++q)
    for (index_t k = 0; k < 90; ++k)
      if (m(q, k) != same(q, k)) REQUIRE(m(q, k) == same(q, k));
  const auto a = mask::count_tiles(m, 90, 90, 16, 8), b = mask::count_tiles(same, 90, 90, 16, 8);
  REQUIRE((a.empty == b.empty && a.full == b.full && a.partial == b.partial));
}

TEST_CASE("packed: windows of neighboring sequences leave the keys between them empty", "[mask]") {
  // One query for each of 64 caches of 1000 keys: two runs of 10 keys are far apart, and what lies between is skipped.
  std::vector<std::int32_t> q(65), k(65);
  for (int d = 0; d <= 64; ++d) {
    q[static_cast<std::size_t>(d)] = d;
    k[static_cast<std::size_t>(d)] = 1000 * d;
  }
  const mask::packed m{packing{q, k}, mask::causal_window(10)};
  REQUIRE(mask::count_tiles(m, 64, 64000, 64, 100).visited() == 64);
  REQUIRE(mask::key_bounds(m, {5, 7}, 64000) == range{5990, 7000});
  REQUIRE(mask::query_bounds(m, {5990, 6100}, 64) == range{5, 6});
}

TEST_CASE("packed: a composition inside is the composition of the packed parts", "[mask][property]") {
  random_numbers random(34);
  for (const alignment align : {alignment::bottom_right, alignment::top_left}) {
    const sequences s = random_sequences(random, 9, 20);
    const auto check = [&](const auto& inner) {
      const mask::packed m{s.with(align), inner};
      const auto parts = m.composition();
      bool same = true;
      for (index_t q = 0; q < s.q.back(); ++q)
        for (index_t k = 0; k < s.k.back(); ++k) same = same && m(q, k) == parts(q, k);
      REQUIRE(same);
    };
    check(mask::attention_sinks{.sinks = 2, .window = 4});
    check(mask::causal{} & ~mask::key_range{2, 5});
    check(~mask::causal{});
    check((mask::causal_window(3) | mask::key_range{0, 2}) & mask::causal{});
  }
}

TEST_CASE("packed: the queries of a sequence are a group, in compositions and shifted too", "[mask]") {
  const std::vector<std::int32_t> offsets = {0, 100, 100, 350};
  const auto require = [](const auto& m, index_t q, index_t end, range keys) {
    const mask::row_group group = mask::group_at(m, q);
    CAPTURE(q, group.end, group.keys.begin, group.keys.end);
    REQUIRE(group.end == end);
    REQUIRE((group.keys == keys || (group.keys.empty() && keys.empty())));
  };
  const mask::packed m{packing{offsets, offsets}, mask::causal{}};
  require(m, 0, 100, {0, 100});
  require(m, 99, 100, {0, 100});
  require(m, 100, 350, {100, 350});
  require(m, -5, 0, {0, 0});
  require(m & mask::causal_window(20), 120, 350, {100, 350});
  require(mask::documents(offsets) & mask::key_range{50, 70}, 3, 100, {0, 100});
  require(m | mask::packed{packing{offsets, offsets}, mask::full{}}, 3, 100, {0, 100});
  require(mask::shifted(m, -7), 3, 7, {0, 0});
  require(mask::shifted(m, -7), 7, 107, {0, 100});
  require(m | mask::causal{}, 3, mask::unlimited, mask::everywhere);  // causal knows no groups
}

TEST_CASE("packed: rejects offsets that do not fit the call and inner masks that do not fit a sequence",
          "[mask][errors]") {
  const std::vector<std::int32_t> q = {0, 7, 7, 30}, k = {0, 19, 40, 63}, down = {0, 20, 19, 30};
  REQUIRE_THROWS_AS(mask::validate(mask::packed{packing{down, k}, mask::causal{}}), precondition_error);
  REQUIRE_THROWS_WITH(mask::validate(mask::packed{packing{q, k}, mask::sliding_window{.left = -1}}),
                      ContainsSubstring("left (-1)"));
  const mask::packed m{packing{q, k}, mask::prefix{.length = 19}};
  REQUIRE_NOTHROW(mask::validate(m, {.q_len = 30, .k_len = 63}));
  REQUIRE_THROWS_WITH(mask::validate(m, {.q_len = 29, .k_len = 63}), ContainsSubstring("but q_len is 29"));
  REQUIRE_THROWS_WITH(
      mask::validate(mask::packed{packing{q, k}, mask::prefix{.length = -1}}, {.q_len = 30, .k_len = 63}),
      ContainsSubstring("length (-1)"));
  const std::vector<std::int32_t> two = {1, 2};
  REQUIRE_THROWS_WITH(
      mask::validate(mask::packed{packing{q, k}, mask::prefix_per_batch{.lengths = two}}, {.q_len = 30, .k_len = 63}),
      ContainsSubstring("lengths has 2 entries but there are 3"));
}

TEST_CASE("packed: an inner table must have the positions that the sequences ask it for", "[mask][errors]") {
  tensor<bool, 2> pairs(8, 8);
  pairs.fill(true);
  const auto dense = [&](index_t rows, index_t columns) {
    return mask::dense{pairs.view().slice(0, {0, rows}).slice(1, {0, columns})};
  };
  const std::vector<index_t> two{0, 2}, six{0, 6}, eight{0, 8};
  // Two queries behind a cache of six: their positions are 6 and 7.
  const packing decoding{two, eight};
  REQUIRE_THROWS_WITH(
      mask::validate(mask::packed{decoding, dense(2, 8)}, {.q_len = 2, .k_len = 8}),
      ContainsSubstring("mask::dense: the table is for queries at [0, 2) but those of the call are at [6, 8)"));
  const mask::where every{[](index_t q, index_t k) { return (q + k) % 2 == 0; }};
  const mask::block_grid small(cpu{}, every, 2, 8, 1, 4), whole(cpu{}, every, 8, 8, 1, 4);
  REQUIRE_THROWS_WITH(mask::validate(mask::packed{decoding, small.over(every)}, {.q_len = 2, .k_len = 8}),
                      ContainsSubstring("those of the call are at [6, 8)"));
  require_sound(mask::packed{decoding, dense(8, 8)}, 2, 8);
  require_sound(mask::packed{decoding, whole.over(every)}, 2, 8);
  // More queries than keys: positions below 0, unless the first query is at the first key.
  REQUIRE_THROWS_WITH(mask::validate(mask::packed{packing{six, two}, dense(6, 2)}, {.q_len = 6, .k_len = 2}),
                      ContainsSubstring("those of the call are at [-4, 2)"));
  require_sound(mask::packed{packing{six, two, alignment::top_left}, dense(6, 2)}, 6, 2);
}

TEST_CASE("packed: no sequence at all", "[mask][edge]") {
  const std::int32_t zeros[] = {0, 0};  // one is used; g++ warns of a read behind it that it cannot rule out
  const index_array none(zeros, 1);
  const mask::packed m{packing{none, none}, mask::causal{}};
  REQUIRE_NOTHROW(mask::validate(m, {.q_len = 0, .k_len = 0}));
  REQUIRE_FALSE(m(0, 0));
  REQUIRE(mask::key_bounds(m, {0, 1}, 0).empty());
}
