// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/sampling/stage.hpp>

namespace seqprim::sampling {

/// Keeps the `count` first tokens of the total order: exactly that many, ties by the lower token id.
///
/// Edge    count <= 0 or >= the number of tokens keeps everything.
/// Errors  validate() throws precondition_error when count > 2^31 - 1.
/// Cost    radix selection: one pass over the row, then passes over what may still be kept.
/// Source  Fan, Lewis and Dauphin, "Hierarchical neural story generation".
struct top_k {
  index_t count;

  SEQPRIM_HD constexpr prefix limit(const row_summary&) const noexcept {
    return count > 0 ? prefix{.count = count} : prefix{};
  }

  constexpr void validate() const {
    SEQPRIM_EXPECTS(count <= std::numeric_limits<std::int32_t>::max(), "top_k: the count (", count,
                    ") must be <= 2147483647. See docs/reference/sampling/top_k.md");
  }
};
static_assert(order<top_k>);

}  // namespace seqprim::sampling
