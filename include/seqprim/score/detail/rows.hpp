// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/score/rule.hpp>

namespace seqprim::score::detail {

/// Values along keys or queries: [1 or batch, 1 or heads, length].
using rows = tensor_view<const float, 3>;

/// The row of one (batch, head).
[[nodiscard]] SEQPRIM_HD constexpr const float* row_of(const rows& all, index_t batch, index_t head) noexcept {
  return all.data + (all.extent(0) > 1 ? batch : 0) * all.stride(0) + (all.extent(1) > 1 ? head : 0) * all.stride(1);
}

/// There is a row for each batch row and head, or one for all, and its elements are neighbors.
SEQPRIM_INLINE constexpr void expect_rows(const subject& self, const char* operand, const rows& all,
                                          const shape& problem) {
  self.expects_contiguous(operand, all);
  self.expects(all.extent(0) == 1 || all.extent(0) >= problem.batch, operand, " has ", all.extent(0),
               " batch rows (axis 0) but the call has ", problem.batch);
  self.expects(all.extent(1) == 1 || all.extent(1) == problem.heads, operand, " has ", all.extent(1),
               " heads (axis 1) but the call has ", problem.heads);
}

}  // namespace seqprim::score::detail
