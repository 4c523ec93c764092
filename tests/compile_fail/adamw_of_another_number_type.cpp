// SPDX-License-Identifier: Apache-2.0
// expect-error: adamw<T> trains layers that compute in T
#include <seqprim/nn/adamw.hpp>
#include <seqprim/nn/linear.hpp>

using namespace seqprim;

#if defined(FIXED)
using number = double;
#else
using number = float;
#endif
void train(nn::linear<double>& layer) {
  nn::adamw<number> optimizer(layer);
  optimizer.step(cpu{}, layer, 0.1);
}
