// SPDX-License-Identifier: Apache-2.0
// Units with and without -ffast-math share no code: it does not matter which the linker meets first.
#include "fast_math_unit.hpp"

#include <support/catch.hpp>

namespace {

void require_none(const leaked_nans& leaked) {
  CAPTURE(leaked.out, leaked.decoded, leaked.dq, leaked.dk, leaked.dv);
  REQUIRE(leaked.out + leaked.decoded + leaked.dq + leaked.dk + leaked.dv == 0);
}

}  // namespace

TEST_CASE("attention: hidden NaN reaches no result of a strict unit next to one with -ffast-math", "[attention]") {
  require_none(run_strict_float());
  require_none(run_strict_bfloat16());
}
