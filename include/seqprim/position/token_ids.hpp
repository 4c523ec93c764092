// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/index_array.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/position/rule.hpp>

namespace seqprim::position {

/// Positions that the caller lists, one for each row: packed documents that restart at 0, trees, anything.
///
/// Errors  precondition_error: fewer ids than rows.
struct token_ids {
  index_array ids;  ///< [len]

  SEQPRIM_HD constexpr index_t operator()(index_t row) const noexcept { return ids[row]; }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    visit(subject{"position::token_ids", "position/token_ids"}, "ids", ids);
  }

  constexpr void validate(index_t, index_t len) const {
    SEQPRIM_EXPECTS(ids.size() >= len, "position::token_ids: ", ids.size(), " ids for ", len,
                    " rows. See docs/reference/position/token_ids.md");
  }
};
static_assert(map<token_ids>);

/// The same with a list for each batch row: left padding, for one.
///
/// Errors  precondition_error: fewer lists than batch rows, or fewer ids than rows.
struct token_ids_per_batch {
  tensor_view<const index_t, 2> ids;  ///< [batch, len], any strides

  SEQPRIM_HD constexpr token_ids bind(index_t batch) const noexcept { return {.ids = ids[batch]}; }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    visit(subject{"position::token_ids_per_batch", "position/token_ids"}, "ids", ids);
  }

  constexpr void validate(index_t batch, index_t len) const {
    SEQPRIM_EXPECTS(ids.extent(0) >= batch && ids.extent(1) >= len, "position::token_ids_per_batch: ids are [",
                    ids.extent(0), ", ", ids.extent(1), "] but [batch, len] is [", batch, ", ", len,
                    "]. See docs/reference/position/token_ids.md");
  }
};
static_assert(depends_on_batch<token_ids_per_batch>);

}  // namespace seqprim::position
