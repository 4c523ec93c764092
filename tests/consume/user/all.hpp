// SPDX-License-Identifier: Apache-2.0
#pragma once

// Every header a user can include, in two translation units of one program: each definition may be linked only once.
#include <seqprim/seqprim.hpp>
#if __has_include(<seqprim/attention/reference.hpp>)
#  include <seqprim/attention/reference.hpp>
#endif
#if defined(USER_HAS_IO)
#  include <seqprim/io/checkpoint.hpp>
#  include <seqprim/io/safetensors.hpp>
#endif

/// What each translation unit reports about itself; both must agree.
struct report {
  seqprim::index_t visible;
  unsigned random;
  int threads;
  bool openmp;
};
report report_of_other();

inline seqprim::index_t count_visible(seqprim::index_t q_len, seqprim::index_t k_len) {
  const auto mask = seqprim::mask::shifted(seqprim::mask::causal{}, k_len - q_len);
  seqprim::index_t count = 0;
  for (seqprim::index_t q = 0; q < q_len; ++q)
    for (seqprim::index_t k = 0; k < k_len; ++k) count += mask(q, k);
  return count;
}

static report make_report() {
#if defined(_OPENMP)
  const bool openmp = true;
#else
  const bool openmp = false;
#endif
  const seqprim::random_stream stream{.seed = 7, .request = 1, .step = 2};
  return {count_visible(3, 5), stream.word(seqprim::random_domain::caller, 9),
          seqprim::thread_count(seqprim::cpu{.threads = 2}), openmp};
}
