// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/mask/rule.hpp>

#include <cstdint>

namespace seqprim::mask {

/// A boolean matrix as a mask. For interoperability and tests; it costs q_len * k_len bytes of
/// memory and traffic that every other mask avoids.
///
///     visible(q, k)  <=>  visible[q][k]
///
/// Rows are queries and the last query of a call is the last row, so that a [q_len, k_len] matrix of one call fits, and so does
/// one of a whole sequence while it is decoded.
///
/// Errors  precondition_error: asked for queries or keys that the matrix does not have.
/// Cost    classify() reads the tile, until it has seen both values; exact. On CUDA, where every lane of a block would read it, it reads
///         nothing and every tile is partial: no tile is skipped, and each pair is read once. A `block_map` reads the matrix once, and its
///         tiles are exact in both places.
struct dense {
  tensor_view<const bool, 2> visible;  ///< [q_len, k_len], any strides

  static constexpr subject self{"mask::dense", "mask/dense"};

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept { return visible(q, k); }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept {
#if defined(__CUDA_ARCH__)
    return tile_kind::partial;
#else
    if (!__builtin_is_constant_evaluated() && visible.stride(1) == 1) {
      // All rows at once: they lie too far apart for what a processor fetches by itself.
      for (index_t i = q.begin; i < q.end; ++i)
        for (index_t j = k.begin; j < k.end; j += 64) __builtin_prefetch(&visible(i, j));
    }
    const bool corner = visible(q.begin, k.begin);
    for (index_t i = q.begin; i < q.end; ++i) {
      index_t j = k.begin;
      if (!__builtin_is_constant_evaluated() && visible.stride(1) == 1) {
        // Eight answers at a time: a true is the byte 1.
        constexpr index_t step = 8;
        const std::uint64_t expected = corner ? 0x0101010101010101u : 0u;
        for (const bool* row = &visible(i, 0); j + step <= k.end; j += step) {
          std::uint64_t word;
          __builtin_memcpy(&word, row + j, sizeof word);
          if (word != expected) return tile_kind::partial;
        }
      }
      for (; j < k.end; ++j)
        if (visible(i, j) != corner) return tile_kind::partial;
    }
    return corner ? tile_kind::full : tile_kind::empty;
#endif
  }

  /// The last query of a call is the last row of the matrix.
  SEQPRIM_HD constexpr row_starts query_starts(index_t q_len, index_t) const noexcept {
    return {.common = visible.extent(0) - q_len};
  }

  SEQPRIM_HD constexpr limits table_limits() const noexcept { return {{0, visible.extent(0)}, {0, visible.extent(1)}}; }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const { visit(self, "visible", visible); }

  constexpr void validate(const shape& problem) const { expect_in_table(self, table_limits(), problem); }
};
static_assert(rule<dense>);

/// A boolean matrix per batch row and head; an axis of extent 1 is shared. Binds to `dense`.
///
/// Errors  precondition_error: an extent is neither 1 (batch, heads) nor large enough.
struct dense_per_head {
  tensor_view<const bool, 4> visible;  ///< [batch or 1, heads or 1, q_len, k_len], any strides

  SEQPRIM_HD constexpr dense bind(index_t batch, index_t head) const noexcept {
    return {.visible = visible[visible.extent(0) == 1 ? 0 : batch][visible.extent(1) == 1 ? 0 : head]};
  }

  /// The last query of a call is the last row of the matrices.
  SEQPRIM_HD constexpr row_starts query_starts(index_t q_len, index_t) const noexcept {
    return {.common = visible.extent(2) - q_len};
  }

  static constexpr subject self{"mask::dense_per_head", "mask/dense"};

  template <class Visit> constexpr void for_arrays(const Visit& visit) const { visit(self, "visible", visible); }

  constexpr void validate(const shape& problem) const {
    const auto fits = [](index_t extent, index_t n) { return extent == 1 || extent >= n; };
    self.expects(fits(visible.extent(0), problem.batch) && fits(visible.extent(1), problem.heads),
                 "the matrices are for ", visible.extent(0), " batch rows and ", visible.extent(1),
                 " heads, the call has ", problem.batch, " and ", problem.heads, "; an axis must fit or be 1");
    expect_in_table(self, {{0, visible.extent(2)}, {0, visible.extent(3)}}, problem);
  }
};
static_assert(depends_on_batch_or_head<dense_per_head>);

}  // namespace seqprim::mask
