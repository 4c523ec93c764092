// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index.hpp>

namespace seqprim::loss {

/// Tuning parameters of the fused head: they change speed and memory, never the result beyond rounding.
struct linear_cross_entropy_policy {
  index_t chunk_numbers = index_t{1} << 20;  ///< logits that exist at a time
  index_t least_rows = 64;                   ///< below, products with the weights would read them too often

  [[nodiscard]] constexpr index_t chunk_rows(index_t vocab) const noexcept {
    return max(least_rows, chunk_numbers / max<index_t>(vocab, 1));
  }
};

/// Default choice; pass a type of your own with the same call operator to override it.
struct default_linear_cross_entropy_policy {
  constexpr linear_cross_entropy_policy operator()() const noexcept { return {}; }
};

}  // namespace seqprim::loss
