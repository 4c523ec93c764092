// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/sampling/det_math.hpp>
#include <seqprim/sampling/stage.hpp>

namespace seqprim::sampling {

/// Keeps the tokens that are at least `ratio` times as likely as the likeliest one; no softmax is needed:
///
///     kept  <=>  logit >= max + log(ratio)
///
/// Edge    ratio = 0 keeps everything; ratio = 1 keeps the ties of the maximum.
/// Errors  validate() throws precondition_error when ratio is outside [0, 1] or NaN.
/// Cost    one pass over the row.
/// Source  Nguyen et al., "Turning up the heat: min-p sampling for creative and coherent LLM outputs".
struct min_p {
  float ratio;

  SEQPRIM_HD constexpr float cutoff(const row_summary& row) const noexcept {
    return ratio > 0.0f ? detail::add(row.max, det_log(ratio)) : excluding_logit;
  }

  constexpr void validate() const {
    SEQPRIM_EXPECTS(ratio >= 0.0f && ratio <= 1.0f, "min_p: the ratio (", ratio,
                    ") must be in [0, 1]. See docs/reference/sampling/min_p.md");
  }
};
static_assert(threshold<min_p>);

}  // namespace seqprim::sampling
