// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/bits.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/score/rule.hpp>

#include <concepts>
#include <cstdint>

namespace seqprim::score {

namespace detail {

// tanh(x) = (1 - e) / (1 + e) and its derivative 4 e / (1 + e)^2, with e = exp(-2 |x|): neither form cancels, where
// 1 - e is taken from expm1. In float everything is computed here, to a few units in the last place: no library call and no
// select on floats (integers instead; g++ vectorises those), so that loops over logits vectorise and host and device agree.

/// exp(-y) and exp(-y) - 1.
template <class T> struct decay {
  T exp;
  T expm1;
};

inline constexpr std::uint32_t infinity_bits = 0x7f800000u;

/// The bits of y >= 0 or of a NaN; both count as 87 when larger: exp(-87) is the last that is normal.
SEQPRIM_HD constexpr decay<float> decay_of_bits(std::uint32_t y) noexcept {
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
  return {.exp = scale * p + scale, .expm1 = scale * p + (scale - 1.0f)};
}

SEQPRIM_HD constexpr float tanh(float x) noexcept {
  const auto bits = bit_cast<std::uint32_t>(2.0f * x);
  const std::uint32_t size = bits & 0x7fffffffu;
  const float m = decay_of_bits(size).expm1;
  const float t = -m / (2.0f + m);  // in [0, 1]
  const std::uint32_t nan = size > infinity_bits ? 0x7fc00000u : 0u;
  return bit_cast<float>((bit_cast<std::uint32_t>(t) & 0x7fffffffu) | (bits & 0x80000000u) | nan);
}

SEQPRIM_HD constexpr float tanh_derivative(float x) noexcept {
  const std::uint32_t size = bit_cast<std::uint32_t>(2.0f * x) & 0x7fffffffu;
  const float e = decay_of_bits(size).exp;
  const float d = 4.0f * e / ((1.0f + e) * (1.0f + e));
  const std::uint32_t nan = size > infinity_bits ? 0x7fc00000u : 0u;
  return bit_cast<float>(bit_cast<std::uint32_t>(d) | nan);
}

SEQPRIM_HD decay<double> decay_of(double y) noexcept {
#if defined(__CUDA_ARCH__)
  return {.exp = ::exp(-y), .expm1 = ::expm1(-y)};
#else
  return {.exp = __builtin_exp(-y), .expm1 = __builtin_expm1(-y)};
#endif
}

SEQPRIM_HD double tanh(double x) noexcept {
  const double m = decay_of(x < 0 ? -2 * x : 2 * x).expm1;
  return (x < 0 ? m : -m) / (2 + m);
}

SEQPRIM_HD double tanh_derivative(double x) noexcept {
  const double e = decay_of(x < 0 ? -2 * x : 2 * x).exp;
  return 4 * e / ((1 + e) * (1 + e));
}

}  // namespace detail

/// Soft cap: keeps logits inside (-cap, cap).
///
///     score(s) = cap * tanh(s / cap)        d score / d s = 1 - tanh(s / cap)^2
///
/// Near 0 the logit is unchanged. +-inf become +-cap; a NaN stays a NaN.
///
/// Errors  precondition_error: cap is not a finite number > 0.
/// Cost    about 15 multiply-adds and two divisions, no branch.
/// Source  spec layers-losses 1.6; golden layers/softcap_*.
struct soft_cap {
  float cap;  ///< bound of the logits, > 0; 50 and 30 in published models

  template <std::floating_point T> SEQPRIM_HD constexpr T operator()(T logit, site) const noexcept {
    return static_cast<T>(cap) * detail::tanh(logit / static_cast<T>(cap));
  }
  template <std::floating_point T> SEQPRIM_HD constexpr T derivative(T logit, site) const noexcept {
    return detail::tanh_derivative(logit / static_cast<T>(cap));
  }

  constexpr void validate() const {
    SEQPRIM_EXPECTS(cap > 0.0f && cap < __builtin_huge_valf(), "score::soft_cap: cap (", cap,
                    ") must be a finite number > 0. See docs/reference/score/soft_cap.md");
  }
};
static_assert(modifier<soft_cap>);

}  // namespace seqprim::score
