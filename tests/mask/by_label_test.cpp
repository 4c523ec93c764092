// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/mask.hpp>

#include <cstdint>
#include <mask/brute_force.hpp>
#include <numeric>
#include <support/catch.hpp>
#include <support/random.hpp>
#include <vector>

using namespace seqprim;

namespace {

constexpr index_t q_len = 83, k_len = 97;

std::vector<std::int32_t> random_labels(std::uint64_t seed, index_t least, index_t largest, index_t count = k_len) {
  test::random_numbers random(seed);
  std::vector<std::int32_t> result;
  for (index_t i = 0; i < count; ++i) result.push_back(static_cast<std::int32_t>(random.integer(least, largest)));
  return result;
}

/// The definition, beside what check() compares.
template <class M> void require_definition(const M& m) {
  bool same = true;
  for (index_t q = 0; q < q_len; ++q)
    for (index_t k = 0; k < k_len; ++k) same = same && m(q, k) == m.inner(m.queries(q), m.keys(k));
  REQUIRE(same);
  test::require_sound(m, q_len, k_len);
}

}  // namespace

TEST_CASE("by_label: sound for every inner mask, with labels of both signs", "[mask][property]") {
  using namespace mask::operators;
  const auto q_values = random_labels(11, -9, 30), k_values = random_labels(12, -9, 30);
  const mask::labels q_owner(q_values), k_owner(k_values);
  const auto with = [&](const auto& inner) {
    require_definition(mask::by_label{inner, q_owner.row(), k_owner.row()});
    require_definition(mask::by_label{inner, mask::own{}, k_owner.row()});
    require_definition(mask::by_label{inner, q_owner.row(), mask::own{}});
    require_definition(mask::by_label{inner, q_owner.row(), mask::residue_of{7}});
    require_definition(mask::by_label{inner, mask::blocks_of{5}, k_owner.row()});
  };
  with(mask::causal{});
  with(mask::shifted(mask::causal{}, -1));
  with(mask::sliding_window{.left = 3, .right = 1});
  with(mask::key_range{-2, 5});
  with(mask::query_range{-2, 5});
  with(mask::prefix{.length = 4});
  with(mask::attention_sinks{.sinks = 2, .window = 3});
  with(mask::causal{} & ~mask::key_range{3, 6});
  with(~mask::sliding_window{.left = 2} | mask::causal{});
  with(mask::where{[](index_t q, index_t k) { return (q + k) % 3 == 0; }});
  with(mask::transposed{mask::causal_window(5)});
}

TEST_CASE("by_label: classify is exact where labels fill their bounds", "[mask][property]") {
  const auto n = GENERATE(as<index_t>{}, 1, 2, 5, 16, 50, 120);
  CAPTURE(n);
  test::require_exact(mask::by_label{mask::causal{}, mask::blocks_of{n}, mask::blocks_of{n}}, q_len, k_len);
  test::require_exact(mask::by_label{mask::sliding_window{.left = 2}, mask::blocks_of{n}, mask::blocks_of{n}}, q_len,
                      k_len);
  test::require_exact(mask::by_label{mask::sliding_window{.left = 0}, mask::residue_of{n}, mask::residue_of{n}}, q_len,
                      k_len);
  test::require_exact(mask::by_label{mask::causal{}, mask::own{}, mask::shifted_by{-3}}, q_len, k_len);
  std::vector<std::int32_t> rank(k_len);
  std::iota(rank.begin(), rank.end(), 0);
  for (std::size_t i = 0; i < rank.size(); ++i) rank[i] = static_cast<std::int32_t>(37 * i % rank.size());
  const mask::labels ranks(rank);
  test::require_exact(mask::by_label{mask::causal{}, ranks.row(), ranks.row()}, q_len, k_len);
}

TEST_CASE("by_label: ordered key labels give ranges of keys, and ranges of labels always stand", "[mask]") {
  const mask::by_label chunks{mask::sliding_window{.left = 1}, mask::blocks_of{8}, mask::blocks_of{8}};
  STATIC_REQUIRE(mask::ordered_ranges<decltype(chunks)>);
  REQUIRE(chunks.visible_keys(17) == range{8, 24});
  const auto values = random_labels(13, 0, 9);
  const mask::labels owner(values);
  const mask::by_label ranked{mask::causal{}, owner.row(), owner.row()};
  STATIC_REQUIRE_FALSE(mask::one_range_per_row<decltype(ranked)>);
  REQUIRE(ranked.visible_labels(4).end == values[4] + 1);
  REQUIRE_THAT(mask::check(ranked, q_len, k_len).hints, ContainsSubstring("visible_labels, key_bounds, query_bounds"));
}

TEST_CASE("by_label: bounds of keys and queries are as tight as the labels allow", "[mask]") {
  std::vector<std::int32_t> values(k_len, 5);
  for (std::size_t i = 40; i < 60; ++i) values[i] = 1;
  const mask::labels owner(values);
  const mask::by_label same{mask::sliding_window{.left = 0}, owner.row(), owner.row()};
  REQUIRE(mask::key_bounds(same, {41, 50}, k_len) == range{40, 60});
  REQUIRE(mask::query_bounds(same, {41, 50}, index_t{k_len}) == range{40, 60});
  REQUIRE(mask::key_bounds(same, {41, 50}, 50) == range{40, 50});
}

