// SPDX-License-Identifier: Apache-2.0
// Compiled twice: SEQPRIM_TEST_UNIT is strict or fast.
#include "fast_math_unit.hpp"

#include <seqprim/attention/attention.hpp>
#include <seqprim/mask/mask.hpp>

#include <support/random.hpp>

namespace {

using namespace seqprim;

template <class X> bool is_nan(const X& x) {
  return (bit_cast<std::uint32_t>(static_cast<float>(x)) & 0x7fffffffu) > 0x7f800000u;
}
template <class T, int Rank> int nans(const tensor<T, Rank>& t) {
  int count = 0;
  for (index_t i = 0; i < t.size(); ++i) count += is_nan(t.data()[i]) ? 1 : 0;
  return count;
}

template <class T> leaked_nans run() {
  constexpr index_t len = 150, dim = 65, value_dim = 7;
  tensor<T, 4> q(1, 1, len, dim), k(1, 1, len, dim), v(1, 1, len, value_dim), out(1, 1, len, value_dim);
  tensor<T, 4> dq = q, dk = k, dv = v, decoded = out;
  tensor<float, 3> lse(1, 1, len);
  test::random_numbers random(81);
  random.fill(q);
  random.fill(k);
  random.fill(v);
  for (index_t j = 3; j < 40; ++j) {
    for (index_t d = 0; d < dim; ++d) k(0, 0, j, d) = T(__builtin_nanf(""));
    for (index_t d = 0; d < value_dim; ++d) v(0, 0, j, d) = T(j % 2 == 0 ? __builtin_nanf("") : __builtin_huge_valf());
  }
  const attention::softmax op{mask::causal{} & ~mask::key_range{3, 40}};
  attention::forward(cpu{1}, op, q, k, v, out, lse);
  attention::backward(cpu{1}, op, q, k, v, out, lse, out, attention::gradients{}.dq(dq).dk(dk).dv(dv));
  attention::decode(cpu{1}, op, q, k, v, decoded);
  return {nans(out), nans(decoded), nans(dq), nans(dk), nans(dv)};
}

}  // namespace

#define SEQPRIM_TEST_JOIN(A, B, C) A##B##C
#define SEQPRIM_TEST_NAME(UNIT, TYPE) SEQPRIM_TEST_JOIN(run_, UNIT, TYPE)
leaked_nans SEQPRIM_TEST_NAME(SEQPRIM_TEST_UNIT, _float)() { return run<float>(); }
leaked_nans SEQPRIM_TEST_NAME(SEQPRIM_TEST_UNIT, _bfloat16)() { return run<bfloat16>(); }
