// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/bits.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/score/number.hpp>
#include <seqprim/score/rule.hpp>

#include <concepts>
#include <cstdint>

namespace seqprim::score {

namespace detail {

// The derivative of tanh is 4 e / (1 + e)^2 with e = exp(-2 |x|), which does not cancel where 1 - tanh^2 does. In float e is
// computed here, to a few units in the last place, without library call or select on floats: host and device agree.

inline constexpr std::uint32_t infinity_bits = 0x7f800000u;

/// The bits of y >= 0 or of a NaN; both count as 87 when larger: exp(-87) is the last that is normal.
SEQPRIM_HD constexpr float decay_of_bits(std::uint32_t y) noexcept {
  constexpr std::uint32_t most = bit_cast<std::uint32_t>(87.0f);
  const float x = -bit_cast<float>(y < most ? y : most);
  const auto n = static_cast<std::int32_t>(x * 1.44269504f - 0.5f);  // nearest integer: x <= 0, and casts truncate
  const auto steps = static_cast<float>(n);
  const float r = (x - steps * 0.693359375f) - steps * -2.12194440e-4f;  // |r| <= ln(2) / 2; ln 2 in two parts
  // expm1(r) by its Taylor series; the next term is below 2e-8 of the result.
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = r + r * r * p;
  const auto scale = bit_cast<float>(static_cast<std::uint32_t>(n + 127) << 23);  // 2^n, n in [-126, 0]
  return scale * p + scale;
}

SEQPRIM_HD constexpr float tanh_derivative(float x) noexcept {
  const std::uint32_t size = bit_cast<std::uint32_t>(2.0f * x) & 0x7fffffffu;
  const float e = decay_of_bits(size);
  const float d = 4.0f * e / ((1.0f + e) * (1.0f + e));
  const std::uint32_t nan = size > infinity_bits ? 0x7fc00000u : 0u;
  return bit_cast<float>(bit_cast<std::uint32_t>(d) | nan);
}

SEQPRIM_HD double tanh_derivative(double x) noexcept {
#if defined(__CUDA_ARCH__)
  const double e = ::exp(x < 0 ? 2 * x : -2 * x);
#else
  const double e = __builtin_exp(x < 0 ? 2 * x : -2 * x);
#endif
  return 4 * e / ((1 + e) * (1 + e));
}

template <class X> [[gnu::always_inline]] inline X tanh_derivative(X x) noexcept {
  const X e = exponential(magnitude(x) * X(-2.0f)), f = X(1.0f) + e;
  return X(4.0f) * e / (f * f);
}

SEQPRIM_HD double tanh_of_double(double x) noexcept {
#if defined(__CUDA_ARCH__)
  return ::tanh(x);
#else
  return __builtin_tanh(x);
#endif
}

}  // namespace detail

/// Soft cap: keeps logits inside (-cap, cap).
///
///     score(s) = cap * tanh(s / cap)        d score / d s = 1 - tanh(s / cap)^2
///
/// Near 0 the logit is unchanged. +-inf become +-cap; a NaN stays a NaN.
///
/// Errors  precondition_error: cap is not finite and > 0 with a finite inverse.
/// Cost    about 10 multiply-adds and a division, no branch.
/// Source  Bello et al., "Neural combinatorial optimization with reinforcement learning"; Gemma Team, "Gemma 2".
struct soft_cap {
  float cap;  ///< bound of the logits, > 0; 50 and 30 in published models

  template <class X, class Site = site> SEQPRIM_HD constexpr X operator()(X logit, Site) const noexcept {
    if constexpr (std::same_as<X, double>) {
      return static_cast<double>(cap) * detail::tanh_of_double(logit / static_cast<double>(cap));
    } else {
      return X(cap) * tanh_of(logit * X(1.0f / cap));
    }
  }
  template <class X, class Site = site> SEQPRIM_HD constexpr X derivative(X logit, Site) const noexcept {
    if constexpr (std::same_as<X, double>) {
      return detail::tanh_derivative(logit / static_cast<double>(cap));
    } else {
      return detail::tanh_derivative(logit * X(1.0f / cap));
    }
  }

  static constexpr int parameters = 1;  ///< the cap: tanh(x) - x tanh'(x) with x = s / cap, +-1 far out
  template <int, class X, class Site = site> SEQPRIM_HD constexpr X parameter_derivative(X logit, Site) const noexcept {
    if constexpr (std::same_as<X, double>) {
      const double x = logit / static_cast<double>(cap);
      return detail::tanh_of_double(x) - at_most(at_least(x, -64.0), 64.0) * detail::tanh_derivative(x);
    } else {
      const X x = logit * X(1.0f / cap);
      return tanh_of(x) - at_most(at_least(x, X(-40.0f)), X(40.0f)) * detail::tanh_derivative(x);
    }
  }

  SEQPRIM_INLINE constexpr void validate() const {
    SEQPRIM_EXPECTS(cap > 0.0f && cap < __builtin_huge_valf() && 1.0f / cap < __builtin_huge_valf(),
                    "score::soft_cap: cap (", cap,
                    ") must be a finite number > 0 with a finite inverse. See docs/reference/score/soft_cap.md");
  }
};
static_assert(modifier<soft_cap> && differentiable_by_parameter<soft_cap, 0>);

}  // namespace seqprim::score