TEST_CASE("by_label: labels and inner masks of a batch row", "[mask][property]") {
  tensor<std::int32_t, 2> values(3, k_len);
  test::random_numbers random(14);
  for (std::int32_t& x : values) x = static_cast<std::int32_t>(random.integer(0, 6));
  const mask::labels owner(values);
  const std::vector<std::int32_t> lengths = {1, 0, 4};
  const mask::by_label m{mask::prefix_per_batch{lengths}, owner.rows(), owner.rows()};
  STATIC_REQUIRE(mask::depends_on_batch_or_head<decltype(m)>);
  const mask::shape problem{.batch = 3, .heads = 2, .q_len = q_len, .k_len = k_len};
  REQUIRE(mask::check(m, problem).ok());
  bool same = true;
  for (index_t b = 0; b < 3; ++b)
    for (index_t q = 0; q < q_len; ++q)
      for (index_t k = 0; k < k_len; ++k)
        same = same && mask::bind(m, b, 1)(q, k) ==
                           (values(b, k) <= values(b, q) || values(b, k) < lengths[static_cast<std::size_t>(b)]);
  REQUIRE(same);
}

TEST_CASE("by_label: a sequence may be cut where no label before attends to a label behind", "[mask]") {
  // Two frames of 10 tokens, then text.
  std::vector<std::int32_t> frame(30);
  for (std::size_t i = 0; i < 30; ++i) frame[i] = static_cast<std::int32_t>(i < 20 ? i / 10 : i);
  const mask::labels owner(frame);
  const mask::by_label m{mask::causal{}, owner.row(), owner.row()};
  for (index_t c = 0; c <= 30; ++c) REQUIRE(mask::may_cut(m, c) == (c % 10 == 0 || c > 20));
  REQUIRE_FALSE(mask::may_cut(m, 31));  // there are no labels
  const mask::by_label rows{mask::causal{}, owner.rows(), owner.rows()};
  REQUIRE(mask::may_cut(rows, 4, 2, 20));
  REQUIRE_FALSE(mask::may_cut(rows, 4, 2, 19));
}

TEST_CASE("by_label: refuses tokens without labels, wherever the queries are", "[mask][errors]") {
  const auto values = random_labels(15, 0, 5, 20);
  const mask::labels owner(values);
  const mask::by_label m{mask::causal{}, owner.row(), owner.row()};
  mask::validate(m, {.q_len = 20, .k_len = 20});
  mask::validate(m, {.q_len = 5, .k_len = 20, .start = 15});
  REQUIRE_THROWS_WITH(mask::validate(m, {.q_len = 5, .k_len = 20, .start = 16}),
                      "mask::by_label: the table is for queries at [0, 20) but those of the call are at [16, 21); "
                      "softmax::starting_at says where they are. See docs/reference/mask/by_label.md");
  REQUIRE_THROWS_WITH(mask::validate(m, {.q_len = 5, .k_len = 20, .start = -1}), ContainsSubstring("are at [-1, 4)"));
  REQUIRE_THROWS_WITH(mask::validate(m, {.q_len = 5, .k_len = 21}),
                      ContainsSubstring("the table is for 20 keys but k_len is 21"));
  const mask::by_label rows{mask::causal{}, mask::own{}, owner.rows()};
  REQUIRE_THROWS_AS(mask::validate(rows, {.batch = 4, .q_len = 30, .k_len = 21}), precondition_error);
  mask::validate(rows, {.batch = 4, .q_len = 30, .k_len = 20});
  const mask::labels two(2, 8);
  REQUIRE_THROWS_WITH(mask::validate(mask::by_label{mask::causal{}, mask::own{}, two.rows()}, {.batch = 3}),
                      ContainsSubstring("2 rows of labels for 3 batch rows"));
  REQUIRE_THROWS_AS(mask::validate(mask::by_label{mask::causal{}, mask::blocks_of{0}, mask::own{}}),
                    precondition_error);
}

TEST_CASE("by_label: an inner mask that reads a table must have the labels", "[mask][errors]") {
  tensor<bool, 2> allowed(4, 4);  // between segments
  for (index_t i = 0; i < 4; ++i) allowed(i, 3 - i) = true;
  const mask::dense table{.visible = allowed.view()};
  const std::vector<std::int32_t> inside = {0, 1, 2, 3, 3}, outside = {0, 1, 2, 3, 4};
  const mask::labels segments(inside), wrong(outside);
  const mask::by_label m{table, segments.row(), segments.row()};
  mask::validate(m, {.q_len = 5, .k_len = 5});
  test::require_sound(m, 5, 5);
  REQUIRE(m(0, 4));
  const mask::shape problem{.batch = 2, .q_len = 5, .k_len = 5};
  REQUIRE_THROWS_WITH(mask::validate(mask::by_label{table, wrong.row(), segments.row()}, problem),
                      ContainsSubstring("mask::dense: the table is for queries at [0, 4)"));
  REQUIRE_THROWS_WITH(mask::validate(mask::by_label{table, segments.rows(), wrong.rows()}, problem),
                      ContainsSubstring("mask::dense: the table is for 4 keys but k_len is 5"));
}
