// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/sampling/det_math.hpp>
#include <seqprim/sampling/stage.hpp>

namespace seqprim::sampling {

/// Temperature: divides the logits, so that values below 1 sharpen the distribution and values above 1 flatten it.
///
///     logit' = logit * (1 / value)       one float division, one float multiplication
///
/// Edge    0 keeps only the first token of the total order (greedy); so does a value so small that 1 / value or the
///         scaled maximum exceeds the largest float. +inf makes every token that is not excluded equally likely. A
///         logit that scales past the largest negative float becomes that float: it stays a candidate.
/// Errors  validate() throws precondition_error when value < 0 or NaN.
/// Cost    one pass over the row.
struct temperature {
  float value;

  SEQPRIM_HD constexpr float operator()(float logit, index_t) const noexcept {
    if (infinite(inverse())) return logit;
    const float scaled = detail::multiply(logit, inverse());
    return scaled > largest_logit ? largest_logit : scaled < -largest_logit ? -largest_logit : scaled;
  }

  SEQPRIM_HD constexpr prefix limit(const row_summary& row) const noexcept {
    const bool greedy = infinite(inverse()) || infinite(detail::multiply(row.max, inverse()));
    return greedy ? prefix{.count = 1} : prefix{};
  }

  constexpr void validate() const {
    SEQPRIM_EXPECTS(value >= 0.0f, "temperature: the value (", value,
                    ") must be >= 0. See docs/reference/sampling/temperature.md");
  }

 private:
  // By the bits: 0 means "no finite inverse" under every flag.
  SEQPRIM_HD static constexpr bool infinite(float x) noexcept {
    return (bit_cast<std::uint32_t>(x) & 0x7fffffffu) >= 0x7f800000u;
  }
  SEQPRIM_HD constexpr float inverse() const noexcept {
    return value == 0.0f ? bit_cast<float>(0x7f800000u) : detail::divide(1.0f, value);
  }
};
static_assert(elementwise<temperature> && order<temperature>);

}  // namespace seqprim::sampling
