// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// Queries and keys exchanged: query q attends to key k where `inner` lets query k attend to key q. One range of queries per key
/// instead of one range of keys per query: ancestors in a draft tree, global tokens that attend to everything.
///
///     visible(q, k)  <=>  inner(k, q)
///
/// Errors  precondition_error: those of `inner` for as many queries as there are keys.
/// Cost    that of `inner`, in kernels too.
template <bindable Inner> struct transposed {
  Inner inner;

  static constexpr subject self{"mask::transposed", "mask/transposed"};

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept requires rule<Inner> { return inner(k, q); }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept requires rule<Inner> {
    return inner.classify(k, q);
  }

  SEQPRIM_HD constexpr range key_bounds(range q, index_t k_len) const noexcept requires rule<Inner> {
    return mask::query_bounds(inner, q, range{0, k_len});
  }
  SEQPRIM_HD constexpr range query_bounds(range k, index_t q_len) const noexcept requires rule<Inner> {
    if constexpr (one_range_per_row<Inner>) {
      return detail::visible_bounds(inner, k, {-unlimited, q_len});
    } else {
      // Bounds of keys begin at 0, queries may be below.
      const range bounds = mask::key_bounds(inner, k, q_len);
      return {mask::table_limits(inner).keys.begin < 0 ? -unlimited : bounds.begin, max_of<index_t>(bounds.end, 0)};
    }
  }

  SEQPRIM_HD constexpr limits table_limits() const noexcept requires reads_table<Inner> {
    const limits table = inner.table_limits();
    return {table.keys, table.queries};
  }

  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept requires depends_on_batch_or_head<Inner> {
    return transposed<bound<Inner>>{mask::bind(inner, batch, head)};
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const { seqprim::for_arrays(inner, visit); }

  constexpr void validate() const { mask::validate(inner); }
  constexpr void validate(const shape& problem) const {
    const index_t q_end = max_of<index_t>(problem.start + problem.q_len, 0);
    mask::validate(inner, shape{problem.batch, problem.heads, problem.k_len, q_end});
    if constexpr (reads_table<Inner>) expect_in_table(self, table_limits(), problem);
  }
};
template <bindable Inner> transposed(Inner) -> transposed<Inner>;

template <class M> inline constexpr bool is_transposed = false;
template <class Inner> inline constexpr bool is_transposed<transposed<Inner>> = true;

}  // namespace seqprim::mask
