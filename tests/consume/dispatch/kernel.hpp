// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/dispatch.hpp>

#include <string>

struct scaled_sum {
  using isas = seqprim::arch::isa_list<seqprim::arch::scalar, seqprim::arch::avx2, seqprim::arch::avx512>;
  template <class Isa> static std::string run(const float* x, int count, float& sum);
};
