// SPDX-License-Identifier: Apache-2.0
// expect-error: a score modifier needs 'float operator()(float logit, score::site at) const'
#include <seqprim/score/rule.hpp>

using namespace seqprim;

struct halved {
#if defined(FIXED)
  SEQPRIM_HD constexpr float operator()(float logit, score::site) const noexcept { return 0.5f * logit; }
#else
  SEQPRIM_HD constexpr float operator()(float logit) const noexcept { return 0.5f * logit; }  // the site is missing
#endif
  SEQPRIM_HD constexpr float derivative(float, score::site) const noexcept { return 0.5f; }
};
static_assert(score::require_modifier<halved>());
