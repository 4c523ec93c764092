// SPDX-License-Identifier: Apache-2.0
// expect-error: a score modifier needs 'float derivative(float logit, score::site at) const'
#include <seqprim/score/rule.hpp>

using namespace seqprim;

struct halved {
  SEQPRIM_HD constexpr float operator()(float logit, score::site) const noexcept { return 0.5f * logit; }
#if defined(FIXED)
  SEQPRIM_HD constexpr float derivative(float, score::site) const noexcept { return 0.5f; }
#endif
};
static_assert(score::require_modifier<halved>());
