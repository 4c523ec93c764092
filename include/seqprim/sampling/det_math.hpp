// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/bits.hpp>
#include <seqprim/core/config.hpp>

#include <cstdint>

/// Logarithm, exponential and noise with the same bits on every processor, compiler and device, and under all flags.
///
/// The last bit of a library logf or expf differs between platforms, and one bit is enough to flip an argmax. Here
/// every operation is one float operation, rounded on its own: no fused multiply-add, no reassociation, whatever flags
/// the user compiles with (-mfma, -ffp-contract=fast, -ffast-math). On the host an empty assembly statement hides each
/// result from the optimizer; on the device the operations are `__fmul_rn`, `__fadd_rn`, `__fdiv_rn`. All functions are
/// constant expressions. Page: docs/reference/sampling/det_math.md
namespace seqprim::sampling {

namespace detail {

/// x, but the optimizer cannot see where it comes from, so it can neither fuse nor reorder what follows. No instruction.
[[nodiscard]] SEQPRIM_HD constexpr float rounded(float x) noexcept {
#if !defined(__CUDA_ARCH__)
  if (!__builtin_is_constant_evaluated()) {
#  if defined(__SSE__)
    asm("" : "+x"(x));
#  elif defined(__aarch64__)
    asm("" : "+w"(x));
#  else
    asm("" : "+m"(x));
#  endif
  }
#endif
  return x;
}

[[nodiscard]] SEQPRIM_HD constexpr float multiply(float a, float b) noexcept {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return rounded(a * b);
#endif
}

[[nodiscard]] SEQPRIM_HD constexpr float add(float a, float b) noexcept {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return rounded(a + b);
#endif
}

[[nodiscard]] SEQPRIM_HD constexpr float divide(float a, float b) noexcept {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);
#else
  return rounded(rounded(a) / rounded(b));  // the divisor is new each time: no shared, rounded reciprocal
#endif
}

/// 2^n for -126 <= n <= 127.
[[nodiscard]] SEQPRIM_HD constexpr float power_of_two(int n) noexcept {
  return bit_cast<float>(static_cast<std::uint32_t>(n + 127) << 23);
}

}  // namespace detail

/// Natural logarithm of a positive, finite x. Relative error < 1e-7 except near x = 1, where the absolute error is <
/// 1e-7.
[[nodiscard]] SEQPRIM_HD constexpr float det_log(float x) noexcept {
  using detail::add, detail::multiply;
  constexpr float c[9] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,  -1.2420140846e-1f, 1.4249322787e-1f,
                          -1.6668057665e-1f, 2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
  int exponent = -126;
  if (bit_cast<std::uint32_t>(x) < 0x00800000u) {  // subnormal
    x = multiply(x, 0x1p24f);
    exponent -= 24;
  }
  const auto bits = bit_cast<std::uint32_t>(x);
  exponent += static_cast<int>(bits >> 23);
  const float mantissa = bit_cast<float>((bits & 0x007fffffu) | 0x3f000000u);  // [0.5, 1)
  const bool low = mantissa < 0.70710678f;
  const float m = add(low ? mantissa + mantissa : mantissa, -1.0f);
  const float e = static_cast<float>(low ? exponent - 1 : exponent);
  const float z = multiply(m, m);
  float y = c[0];
  for (int i = 1; i < 9; ++i) y = add(multiply(y, m), c[i]);
  y = multiply(multiply(y, m), z);
  y = add(y, multiply(-2.12194440e-4f, e));
  y = add(y, multiply(-0.5f, z));
  return add(add(m, y), multiply(0.693359375f, e));
}

/// e^x. Zero for x < -87, infinity where the result exceeds the largest float. Relative error < 1e-7.
[[nodiscard]] SEQPRIM_HD constexpr float det_exp(float x) noexcept {
  using detail::add, detail::multiply;
  constexpr float d[6] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                          4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
  if (x < -87.0f) return 0.0f;
  if (x > 89.0f) return bit_cast<float>(0x7f800000u);
  const float t = add(multiply(x, 1.44269504f), 0.5f);
  const int truncated = static_cast<int>(t);
  const int n = truncated - (static_cast<float>(truncated) > t ? 1 : 0);  // floor
  float a = add(x, -multiply(static_cast<float>(n), 0.693359375f));
  a = add(a, -multiply(static_cast<float>(n), -2.12194440e-4f));
  float y = d[0];
  for (int i = 1; i < 6; ++i) y = add(multiply(y, a), d[i]);
  y = add(add(multiply(y, multiply(a, a)), a), 1.0f);
  // Two factors: 2^128 is no float, but half of it times two may be a result.
  return multiply(multiply(y, detail::power_of_two(n / 2)), detail::power_of_two(n - n / 2));
}

/// A draw from the exponential distribution with mean 1, from one random word: monotone in the word, in [1.16e-10,
/// 16.64], with full relative precision near 0.
[[nodiscard]] SEQPRIM_HD constexpr float unit_exponential(std::uint32_t word) noexcept {
  using detail::add, detail::multiply;
  constexpr float largest = 1.0f - 0x1p-24f;
  const float u = multiply(add(static_cast<float>(word), 0.5f), 0x1p-32f);
  const float t = u < largest ? u : largest;
  const float w = add(1.0f, -t);
  const float d = add(1.0f, -w);  // what is left of t after rounding; the quotient puts the lost part back
  if (d == 0.0f) return t;
  return multiply(-det_log(w), detail::divide(t, d));
}

/// A draw from the standard Gumbel distribution: -log(unit_exponential(word)), in [-2.8116, 22.874].
[[nodiscard]] SEQPRIM_HD constexpr float gumbel(std::uint32_t word) noexcept {
  return -det_log(unit_exponential(word));
}

}  // namespace seqprim::sampling
