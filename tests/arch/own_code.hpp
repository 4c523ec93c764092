// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/isa.hpp>
#include <seqprim/arch/matmul.hpp>
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

/// Runs in the translation unit that includes this, with its flags: internal linkage keeps one copy for each.
[[maybe_unused]] static own_code run_here() {
  using namespace seqprim;
  // One lane adds 1e8 + 1 - 1e8 in this order and loses the 1; eight or sixteen lanes cancel first and keep it.
  float x[128] = {}, ones[128];
  for (float& one : ones) one = 1.0f;
  x[0] = 1e8f;
  x[4] = 1.0f;
  x[8] = -1e8f;
  own_code report{arch::native_isa::name, arch::dot<arch::native_isa, float>(x, ones, 128),
                  tensor<float, 4>(1, 2, 100, 32)};
  attention::forward(cpu{}, attention::softmax{mask::causal{}}, numbers(1), numbers(2), numbers(3), report.out);
  return report;
}
