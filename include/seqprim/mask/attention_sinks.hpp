// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/key_range.hpp>
#include <seqprim/mask/rule.hpp>
#include <seqprim/mask/sliding_window.hpp>

namespace seqprim::mask {

/// Attention sinks: a causal window that never forgets the first keys.
///
///     visible(q, k)  <=>  k <= q  and  (k < sinks or k > q - window)
///
/// A row has at most two ranges of visible keys: [0, sinks) and the newest `window`, its own included. Positions are the original
/// ones. `sinks` = 0 leaves `causal_window(window)`; `window` may be `unlimited`, which leaves `causal`.
///
/// Errors  precondition_error: sinks < 0, window < 1, either above `unlimited`.
/// Cost    O(1) per pair and per tile; classify() is exact for tiles of any size.
/// Source  Xiao et al., "Efficient streaming language models with attention sinks".
struct attention_sinks {
  index_t sinks;   ///< first keys that stay visible [tokens]; 4 in published models
  index_t window;  ///< newest keys that are visible, the query's own included [tokens]

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept {
    return k <= q && (k < sinks || k > q - window);
  }

  /// The same rule, made of rules with one range of keys per row: kernels compare with ranges instead of evaluating each pair.
  SEQPRIM_HD constexpr auto composition() const noexcept {
    return causal{} & (key_range{-unlimited, sinks} | sliding_window{.left = window - 1, .right = unlimited});
  }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept {
    const index_t first = q.begin;
    const index_t last = q.end - 1;
    // The latest row sees most of the sinks; the window is a band of distances, and a tile holds every distance between
    // those of its two extreme corners.
    const bool some_sink = k.begin < sinks && k.begin <= last;
    const bool some_window = k.begin <= last && k.end - 1 > first - window;
    if (!some_sink && !some_window) return tile_kind::empty;
    // Keys can be hidden for two reasons: they lie in the future (worst in the first row), or they are forgotten: neither
    // sink nor in the window (worst in the last row, whose forgotten keys are [sinks, last - window]).
    const bool some_future = k.end - 1 > first;
    const bool some_forgotten = max_of(k.begin, sinks) <= min_of(k.end - 1, last - window);
    return some_future || some_forgotten ? tile_kind::partial : tile_kind::full;
  }

  SEQPRIM_HD constexpr range key_bounds(range q, index_t) const noexcept {
    const index_t oldest = sinks > 0 ? 0 : q.begin - window + 1;
    return {oldest, q.end};
  }

  SEQPRIM_HD constexpr range query_bounds(range k, index_t q_len) const noexcept {
    return {k.begin, k.begin < sinks ? q_len : k.end - 1 + window};
  }

  constexpr void validate() const {
    SEQPRIM_EXPECTS(0 <= sinks && sinks <= unlimited, "mask::attention_sinks: sinks (", sinks,
                    ") must be >= 0. See docs/reference/mask/attention_sinks.md");
    SEQPRIM_EXPECTS(1 <= window && window <= unlimited, "mask::attention_sinks: window (", window,
                    ") must be >= 1, or mask::unlimited. See docs/reference/mask/attention_sinks.md");
  }
};
static_assert(rule<attention_sinks>);

}  // namespace seqprim::mask
