// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/mask/row_ranges.hpp>

#include <cstdint>
#include <mask/brute_force.hpp>
#include <support/catch.hpp>
#include <support/random.hpp>
#include <vector>

using namespace seqprim;

namespace {

struct ranges {
  std::vector<std::int64_t> begin, end;
};

ranges random_ranges(index_t queries, index_t longest) {
  test::random_numbers random(31);
  ranges result;
  for (index_t q = 0; q < queries; ++q) {
    result.begin.push_back(random.integer(-9, 100));
    result.end.push_back(result.begin.back() + random.integer(-3, longest));
  }
  return result;
}

}  // namespace

TEST_CASE("row_ranges: classify and bounds are exact for ranges in any order", "[mask][property]") {
  const auto longest = GENERATE(as<index_t>{}, 0, 4, 200);
  const ranges r = random_ranges(70, longest);
  const mask::row_ranges m{r.begin, r.end};
  test::require_exact(m, 70, 97);
  const auto key_bounds = mask::key_bounds(m, {10, 20}, 97);
  range expected{0, 0};
  for (std::size_t q = 10; q < 20; ++q)
    expected = bounding_range(expected, intersect(range{r.begin[q], r.end[q]}, {0, 97}));
  REQUIRE(((key_bounds.empty() && expected.empty()) || key_bounds == expected));
}

TEST_CASE("row_ranges: conjunctions keep one range per row, also with ordered ranges", "[mask][property]") {
  const ranges r = random_ranges(70, 30);
  const auto m = mask::row_ranges{r.begin, r.end} & mask::causal{};
  STATIC_REQUIRE(mask::one_range_per_row<std::remove_const_t<decltype(m)>>);
  STATIC_REQUIRE_FALSE(mask::ordered_ranges<std::remove_const_t<decltype(m)>>);
  test::require_sound(m, 70, 97);
  test::require_sound(~m, 70, 97);
}

TEST_CASE("row_ranges: a sequence may be cut where no range reaches across", "[mask]") {
  const std::vector<std::int32_t> begin(4, 0), end = {2, 1, 5, 4};
  const mask::row_ranges m{begin, end};
  REQUIRE(mask::may_cut(m, 0));
  REQUIRE_FALSE(mask::may_cut(m, 1));
  REQUIRE(mask::may_cut(m, 2));
  REQUIRE_FALSE(mask::may_cut(m, 3));
  REQUIRE_FALSE(mask::may_cut(m, 5));  // the arrays end
}

TEST_CASE("row_ranges: rejects arrays of unequal length and queries that they do not have", "[mask][errors]") {
  const std::vector<std::int32_t> three = {0, 0, 0}, four = {1, 2, 3, 4};
  REQUIRE_THROWS_WITH(mask::validate(mask::row_ranges{three, four}),
                      ContainsSubstring("mask::row_ranges: begin has 3 entries, end 4"));
  const mask::row_ranges m{four, four};
  mask::validate(m, {.q_len = 2, .k_len = 100, .start = 2});
  REQUIRE_THROWS_WITH(mask::validate(m, {.q_len = 2, .k_len = 100, .start = 3}),
                      ContainsSubstring("the table is for queries at [0, 4) but those of the call are at [3, 5)"));
  REQUIRE_THROWS_AS(mask::validate(m, {.q_len = 2, .k_len = 100, .start = -1}), precondition_error);
}
