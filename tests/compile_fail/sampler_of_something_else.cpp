// SPDX-License-Identifier: Apache-2.0
// expect-error: a sampling stage needs one of 'float operator()(float logit, index_t token) const'
#include <seqprim/sampling/sampling.hpp>

using namespace seqprim;

struct half_of_it {
#if defined(FIXED)
  index_t choose(const sampling::candidates& row, const random_stream&) const { return row.token(row.count / 2); }
  void law(const sampling::candidates&, tensor_view<float, 1>) const {}
#endif
};

void pick(tensor_view<const float, 2> logits, tensor_view<index_t, 1> tokens,
          tensor_view<sampling::row_status, 1> status, tensor_view<const std::uint32_t, 1> requests,
          tensor_view<const std::uint32_t, 1> steps) {
  sampling::sample(cpu{}, half_of_it{}, logits, tokens, status, 7, requests, steps);
}
