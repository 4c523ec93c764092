// SPDX-License-Identifier: Apache-2.0
#include <position/functor_checks.hpp>
#include <support/catch.hpp>

TEST_CASE("positions: the checks that also run on the device pass on the host", "[position][property]") {
  REQUIRE(seqprim::test::all_position_faults() == 0);
}
