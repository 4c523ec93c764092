// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index.hpp>
#include <seqprim/core/index_array.hpp>

namespace seqprim {

/// Positions of the first row of each batch row: one number for all, or one for each.
///
///     starts(b)  =  common                    where `ends` is empty
///     starts(b)  =  ends[b] - len             otherwise: the `len` rows of b end where b ends
///
/// Trivially copyable: masks, scores and position maps carry it into a kernel.
struct row_starts {
  index_t common = 0;  ///< position of row 0 [tokens]
  index_array ends{};  ///< [batch] positions behind the last row; empty: `common` holds
  index_t len = 0;     ///< rows of each batch row

  [[nodiscard]] SEQPRIM_HD constexpr index_t operator()(index_t b) const noexcept {
    return ends.size() == 0 ? common : ends[b] - len;
  }
  [[nodiscard]] SEQPRIM_HD constexpr bool one_for_all() const noexcept { return ends.size() == 0; }

  [[nodiscard]] SEQPRIM_HD constexpr bool host_readable() const noexcept {
    return one_for_all() || ends.host_readable();
  }

  /// From the least to behind the greatest start of the first `batch` rows; empty where the host cannot read them.
  [[nodiscard]] constexpr range bounds(index_t batch) const noexcept {
    if (one_for_all()) return {common, common + 1};
    range result{};
    for (index_t b = 0; b < batch && ends.host_readable(); ++b)
      result = bounding_range(result, range{(*this)(b), (*this)(b) + 1});
    return result;
  }
};

}  // namespace seqprim
