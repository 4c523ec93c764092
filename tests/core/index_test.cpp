// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/index.hpp>

#include <limits>
#include <support/catch.hpp>

using namespace seqprim;

TEST_CASE("range: size, empty, contains, intersect and bounds agree with sets of integers", "[core][property]") {
  const auto has = [](range r, index_t i) { return r.begin <= i && i < r.end; };
  for (index_t ab = -2; ab < 4; ++ab)
    for (index_t ae = -2; ae < 4; ++ae)
      for (index_t bb = -2; bb < 4; ++bb)
        for (index_t be = -2; be < 4; ++be) {
          const range a{ab, ae}, b{bb, be};
          const range both = intersect(a, b), either = bounding_range(a, b);
          index_t size = 0;
          index_t lowest = 99, highest = -99;
          CAPTURE(ab, ae, bb, be);
          for (index_t i = -3; i < 5; ++i) {
            size += has(a, i);
            REQUIRE(a.contains(i) == has(a, i));
            REQUIRE(both.contains(i) == (has(a, i) && has(b, i)));
            if (has(a, i) || has(b, i)) lowest = min(lowest, i), highest = max(highest, i);
          }
          REQUIRE(a.size() == size);
          REQUIRE(a.empty() == (size == 0));
          if (lowest <= highest) {
            REQUIRE(either == range{lowest, highest + 1});
          } else {
            REQUIRE(either.empty());
          }
        }
}

TEST_CASE("ceil_div and round_up: the smallest that is enough, up to the largest index", "[core][property]") {
  for (index_t a = 0; a < 50; ++a)
    for (index_t b = 1; b < 12; ++b) {
      const index_t n = ceil_div(a, b);
      REQUIRE(n * b >= a);
      REQUIRE((n - 1) * b < a);
      REQUIRE(round_up(a, b) == n * b);
    }
  constexpr index_t largest = std::numeric_limits<index_t>::max();
  REQUIRE(ceil_div(largest, 1) == largest);
  REQUIRE(ceil_div(largest, largest) == 1);
  REQUIRE(ceil_div(largest, 2) == largest / 2 + 1);
}

TEST_CASE("min and max: equal operands give the first", "[core]") {
  STATIC_REQUIRE(min<index_t>(3, -2) == -2);
  STATIC_REQUIRE(max<index_t>(3, -2) == 3);
  STATIC_REQUIRE(min(2.0f, 2.0f) == 2.0f);
}
