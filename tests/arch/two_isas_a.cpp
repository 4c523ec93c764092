// SPDX-License-Identifier: Apache-2.0
#include <seqprim/arch/matmul.hpp>

#include <arch/own_code.hpp>

using namespace seqprim;

own_code run_in_a() {
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
