// SPDX-License-Identifier: Apache-2.0
// expect-error: labels are integers
#include <seqprim/loss/cross_entropy.hpp>

using namespace seqprim;

#if defined(FIXED)
using label = std::int32_t;
#else
using label = float;
#endif
void train(tensor_view<const float, 2> logits, tensor_view<const label, 1> labels, tensor_view<float, 2> dlogits) {
  loss::cross_entropy(cpu{}, {}, logits, labels, dlogits);
}
