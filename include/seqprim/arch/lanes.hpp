// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/simd.hpp>

namespace seqprim::arch {

/// One register as a value with arithmetic: what a formula that is written once gets in place of a float when a kernel works on
/// many elements at once. Arithmetic and the functions of arch/math.hpp mean the same as for one element, lane by lane.
template <class Isa, class T> struct lanes {
  using isa = Isa;
  using value_type = T;
  using v = simd<Isa, T>;
  static constexpr int count = v::lanes;

  typename v::reg reg;

  lanes() = default;
  [[gnu::always_inline]] lanes(typename v::reg r) noexcept requires(v::lanes > 1)
      : reg(r) {}                                                 // NOLINT: a register is lanes
  [[gnu::always_inline]] lanes(T x) noexcept : reg(v::set(x)) {}  // NOLINT: as in T{2} * x

  /// Loads widen float16, bfloat16 and int8, stores round. With n, the first n elements only; lanes beyond read as zero.
  template <class X> [[nodiscard, gnu::always_inline]] static lanes load(const X* p) noexcept { return v::load(p); }
  template <class X> [[nodiscard, gnu::always_inline]] static lanes load(const X* p, int n) noexcept {
    return v::load_partial(p, n);
  }
  /// Lane i holds p[-i], for i < n; zeros beyond.
  [[nodiscard, gnu::always_inline]] static lanes load_reversed(const T* p, int n) noexcept {
    return v::load_reversed(p, n);
  }
  template <class X> [[gnu::always_inline]] void store(X* p) const noexcept { v::store(p, reg); }
  template <class X> [[gnu::always_inline]] void store(X* p, int n) const noexcept { v::store_partial(p, reg, n); }

  [[gnu::always_inline]] friend lanes operator+(lanes a, lanes b) noexcept { return v::add(a.reg, b.reg); }
  [[gnu::always_inline]] friend lanes operator-(lanes a, lanes b) noexcept { return v::sub(a.reg, b.reg); }
  [[gnu::always_inline]] friend lanes operator*(lanes a, lanes b) noexcept { return v::mul(a.reg, b.reg); }
  [[gnu::always_inline]] friend lanes operator/(lanes a, lanes b) noexcept { return v::div(a.reg, b.reg); }
  [[gnu::always_inline]] friend lanes operator-(lanes a) noexcept { return v::sub(v::zero(), a.reg); }
  [[gnu::always_inline]] lanes& operator+=(lanes other) noexcept { return *this = *this + other; }

  /// The smaller and the larger; where either is NaN, the first.
  [[gnu::always_inline]] friend lanes min_of(lanes a, lanes b) noexcept { return v::min(b.reg, a.reg); }
  [[gnu::always_inline]] friend lanes max_of(lanes a, lanes b) noexcept { return v::max(b.reg, a.reg); }

  // Names of score/number.hpp.
  [[gnu::always_inline]] friend lanes multiply_add(lanes a, lanes b, lanes c) noexcept {
    return v::fma(a.reg, b.reg, c.reg);
  }
  [[gnu::always_inline]] friend lanes at_least(lanes x, lanes low) noexcept { return max_of(x, low); }
  [[gnu::always_inline]] friend lanes at_most(lanes x, lanes high) noexcept { return min_of(x, high); }
  [[gnu::always_inline]] friend lanes magnitude(lanes x) noexcept { return max_of(x, -x); }
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

/// The sum and the largest of all lanes.
template <class Isa, class T> [[nodiscard, gnu::always_inline]] inline T sum(lanes<Isa, T> x) noexcept {
  return lanes<Isa, T>::v::sum(x.reg);
}
template <class Isa, class T> [[nodiscard, gnu::always_inline]] inline T maximum(lanes<Isa, T> x) noexcept {
  return lanes<Isa, T>::v::maximum(x.reg);
}

}  // namespace seqprim::arch
