// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/sampling/stage.hpp>

namespace seqprim::sampling {

/// Nucleus: keeps a token iff the probability of all tokens that come before it in the total order is < `mass`. That is
/// the shortest prefix that reaches `mass`; among equal logits the lower token id goes first.
///
/// Edge    mass = 0 keeps the first token, mass = 1 everything.
/// Errors  validate(): precondition_error when mass is outside [0, 1] or NaN.
/// Repeat  probabilities are integer weights: the kept set is the same on every machine.
/// Source  spec sampling 3.5 and 4; golden sampling/filters_* (canon_top_p), sampling/intcdf_* (token_top_p).
struct top_p {
  float mass;

  SEQPRIM_HD constexpr prefix limit(const row_summary&) const noexcept { return {.mass = mass}; }

  constexpr void validate() const {
    SEQPRIM_EXPECTS(mass >= 0.0f && mass <= 1.0f, "top_p: the mass (", mass,
                    ") must be in [0, 1]. See docs/reference/sampling/top_p.md");
  }
};
static_assert(order<top_p>);

}  // namespace seqprim::sampling
