// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/key_range.hpp>
#include <seqprim/mask/query_range.hpp>
#include <seqprim/mask/transposed.hpp>

#include <mask/brute_force.hpp>
#include <support/catch.hpp>

using namespace seqprim;

TEST_CASE("query_range: classify, range and bounds are exact", "[mask][property]") {
  const auto begin = GENERATE(as<index_t>{}, -5, 0, 13, 60);
  const auto size = GENERATE(as<index_t>{}, 0, 1, 20, 100);
  const mask::query_range m{begin, begin + size};
  test::require_exact(m, 53, 40);
  test::require_exact(~m, 53, 40);
  for (index_t q = -3; q < 50; ++q) REQUIRE(m(q, 7) == (begin <= q && q < begin + size));
}

TEST_CASE("query_range: the same as the transposed range of keys", "[mask][property]") {
  const mask::transposed columns{mask::key_range{7, 30}};
  const mask::query_range rows{7, 30};
  test::require_exact(columns, 53, 40);
  for (index_t q = 0; q < 53; ++q) REQUIRE(columns(q, 3) == rows(q, 3));
}

TEST_CASE("query_range: a rectangle with a range of keys", "[mask][property]") {
  using namespace mask::operators;
  test::require_exact(mask::query_range{10, 30} & mask::key_range{5, 25}, 53, 40);
  test::require_sound(~(mask::query_range{10, 30} & mask::key_range{5, 25}), 53, 40);
}

TEST_CASE("query_range: rejects an end before its begin", "[mask][errors]") {
  mask::validate(mask::query_range{3, 3});
  REQUIRE_THROWS_WITH(mask::validate(mask::query_range{3, 2}),
                      "mask::query_range: begin (3) must be <= end (2). See docs/reference/mask/query_range.md");
}
