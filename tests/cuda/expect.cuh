// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>

/// The few lines of a test framework that the CUDA tests need: nvcc would spend longer on Catch2 than on all kernels.
namespace seqprim::test {

inline int failures = 0;

#define SEQPRIM_EXPECT(condition)                                                    \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      ++::seqprim::test::failures;                                                   \
    }                                                                                \
  } while (false)

void test_functors();
void test_forward();

}  // namespace seqprim::test
