// SPDX-License-Identifier: Apache-2.0
// expect-error: sampling takes float, float16 or bfloat16 logits
#include <seqprim/sampling/sampling.hpp>

using namespace seqprim;

#if defined(FIXED)
using logit = float;
#else
using logit = double;
#endif
void pick(tensor_view<const logit, 2> logits, tensor_view<index_t, 1> tokens,
          tensor_view<sampling::row_status, 1> status, tensor_view<const std::uint32_t, 1> requests,
          tensor_view<const std::uint32_t, 1> steps) {
  sampling::sample(cpu{}, sampling::greedy{}, logits, tokens, status, 7, requests, steps);
}
