// SPDX-License-Identifier: Apache-2.0
#include "parallel_cases.hpp"

int threads_without_openmp(int asked);  // parallel_without_openmp.cpp

TEST_CASE("parallel_for: translation units with and without OpenMP live in one program", "[core]") {
  REQUIRE(threads_without_openmp(3) == 1);
#if defined(_OPENMP)
  REQUIRE(thread_count(cpu{.threads = 3}) == 3);
#else
  REQUIRE(thread_count(cpu{.threads = 3}) == 1);
#endif
  REQUIRE(thread_count(cpu{}) >= 1);
}
