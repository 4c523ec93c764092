// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>

/// The few lines of a test framework that the CUDA tests need: nvcc would spend longer on Catch2 than on all kernels.
namespace seqprim::test {

inline int failures = 0;

/// Few trials of each kind: for tools that make every access many times slower.
inline bool short_run = false;
inline int trials(int usual) { return short_run ? (usual + 5) / 6 : usual; }

/// Bytes of shared memory that the smallest of sm_80 and its successors lends to a block.
inline constexpr int least_shared_memory = 99 * 1024;

#define SEQPRIM_EXPECT(condition)                                                    \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      ++::seqprim::test::failures;                                                   \
    }                                                                                \
  } while (false)

void test_functors();
void test_forward();
void test_backward();
void test_decode();
void test_position();

}  // namespace seqprim::test
