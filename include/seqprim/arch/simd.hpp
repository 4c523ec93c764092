// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/isa.hpp>
#include <seqprim/core/bits.hpp>
#include <seqprim/core/element.hpp>
#include <seqprim/core/index.hpp>

#include <cmath>
#include <cstdint>

namespace seqprim::arch {

/// 2^r = 1 + c[0] r + ... + c[5] r^6 for |r| <= 0.5: minimax in relative error, 2e-9 before rounding.
inline constexpr float exp2_polynomial[6] = {0x1.62e430p-1f, 0x1.ebfbdcp-3f,  0x1.c6aee8p-5f,
                                             0x1.3b2d4cp-7f, 0x1.5f3e52p-10f, 0x1.41fbbcp-13f};

namespace detail {

SEQPRIM_HD constexpr float power_of_two(int n) noexcept {
  return bit_cast<float>(static_cast<std::uint32_t>(n + 127) << 23);
}

/// 2^x for one float.
SEQPRIM_HD float exp2_float(float x) noexcept {
  const float low = x < -127.0f ? -127.0f : x;
  const float clamped = low > 128.0f ? 128.0f : low;
#if defined(__CUDA_ARCH__)
  const float n = clamped == clamped ? rintf(clamped) : 0.0f;
#else
  const float n = clamped == clamped ? __builtin_rintf(clamped) : 0.0f;
#endif
  const float r = clamped - n;
  // Scalars, because device code cannot index a host array, not even a constant one.
  constexpr float c0 = exp2_polynomial[0], c1 = exp2_polynomial[1], c2 = exp2_polynomial[2], c3 = exp2_polynomial[3],
                  c4 = exp2_polynomial[4], c5 = exp2_polynomial[5];
  const float p = (((((c5 * r + c4) * r + c3) * r + c2) * r + c1) * r + c0) * r + 1.0f;
  // Two factors: 2^n itself does not exist as a float for n = 128.
  const int half_n = static_cast<int>(n) / 2;
  const int rest = static_cast<int>(n) - half_n;
  const float result = p * power_of_two(half_n) * power_of_two(rest);
  return x < -126.0f ? 0.0f : result;
}

/// Bits of sqrt(1/2): exponents are counted from there, so that mantissas are in [sqrt(1/2), sqrt(2)).
inline constexpr std::uint32_t sqrt_half_bits = 0x3f3504f3u;

/// x = m 2^exponent, for x > 0 and finite; anything finite for others.
SEQPRIM_HD constexpr float split_float(float x, float& exponent) noexcept {
  const bool tiny = x < 0x1p-126f;
  const auto bits = bit_cast<std::uint32_t>(tiny ? x * 0x1p23f : x);
  const std::int32_t n = static_cast<std::int32_t>(bits - sqrt_half_bits) >> 23;
  exponent = static_cast<float>(tiny ? n - 23 : n);
  return bit_cast<float>(bits - (static_cast<std::uint32_t>(n) << 23));
}

}  // namespace detail

/// One register of elements of type T (float or double) under instruction set Isa, as a bundle of static functions over
/// `reg`. Loads widen float16, bfloat16 and int8, stores round float16 and bfloat16. `partial` forms touch the first n elements only (0 <= n <=
/// lanes) and read zeros beyond.
///
/// The primary template has one lane and is correct everywhere; it also serves double, which is for references and
/// gradient checks.
///
/// max(a, b) and min(a, b) return b when either is NaN. exp2: relative error < 2e-7; exp2(0) = 1 exactly; results below 2^-126 may
/// become 0; exp2(-inf) = 0, exp2(NaN) = NaN.
template <class Isa, class T> struct simd {
  static_assert(compiled_for<Isa>,
                "seqprim: this translation unit names an instruction set that its compiler flags do not allow; add the "
                "flags. See docs/reference/arch/index.md");
  static constexpr int lanes = 1;
  using reg = T;

  [[gnu::always_inline]] static reg zero() noexcept { return T{0}; }
  [[gnu::always_inline]] static reg set(T x) noexcept { return x; }
  template <class X> [[gnu::always_inline]] static reg load(const X* p) noexcept { return static_cast<T>(*p); }
  template <class X> [[gnu::always_inline]] static reg load_partial(const X* p, int n) noexcept {
    return n > 0 ? static_cast<T>(*p) : T{0};
  }
  /// Lane i holds p[-i], for i < n; zeros beyond.
  [[gnu::always_inline]] static reg load_reversed(const T* p, int n) noexcept { return n > 0 ? *p : T{0}; }
  template <class X> [[gnu::always_inline]] static void store(X* p, reg x) noexcept {
    if constexpr (sizeof(X) == 2) {
      *p = X(static_cast<float>(x));
    } else {
      *p = static_cast<X>(x);
    }
  }
  template <class X> [[gnu::always_inline]] static void store_partial(X* p, reg x, int n) noexcept {
    if (n > 0) store(p, x);
  }
  [[gnu::always_inline]] static reg add(reg a, reg b) noexcept { return a + b; }
  [[gnu::always_inline]] static reg sub(reg a, reg b) noexcept { return a - b; }
  [[gnu::always_inline]] static reg mul(reg a, reg b) noexcept { return a * b; }
  [[gnu::always_inline]] static reg div(reg a, reg b) noexcept { return a / b; }
  [[gnu::always_inline]] static reg fma(reg a, reg b, reg c) noexcept { return a * b + c; }
  [[gnu::always_inline]] static reg max(reg a, reg b) noexcept { return a > b ? a : b; }
  [[gnu::always_inline]] static reg min(reg a, reg b) noexcept { return a < b ? a : b; }
  [[gnu::always_inline]] static reg sqrt(reg x) noexcept { return std::sqrt(x); }
  [[gnu::always_inline]] static reg exp2(reg x) noexcept {
    if constexpr (sizeof(T) == 8) {
      return std::exp2(x);
    } else {
      return detail::exp2_float(x);
    }
  }
  /// x = m 2^exponent with m in [sqrt(1/2), sqrt(2)), for x > 0 and finite; anything finite for others. Float only.
  [[gnu::always_inline]] static reg split(reg x, reg& exponent) noexcept {
    static_assert(sizeof(T) == 4, "seqprim: split takes floats");
    return detail::split_float(x, exponent);
  }
  /// Which lanes: an answer for each.
  using lane_mask = bool;
  /// Lanes with lower[lane] <= index < upper[lane].
  [[gnu::always_inline]] static lane_mask in_run(std::int32_t index, const std::int32_t* lower,
                                                 const std::int32_t* upper) noexcept {
    return lower[0] <= index && index < upper[0];
  }
  /// Lanes in [lower, upper).
  [[gnu::always_inline]] static lane_mask lanes_in(std::int32_t lower, std::int32_t upper) noexcept {
    return lower <= 0 && 0 < upper;
  }
  /// Lanes with lower <= labels[lane] < upper.
  [[gnu::always_inline]] static lane_mask labels_in(const std::int32_t* labels, std::int32_t lower,
                                                    std::int32_t upper) noexcept {
    return lower <= labels[0] && labels[0] < upper;
  }
  /// Lanes whose bit of `bits` is set, the first in the lowest bit.
  [[gnu::always_inline]] static lane_mask lanes_of_bits(std::uint32_t bits) noexcept { return (bits & 1u) != 0; }
  /// Lanes whose word has this bit set.
  [[gnu::always_inline]] static lane_mask lanes_with_bit(const std::uint64_t* words, int bit) noexcept {
    return (words[0] >> bit & 1u) != 0;
  }
  /// Lanes whose byte is not 0.
  [[gnu::always_inline]] static lane_mask lanes_of(const unsigned char* bytes) noexcept { return bytes[0] != 0; }
  /// Lanes with a > b; where either is NaN, not.
  [[gnu::always_inline]] static lane_mask larger(reg a, reg b) noexcept { return a > b; }
  [[gnu::always_inline]] static bool any(lane_mask m) noexcept { return m; }
  [[gnu::always_inline]] static lane_mask both(lane_mask a, lane_mask b) noexcept { return a && b; }
  [[gnu::always_inline]] static lane_mask either(lane_mask a, lane_mask b) noexcept { return a || b; }
  [[gnu::always_inline]] static lane_mask inverse(lane_mask a) noexcept { return !a; }
  /// x in the lanes of the mask, elsewhere `otherwise`.
  [[gnu::always_inline]] static reg select(lane_mask m, reg x, reg otherwise) noexcept { return m ? x : otherwise; }
  [[gnu::always_inline]] static T sum(reg x) noexcept { return x; }
  [[gnu::always_inline]] static reg reduce_add(const reg* x) noexcept { return *x; }
  [[gnu::always_inline]] static T maximum(reg x) noexcept { return x; }
};

/// De-interleaving load of narrow elements: lane i of register n holds element registers * i + n, which is cheaper than loads in
/// order. One register, in order, where the instruction set gains nothing.
template <class Isa, class X> struct woven_load {
  static constexpr int registers = 1;
  [[gnu::always_inline]] static void load(const X* p, typename simd<Isa, float>::reg (&x)[1]) noexcept {
    x[0] = simd<Isa, float>::load(p);
  }
};

/// Two bfloat16 elements in one word, the first in the low half: two neighbors of a bfloat16 array may be read as one.
struct [[gnu::may_alias]] bfloat16_pair {
  std::uint32_t bits;
};

/// Products of bfloat16 pairs with float sums, where the instruction set has them.
template <class Isa> struct pair_products { static constexpr bool available = false; };

}  // namespace seqprim::arch

#if SEQPRIM_ISA % 100 >= 1
#  include <seqprim/arch/simd_avx2.hpp>
#endif
#if SEQPRIM_ISA % 100 >= 2
#  include <seqprim/arch/simd_avx512.hpp>
#endif
