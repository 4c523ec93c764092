// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/simd.hpp>
#include <seqprim/core/parallel.hpp>

/// Loops over contiguous elements, one register at a time. The body is written once and called with `whole` registers, and
/// with `first_lanes` for what is left at the end.
namespace seqprim::nn::detail {

template <class V> struct whole {
  template <class X> [[gnu::always_inline]] typename V::reg load(const X* p) const noexcept { return V::load(p); }
  template <class X> [[gnu::always_inline]] void store(X* p, typename V::reg x) const noexcept { V::store(p, x); }
};

template <class V> struct first_lanes {
  int count;
  template <class X> [[gnu::always_inline]] typename V::reg load(const X* p) const noexcept {
    return V::load_partial(p, count);
  }
  template <class X> [[gnu::always_inline]] void store(X* p, typename V::reg x) const noexcept {
    V::store_partial(p, x, count);
  }
};

/// body(position, part): part.load(p + position) and part.store(...) touch what exists; lanes beyond read as zero.
template <class V, class Body> [[gnu::always_inline]] inline void for_lanes(index_t count, const Body& body) {
  index_t j = 0;
  for (; j + V::lanes <= count; j += V::lanes) body(j, whole<V>{});
  if (j < count) body(j, first_lanes<V>{static_cast<int>(count - j)});
}

/// The same over one long array, in parallel. Elements do not depend on each other, so the cut does not show.
template <class V, class Body> void for_elements(const cpu& executor, index_t count, const Body& body) {
  constexpr index_t piece = 1 << 14;
  parallel_for(executor, ceil_div(count, piece), [&](index_t p, int) {
    const index_t begin = p * piece;
    for_lanes<V>(min(piece, count - begin), [&](index_t j, auto part) { body(begin + j, part); });
  });
}

}  // namespace seqprim::nn::detail
