// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/sampling/stage.hpp>

namespace seqprim::sampling {

/// Terminal stage: the first token of the total order, that is the likeliest; ties go to the lower id. Uses no
/// randomness.
struct greedy {
  SEQPRIM_HD constexpr index_t choose(const candidates& row, const random_stream&) const noexcept {
    return row.summary.argmax;
  }
  SEQPRIM_HD constexpr void law(const candidates& row, tensor_view<float, 1> out) const noexcept {
    out(row.summary.argmax) = 1.0f;
  }
};
static_assert(terminal<greedy>);

}  // namespace seqprim::sampling
