// SPDX-License-Identifier: Apache-2.0
// expect-error: a sampling chain must end in exactly one stage that picks the token: draw, gumbel_max or greedy
#include <seqprim/sampling/sampling.hpp>

using namespace seqprim;

void pick(tensor_view<const float, 2> logits, tensor_view<index_t, 1> tokens,
          tensor_view<sampling::row_status, 1> status, tensor_view<const std::uint32_t, 1> requests,
          tensor_view<const std::uint32_t, 1> steps) {
#if defined(FIXED)
  const auto chain = sampling::temperature{0.8f} | sampling::top_k{50} | sampling::draw{};
#else
  const auto chain = sampling::temperature{0.8f} | sampling::top_k{50};
#endif
  sampling::sample(cpu{}, chain, logits, tokens, status, 7, requests, steps);
}
