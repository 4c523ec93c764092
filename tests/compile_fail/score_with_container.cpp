// SPDX-License-Identifier: Apache-2.0
// expect-error: a score modifier must be trivially copyable so that it can travel to a kernel
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/score/rule.hpp>

#include <vector>

using namespace seqprim;

struct biased {
#if defined(FIXED)
  tensor_view<const float, 1> bias;
  float operator()(float logit, score::site at) const noexcept { return logit + bias(at.k); }
#else
  std::vector<float> bias;
  float operator()(float logit, score::site at) const noexcept { return logit + bias[static_cast<std::size_t>(at.k)]; }
#endif
  float derivative(float, score::site) const noexcept { return 1.0f; }
};
static_assert(score::require_modifier<biased>());
