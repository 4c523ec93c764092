// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/simd.hpp>

namespace seqprim::arch {

/// One register as a value with arithmetic: what a score modifier gets in place of a float when a kernel works on many logits at once.
/// Arithmetic and the functions below mean the same as for one element, lane by lane.
template <class Isa, class T> struct lanes {
  using v = simd<Isa, T>;
  typename v::reg reg;

  [[gnu::always_inline]] lanes(typename v::reg r) noexcept requires(v::lanes > 1)
      : reg(r) {}                                                 // NOLINT: a register is lanes
  [[gnu::always_inline]] lanes(T x) noexcept : reg(v::set(x)) {}  // NOLINT: as in T{2} * x

  [[gnu::always_inline]] friend lanes operator+(lanes a, lanes b) noexcept { return v::add(a.reg, b.reg); }
  [[gnu::always_inline]] friend lanes operator-(lanes a, lanes b) noexcept { return v::sub(a.reg, b.reg); }
  [[gnu::always_inline]] friend lanes operator*(lanes a, lanes b) noexcept { return v::mul(a.reg, b.reg); }
  [[gnu::always_inline]] friend lanes operator/(lanes a, lanes b) noexcept { return v::div(a.reg, b.reg); }
  [[gnu::always_inline]] friend lanes operator-(lanes a) noexcept { return v::sub(v::zero(), a.reg); }

  /// a b + c.
  [[gnu::always_inline]] friend lanes multiply_add(lanes a, lanes b, lanes c) noexcept {
    return v::fma(a.reg, b.reg, c.reg);
  }
  /// The larger and the smaller; where x is NaN, NaN.
  [[gnu::always_inline]] friend lanes at_least(lanes x, lanes low) noexcept { return v::max(low.reg, x.reg); }
  [[gnu::always_inline]] friend lanes at_most(lanes x, lanes high) noexcept { return v::min(high.reg, x.reg); }
  [[gnu::always_inline]] friend lanes magnitude(lanes x) noexcept { return v::max(v::sub(v::zero(), x.reg), x.reg); }
  /// e^x, relative error below 3e-7 and |x| 1e-7.
  [[gnu::always_inline]] friend lanes exponential(lanes x) noexcept {
    return v::exp2(v::mul(x.reg, v::set(static_cast<T>(1.4426950408889634))));
  }
};

/// 0, 1, 2, ...
template <class Isa, class T> [[nodiscard, gnu::always_inline]] inline lanes<Isa, T> iota() noexcept {
  using v = simd<Isa, T>;
  T numbers[v::lanes];
  for (int i = 0; i < v::lanes; ++i) numbers[i] = static_cast<T>(i);
  return v::load(numbers);
}

}  // namespace seqprim::arch
