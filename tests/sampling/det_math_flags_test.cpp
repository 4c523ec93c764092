// SPDX-License-Identifier: Apache-2.0
// Compiled with each instruction set, with contraction into fused multiply-adds allowed, and with -ffast-math.
#include "det_math_golden.hpp"

// Sanitizers keep the product apart, so that there is nothing to fuse.
#if defined(__FMA__) && defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__)
TEST_CASE("det_math: the flags of this program do change a loop that does not defend itself", "[sampling]") {
  int changed = 0;
  for (std::uint32_t word = 1; word < 1000; ++word) {
    volatile float x = 1.0f / static_cast<float>(word), y = 1.0f / static_cast<float>(word + 777);
    volatile float product = x * y;
    changed += x * y - product != 0.0f;  // read anew and fused, this is what rounding the product lost
  }
  REQUIRE(changed > 0);
}
#endif
