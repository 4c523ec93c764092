// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/sampling/stage.hpp>

namespace seqprim::sampling {

/// Nucleus: keeps a token iff the probability of all tokens before it in the total order is < `mass`: the shortest
/// prefix that reaches `mass`. Probabilities are those of the row as it enters the stage, renormalized after earlier
/// filters.
///
/// Edge    mass = 0 keeps the first token, mass = 1 everything. Among equal logits the lower ids are kept, as many as
///         needed.
/// Errors  validate() throws precondition_error when mass is outside [0, 1] or NaN.
/// Repeat  probabilities are the integer weights of draw, so sums do not depend on their order: the kept set is the
///         same on every machine.
/// Cost    one exponential for each token within a factor 2^-32 of the likeliest, two for those near the cut; radix
///         selection.
/// Source  Holtzman et al., "The curious case of neural text degeneration".
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
