// SPDX-License-Identifier: Apache-2.0
#include "all.hpp"

#include <cstdio>

int main() {
  const report a = make_report();
  const report b = report_of_other();
  std::printf("visible %lld, random %u, threads %d, OpenMP %s\n", static_cast<long long>(a.visible), a.random,
              a.threads, a.openmp ? "yes" : "no");
  if (a.visible != 3 + 4 + 5) return 1;
  if (a.visible != b.visible || a.random != b.random || a.threads != b.threads || a.openmp != b.openmp) return 2;
  if (a.threads != (a.openmp ? 2 : 1)) return 3;
#if defined(EXPECT_OPENMP)
  if (a.openmp != (EXPECT_OPENMP != 0)) return 4;
#endif
  return 0;
}
