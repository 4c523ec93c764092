// SPDX-License-Identifier: Apache-2.0
// The CUDA forward against the definition in double, with poisoned outputs, odd lengths, empty rows and every element type.
#include <seqprim/attention/forward.cuh>
#include <seqprim/attention/reference.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/score/score.hpp>

#include <cuda/expect.cuh>

#include <attention/problem.hpp>
#include <support/device.cuh>

namespace seqprim::test {

namespace {

template <class T, class Op> void check(const Op& op, const attention_problem<T>& p) {
  tensor<T, 4> out(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> lse(p.batch, p.heads, p.q_len);
  out.fill(T(77.0f));
  lse.fill(77.0f);
  const device_tensor<T, 4> q(p.q), k(p.k), v(p.v), device_out(out);
  const device_tensor<float, 3> device_lse(lse);
  attention::forward(cuda{}, op, q.view(), k.view(), v.view(), device_out.view(), device_lse.view());
  device_out.read(out);
  device_lse.read(lse);

  tensor<double, 4> exact(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<double, 3> exact_lse(p.batch, p.heads, p.q_len);
  attention::reference::forward(op, p.q, p.k, p.v, exact, exact_lse);
  tensor<float, 4> naive(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> naive_lse(p.batch, p.heads, p.q_len);
  naive_forward(op, p, naive, naive_lse);
  const double size = std::max(1.0, largest(exact));
  SEQPRIM_EXPECT(distance(out, exact) <= 2 * distance(naive, exact) + 2 * (rounding<T> + 2 * rounding<float>)*size);
  SEQPRIM_EXPECT(distance(lse, exact_lse) <=
                 2 * distance(naive_lse, exact_lse) + 8 * rounding<float> * std::max(1.0, largest(exact_lse)));
}

template <class T> void check_type() {
  random_numbers random(401);
  for (int trial = 0; trial < trials(24); ++trial) {
    const auto p = random_problem<T>(random);
    const index_t offset = random.integer(-20, 40);
    switch (trial % 4) {
      case 0: check(attention::softmax{}, p); break;
      case 1: check(attention::softmax{mask::causal{offset}}, p); break;
      case 2:
        check(attention::softmax{mask::sliding_window{.left = 30, .offset = offset} & ~mask::key_range{3, 9}}, p);
        break;
      default:
        check(attention::softmax{mask::causal{offset},
                                 score::soft_cap{.cap = 5.0f} | score::alibi{.heads = p.heads, .offset = offset}},
              p);
    }
  }
}

}  // namespace

void test_forward() {
  check_type<float>();
  check_type<half>();
  check_type<bfloat16>();
  random_numbers random(402);
  attention_problem<float> wide(1, 2, 1, 37, 41, 200, 300);
  wide.fill(random);
  check(attention::softmax{mask::causal{4}}, wide);

  attention_problem<float> too_wide(1, 1, 1, 2, 2, 8, 600);
  tensor<float, 4> out(1, 1, 2, 600);
  bool refused = false;
  try {
    attention::forward(cuda{}, attention::softmax{}, too_wide.q, too_wide.k, too_wide.v, out);
  } catch (const precondition_error&) {
    refused = true;
  }
  SEQPRIM_EXPECT(refused);
}

}  // namespace seqprim::test
