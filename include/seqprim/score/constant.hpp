// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/subject.hpp>
#include <seqprim/score/rule.hpp>

namespace seqprim::score {

/// Uniform attention: every logit is the same, and so is the weight of every visible key, whatever queries and keys hold.
///
///     score(s) = logit
///
/// The row's lse is logit + log(visible keys); its out is the mean of their values. Queries and keys get no gradient.
///
/// Errors  precondition_error: the logit is not finite.
/// Cost    none; products of queries and keys are still computed.
/// Source  Zhou et al., "Mitigating modality prior-induced hallucinations in multimodal large language models via deciphering
///         attention causality" (attention replaced by its uniform counterpart); heads that average over the keys of a mask.
struct constant {
  float logit = 0;  ///< of every pair; matters only where there is a sink

  template <class X, class Site = site> SEQPRIM_HD constexpr X operator()(X, Site) const noexcept { return X(logit); }
  template <class X, class Site = site> SEQPRIM_HD constexpr X derivative(X, Site) const noexcept { return X(0.0f); }

  SEQPRIM_INLINE constexpr void validate() const {
    constexpr subject self{"score::constant", "score/constant"};
    self.expects(logit - logit == 0.0f, "logit (", logit, ") must be finite");
  }
};
static_assert(modifier<constant>);

}  // namespace seqprim::score
