// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/position/rule.hpp>

namespace seqprim::position {

/// Positions that count up by one: row r has position start + r. With a cache of n keys, new tokens start at n.
struct sequential {
  index_t start = 0;  ///< position of row 0 [tokens]; may be negative

  SEQPRIM_HD constexpr index_t operator()(index_t row) const noexcept { return start + row; }
};
static_assert(map<sequential>);

}  // namespace seqprim::position
