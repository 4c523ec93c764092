// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/isa.hpp>
#include <seqprim/attention/attention.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/linalg/matmul.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/score/score.hpp>

#include <support/random.hpp>

/// What one translation unit reports about the code that runs when it calls the library.
struct own_code {
  const char* isa;
  float ordered_sum;               ///< a sum whose value tells in which order, so with how many lanes, it was added
  seqprim::tensor<float, 4> out;   ///< attention of the same numbers
  seqprim::tensor<float, 1> more;  ///< one number of each result of many other calls
};

/// Defined in two_isas_a.cpp and two_isas_b.cpp, which are this header compiled with different flags.
own_code run_in_a();
own_code run_in_b();

inline seqprim::tensor<float, 4> numbers(std::uint64_t seed) {
  seqprim::tensor<float, 4> x(1, 2, 100, 32);
  seqprim::test::random_numbers(seed).fill(x);
  return x;
}

/// Calls of the same helpers from many places: what is called once is inlined, and would hide that it is shared.
template <class T> static float more_attention(float* dsinks) {
  using namespace seqprim;
  tensor<T, 4> x(1, 2, 40, 16), out(1, 2, 40, 16), dq = x, dk = x, dv = x;
  tensor<float, 3> lse(1, 2, 40);
  tensor<bool, 2> visible(40, 40);
  tensor<float, 1> sinks(2);
  test::random_numbers(7).fill(x);
  visible.fill(true);
  const auto run = [&](const auto& op) {
    attention::forward(cpu{}, op, x, x, x, out, lse);
    attention::backward(cpu{}, op, x, x, x, out, lse, x, attention::gradients{}.dq(dq).dk(dk).dv(dv));
    attention::decode(cpu{}, op, x, x, x, out, lse);
    attention::sink_gradient(cpu{}, op, out, lse, x, sinks);
  };
  run(attention::softmax{mask::dense{visible.view()}});
  run(attention::softmax{mask::causal{} & ~mask::key_range{3, 9}, score::soft_cap{4} | score::alibi{.heads = 2}});
  run(attention::softmax{mask::attention_sinks{.sinks = 1, .window = 5}}.with_sink(1));
  *dsinks = sinks(1);
  return static_cast<float>(dq(0, 1, 30, 3)) + static_cast<float>(dk(0, 1, 30, 3)) +
         static_cast<float>(dv(0, 1, 30, 3)) + static_cast<float>(out(0, 1, 30, 3));
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
  own_code report{arch::native_isa::name, linalg::dot<arch::native_isa, float>(x, ones, 128),
                  tensor<float, 4>(1, 2, 100, 32), tensor<float, 1>(4)};
  attention::forward(cpu{}, attention::softmax{mask::causal{}}, numbers(1), numbers(2), numbers(3), report.out);
  report.more(0) = more_attention<float>(&report.more(2));
  report.more(1) = more_attention<bfloat16>(&report.more(3));
  return report;
}
