// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/isa.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/causal.hpp>

#include <support/random.hpp>

/// What one translation unit reports about the code that runs when it calls the library.
struct own_code {
  const char* isa;
  float ordered_sum;              ///< a sum whose value tells in which order, so with how many lanes, it was added
  seqprim::tensor<float, 4> out;  ///< attention of the same numbers
};

/// Defined in two_isas_a.cpp and two_isas_b.cpp, which are this header compiled with different flags.
own_code run_in_a();
own_code run_in_b();

inline seqprim::tensor<float, 4> numbers(std::uint64_t seed) {
  seqprim::tensor<float, 4> x(1, 2, 100, 32);
  seqprim::test::random_numbers(seed).fill(x);
  return x;
}
