// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/mask/rule.hpp>

#include <cstdint>

namespace seqprim::mask {

/// A bit for each pair, in words of 64 keys: draft trees of a few dozen nodes, tables between segments, masks that change with
/// every step. An eighth of the memory of `dense`, and kernels read whole registers of bits.
///
///     visible(q, k)  <=>  bit (k - first_key) mod 64 of words[q][(k - first_key) / 64] is set
///
/// Keys before first_key and behind the last word are hidden: `key_concat` puts a cache before the words of a tree, and `by_label`
/// turns a table between segments into a mask of tokens.
///
/// Errors  precondition_error: queries of the call at positions that the words do not have.
/// Cost    a load per pair; a tile reads its words until it has met both values. classify() is exact.
/// Source  row bits of draft trees: Cai et al., "Medusa: Simple LLM inference acceleration framework with multiple decoding
///         heads".
struct row_words {
  tensor_view<const std::uint64_t, 2> words;  ///< [queries, words], any strides
  index_t first_key = 0;                      ///< the key of the lowest bit of a row

  static constexpr subject self{"mask::row_words", "mask/row_words"};

  /// The bits of query q for the 64 keys from `key` on, the first in the lowest bit.
  [[nodiscard]] SEQPRIM_HD constexpr std::uint64_t bits(index_t q, index_t key) const noexcept {
    const index_t word = floor_div(key - first_key, 64), shift = floor_mod(key - first_key, 64);
    const auto at = [&](index_t w) { return 0 <= w && w < words.extent(1) ? words(q, w) : std::uint64_t{0}; };
    return shift == 0 ? at(word) : at(word) >> shift | at(word + 1) << (64 - shift);
  }

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept { return (bits(q, k) & 1u) != 0; }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept {
    bool any = false, all = true;
    for (index_t row = q.begin; row < q.end; ++row)
      for (index_t key = k.begin; key < k.end; key += 64) {
        const std::uint64_t live = ~std::uint64_t{0} >> (64 - min_of<index_t>(k.end - key, 64));
        const std::uint64_t seen = bits(row, key) & live;
        any = any || seen != 0;
        all = all && seen == live;
        if (any && !all) return tile_kind::partial;
      }
    return all ? tile_kind::full : tile_kind::empty;
  }

  SEQPRIM_HD constexpr range key_bounds(range, index_t) const noexcept {
    return {first_key, first_key + 64 * words.extent(1)};
  }
  SEQPRIM_HD constexpr limits table_limits() const noexcept { return {.queries = {0, words.extent(0)}}; }

  /// The last query of a call is the last one of the table.
  SEQPRIM_HD constexpr row_starts query_starts(index_t q_len, index_t) const noexcept {
    return {.common = words.extent(0) - q_len};
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const { visit(self, "words", words); }

  constexpr void validate(const shape& problem) const { expect_in_table(self, table_limits(), problem); }
};
static_assert(rule<row_words>);

}  // namespace seqprim::mask
