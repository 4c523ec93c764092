// SPDX-License-Identifier: Apache-2.0
// Compiled without OpenMP whatever the rest of the program does.
#if defined(_OPENMP)
#  error "this file must be compiled without OpenMP"
#endif
#include <seqprim/core/parallel.hpp>

int threads_without_openmp(int asked);
int threads_without_openmp(int asked) { return seqprim::thread_count(seqprim::cpu{.threads = asked}); }
