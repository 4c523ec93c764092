// SPDX-License-Identifier: Apache-2.0
// Two translation units with different instruction-set flags in one program: each runs its own code.
#include <arch/own_code.hpp>
#include <cmath>
#include <cstring>
#include <support/catch.hpp>

using namespace seqprim;

TEST_CASE("two translation units with different flags run their own code in one program", "[arch]") {
  const own_code a = run_in_a(), b = run_in_b();
  REQUIRE(std::strcmp(a.isa, "scalar") == 0);
  REQUIRE(std::strcmp(b.isa, SEQPRIM_SECOND_ISA) == 0);
  REQUIRE(a.ordered_sum == 0.0f);
  REQUIRE(b.ordered_sum == 1.0f);
  bool identical = true;
  for (index_t i = 0; i < a.out.size(); ++i) {
    REQUIRE(a.out.data()[i] == Approx(b.out.data()[i]).margin(2e-6));
    identical = identical && a.out.data()[i] == b.out.data()[i];
  }
  // Results rounded to bfloat16 may fall to either neighbor.
  for (index_t i = 0; i < a.more.size(); ++i) REQUIRE(a.more(i) == Approx(b.more(i)).epsilon(0.02).margin(0.02));
  REQUIRE_FALSE(identical);  // the same meaning, rounded in another order
}
