// SPDX-License-Identifier: Apache-2.0
#include <score/functor_checks.hpp>
#include <support/catch.hpp>

TEST_CASE("scores: the checks that also run on the device pass on the host", "[score][property]") {
  REQUIRE(seqprim::test::all_score_faults() == 0);
}
