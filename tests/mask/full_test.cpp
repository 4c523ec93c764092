// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/full.hpp>

#include <mask/brute_force.hpp>

using namespace seqprim;
using namespace seqprim::test;

TEST_CASE("full: every tile is full", "[mask][property]") { require_exact(mask::full{}, 97, 131); }

TEST_CASE("full: bounds are everything", "[mask]") {
  REQUIRE(mask::key_bounds(mask::full{}, {3, 4}, 131) == range{0, 131});
  REQUIRE(mask::query_bounds(mask::full{}, {3, 4}, 97) == range{0, 97});
}
