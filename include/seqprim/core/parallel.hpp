// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/core/index.hpp>

#if defined(_OPENMP)
#  include <omp.h>
#endif

namespace seqprim {

// Translation units built with and without OpenMP can be linked into one program: the namespace is part of the name of
// every function that takes a `cpu`, so neither can be given the other's loop.
#if defined(_OPENMP)
inline namespace with_openmp {
#else
inline namespace without_openmp {
#endif

/// The executor of the CPU entry points: `threads` = 0 takes what OpenMP offers (OMP_NUM_THREADS, else every core);
/// without OpenMP everything runs on the calling thread.
///
/// Edge    more than 1024 threads count as 1024. In a child process made by fork() after a parallel region has run, OpenMP of
///         GCC hangs with more than one thread: fork first, or use cpu{1} there.
/// Errors  validate() throws precondition_error: threads < 0.
/// Repeat  the number of threads never changes a result: work is divided by the problem, and each task is computed the
///         same way wherever it runs.
struct cpu {
  int threads = 0;

  static constexpr int max_threads = 1024;  ///< libgomp takes the stack of the caller for each

  void validate() const { SEQPRIM_EXPECTS(threads >= 0, "cpu: threads (", threads, ") must be >= 0"); }
};

/// The number of threads that `parallel_for` may use: at least 1. Sizes per-thread scratch.
[[nodiscard]] inline int thread_count([[maybe_unused]] const cpu& executor) noexcept {
#if defined(_OPENMP)
  return min_of(executor.threads > 0 ? executor.threads : max_of(1, omp_get_max_threads()), cpu::max_threads);
#else
  return 1;
#endif
}

/// Calls body(piece, thread) once for each task `piece` in [0, count), thread in [0, thread_count(executor)), on OpenMP
/// threads where OpenMP is on. Tasks run in any order, concurrently; each must write only what belongs to it. The body
/// must not throw: validate before the loop.
///
/// Cost    one parallel region per call, and one step of a shared counter per task: a task should be worth
///         microseconds. One task or one thread is a plain loop.
template <class Body> void parallel_for([[maybe_unused]] const cpu& executor, index_t count, const Body& body) {
#if defined(_OPENMP)
  const int threads = static_cast<int>(min_of<index_t>(thread_count(executor), max_of<index_t>(count, 1)));
  if (threads > 1) {
#  pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (index_t piece = 0; piece < count; ++piece) body(piece, omp_get_thread_num());
    return;
  }
#endif
  for (index_t piece = 0; piece < count; ++piece) body(piece, 0);
}

}  // inline namespace

}  // namespace seqprim
