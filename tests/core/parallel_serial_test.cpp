// SPDX-License-Identifier: Apache-2.0
#if defined(_OPENMP)
#  error "this file must be compiled without OpenMP"
#endif
#include "parallel_cases.hpp"

TEST_CASE("parallel_for: without OpenMP there is one thread", "[core]") {
  REQUIRE(thread_count(cpu{.threads = 8}) == 1);
}
