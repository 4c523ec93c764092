// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/key_range.hpp>

#include <mask/brute_force.hpp>

using namespace seqprim;
using namespace seqprim::test;

TEST_CASE("key_range: classify, runs and bounds agree with the element rule", "[mask][property]") {
  const auto m = GENERATE(mask::key_range{0, 0}, mask::key_range{0, 23}, mask::key_range{5, 5}, mask::key_range{7, 60},
                          mask::key_range{60, 101}, mask::key_range{-4, 300});
  CAPTURE(m.begin, m.end);
  require_exact(m, 67, 101);
  require_exact(~m, 67, 101);
}

TEST_CASE("key_range: its inverse removes columns from any mask", "[mask]") {
  const auto m = mask::causal{} & ~mask::key_range{0, 6};
  for (index_t q = 0; q < 30; ++q)
    for (index_t k = 0; k < 30; ++k) REQUIRE(m(q, k) == (k <= q && k >= 6));
  REQUIRE(empty_row(m, 5, 30));
  REQUIRE(mask::key_bounds(m, {0, 30}, 30).begin == 6);
}

TEST_CASE("key_range: rejects an end before its begin", "[mask][errors]") {
  REQUIRE_THROWS_WITH(mask::validate(mask::key_range{5, 4}), ContainsSubstring("begin (5) must be <= end (4)"));
  REQUIRE_NOTHROW(mask::validate(mask::key_range{5, 5}));
}
