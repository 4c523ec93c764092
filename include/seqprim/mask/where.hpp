// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// A bare predicate as a mask: nothing is known about its tiles, so every one is asked pair by pair. The quickest way to
/// try an idea; write classify() (see docs/reference/mask/rule.md) or wrap it in a `block_map` before it meets long
/// sequences.
///
///     mask::where{[](index_t q, index_t k) { return (q + k) % 2 == 0; }}
///
/// The predicate must be pure, trivially copyable and noexcept in spirit; a kernel on the device needs a device functor.
///
/// Cost    every tile is partial: no work is skipped.
/// Source  spec masks-text 2.
template <answers_per_element Predicate> struct where {
  Predicate predicate;

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept { return predicate(q, k); }
  SEQPRIM_HD constexpr tile_kind classify(range, range) const noexcept { return tile_kind::partial; }
};
template <class Predicate> where(Predicate) -> where<Predicate>;

}  // namespace seqprim::mask
