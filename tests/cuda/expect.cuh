// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>

#include <cstdio>
#include <string>

/// The few lines of a test framework that the CUDA tests need: nvcc would spend longer on Catch2 than on all kernels.
namespace seqprim::test {

/// A part of cuda_test: a file <name>_test.cu defines one, `cuda_test <name>` runs it.
///
///     const test_group decode{"decode", [] { check_pages(); }};
struct test_group {
  const char* name;
  void (*run)();
  const test_group* next;
  inline static const test_group* first = nullptr;

  test_group(const char* name_, void (*run_)()) : name(name_), run(run_), next(first) { first = this; }
};

inline int failures = 0;

/// Few trials of each kind: for tools that make every access many times slower.
inline bool short_run = false;
inline int trials(int usual) { return short_run ? (usual + 5) / 6 : usual; }

/// What is being tried: seed, number of the trial, sizes. Failures print it.
inline std::string current_trial;
template <class... Parts> void begin_trial(const Parts&... parts) { current_trial = message(parts...); }

/// The check that came closest to its budget, or went furthest beyond it.
struct closest_check {
  double share = -1;  ///< error / budget
  std::string what;
};
inline closest_check closest;

/// The first of them say enough.
inline constexpr int printed_failures = 20;

inline void report_failure(const char* file, int line, const std::string& what) {
  if (++failures > printed_failures) return;
  std::fprintf(stderr, "%s:%d: not true: %s\n  in %s\n", file, line, what.c_str(),
               current_trial.empty() ? "no trial" : current_trial.c_str());
}

/// error <= budget; both are printed when it fails, and the closest of all when it does not.
inline void expect_at_most(double error, double budget, const char* file, int line, const char* expression) {
  const bool holds = error <= budget;  // false for NaN
  const double share = error == 0 ? 0 : error / budget;
  const auto what = [&] { return message(expression, ": error ", error, ", budget ", budget); };
  if (!holds) report_failure(file, line, what());
  if (share > closest.share || share != share) closest = {share, message(what(), " in ", current_trial)};
}

/// Bytes of shared memory that the smallest of sm_80 and its successors lends to a block.
inline constexpr int least_shared_memory = 99 * 1024;

#define SEQPRIM_EXPECT(condition)                                                      \
  do {                                                                                 \
    if (!(condition)) ::seqprim::test::report_failure(__FILE__, __LINE__, #condition); \
  } while (false)

#define SEQPRIM_EXPECT_AT_MOST(error, budget) \
  ::seqprim::test::expect_at_most(error, budget, __FILE__, __LINE__, #error " <= " #budget)

}  // namespace seqprim::test
