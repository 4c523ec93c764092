// SPDX-License-Identifier: Apache-2.0
#include <mask/functor_checks.hpp>
#include <support/catch.hpp>

using namespace seqprim;

TEST_CASE("masks: the checks that also run on the device pass on the host", "[mask][property]") {
  const auto q_tile = GENERATE(as<index_t>{}, 1, 4, 7, 16);
  const auto k_tile = GENERATE(as<index_t>{}, 1, 5, 8, 16);
  CAPTURE(q_tile, k_tile);
  REQUIRE(test::all_mask_faults(q_tile, k_tile) == 0);
}

TEST_CASE("masks: they work in constant expressions", "[mask]") { STATIC_REQUIRE(test::all_mask_faults(4, 5) == 0); }
