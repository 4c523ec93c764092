// SPDX-License-Identifier: Apache-2.0
#include "kernel.hpp"

#include <cstdio>

int main() {
  float x[100], sum = 0;
  for (int i = 0; i < 100; ++i) x[i] = static_cast<float>(i);
  const std::string ran = seqprim::arch::dispatch<scaled_sum>(x, 100, sum);
  const auto choice = seqprim::arch::choose(scaled_sum::isas{});
  std::printf("%s ran, sum %g; %s\n", ran.c_str(), static_cast<double>(sum), choice.words().c_str());
  if (ran != choice.isa || sum != 9900.0f) return 1;
  const std::string forced =
      seqprim::arch::dispatch<scaled_sum, seqprim::arch::isa_list<seqprim::arch::scalar>>(x, 100, sum);
  return forced == "scalar" && sum == 9900.0f ? 0 : 2;
}
