// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/causal.hpp>
#include <seqprim/mask/shifted_rows.hpp>
#include <seqprim/mask/sliding_window.hpp>

#include <mask/brute_force.hpp>

using namespace seqprim;
using namespace seqprim::test;

TEST_CASE("sliding_window: both reaches are inclusive", "[mask]") {
  const auto m = mask::shifted(mask::sliding_window{.left = 2, .right = 1}, 10);
  for (index_t k = 0; k < 30; ++k) {
    CAPTURE(k);
    REQUIRE(m(5, k) == (13 <= k && k <= 16));
  }
}

TEST_CASE("sliding_window: classify, runs and bounds agree with the element rule", "[mask][property]") {
  const auto left = GENERATE(as<index_t>{}, 0, 1, 9, 64, mask::unlimited);
  const auto right = GENERATE(as<index_t>{}, 0, 3, 70, mask::unlimited);
  const auto offset = GENERATE(as<index_t>{}, -40, 0, 34);
  CAPTURE(left, right, offset);
  require_exact(mask::shifted(mask::sliding_window{.left = left, .right = right}, offset), 67, 101);
}

TEST_CASE("sliding_window: without a limit to the left it is causal", "[mask]") {
  const auto m = mask::shifted(mask::sliding_window{.left = mask::unlimited}, 4);
  const auto c = mask::shifted(mask::causal{}, 4);
  for (index_t q = 0; q < 20; ++q)
    for (index_t k = 0; k < 30; ++k) REQUIRE(m(q, k) == c(q, k));
}

TEST_CASE("causal_window: a row sees `width` keys, its own the last", "[mask]") {
  const auto width = GENERATE(as<index_t>{}, 1, 2, 16);
  const auto m = mask::shifted(mask::causal_window(width), 20);
  index_t seen = 0;
  for (index_t k = 0; k < 60; ++k) seen += m(3, k);
  REQUIRE(seen == width);
  REQUIRE(m(3, 23));
  REQUIRE_FALSE(m(3, 24));
}

TEST_CASE("sliding_window: rejects a negative reach and one beyond unlimited", "[mask][errors]") {
  REQUIRE_THROWS_AS(mask::validate(mask::sliding_window{.left = -1}), precondition_error);
  REQUIRE_THROWS_AS(mask::validate(mask::sliding_window{.left = 0, .right = -2}), precondition_error);
  REQUIRE_THROWS_AS(mask::validate(mask::sliding_window{.left = mask::unlimited + 1}), precondition_error);
  REQUIRE_THROWS_AS(mask::validate(mask::sliding_window{.left = 0, .right = mask::unlimited + 1}), precondition_error);
  REQUIRE_THROWS_WITH(mask::validate(mask::causal_window(0)), ContainsSubstring("left (-1) must be >= 0"));
  REQUIRE_NOTHROW(mask::validate(mask::sliding_window{.left = 0, .right = mask::unlimited}));
}
