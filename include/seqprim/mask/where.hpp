// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/subject.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// A bare predicate as a mask: nothing is known about its tiles, so every one is tested pair by pair. The quickest way to
/// try an idea; write classify() (see docs/reference/mask/rule.md) or wrap it in a `block_map` before it meets long
/// sequences.
///
///     mask::where{[](index_t q, index_t k) { return (q + k) % 2 == 0; }}
///
/// The predicate must be pure, trivially copyable and noexcept in spirit; a kernel on the device needs a device functor. One that
/// reads a table says where it ends:
///
///     mask::where{[blocks](index_t q, index_t k) { return blocks(q / 16, k / 16); }, {.queries = {0, q_len}, .keys = {0, k_len}}}
///
/// Errors  precondition_error: queries or keys of the call outside of `table`.
/// Cost    every tile is partial: no work is skipped.
template <answers_per_element Predicate> struct where {
  Predicate predicate;
  limits table{};  ///< where the predicate may be evaluated, if it reads a table; all integers if not

  static constexpr subject self{"mask::where", "mask/where"};

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept { return predicate(q, k); }
  SEQPRIM_HD constexpr tile_kind classify(range, range) const noexcept { return tile_kind::partial; }
  SEQPRIM_HD constexpr limits table_limits() const noexcept { return table; }

  constexpr void validate(const shape& problem) const { expect_in_table(self, table, problem); }
};
template <class Predicate> where(Predicate) -> where<Predicate>;
template <class Predicate> where(Predicate, limits) -> where<Predicate>;

}  // namespace seqprim::mask
