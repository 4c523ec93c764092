// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/index_array.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// Prefix LM (non-causal decoder): causal, except that every query attends to the first `length` keys.
///
///     visible(q, k)  <=>  k <= q  or  k < length
///
/// length 0 and 1 are causal, length >= k_len is full over the keys that are there. With a cache, the prefix must have been in
/// the first call: later tokens cannot join a prefix whose keys are already cached (`may_cut`).
///
/// Errors  precondition_error: length < 0.
/// Cost    O(1) per pair and per tile; classify() is exact for tiles of any size.
/// Source  Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer".
struct prefix {
  static constexpr bool ordered = true;  // neither end of visible_keys decreases
  index_t length;                        ///< keys that every query attends to [tokens]

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept { return k <= q || k < length; }

  SEQPRIM_HD constexpr range visible_keys(index_t q) const noexcept { return {-unlimited, max_of(q + 1, length)}; }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept { return classify_ranges(*this, q, k); }

  SEQPRIM_HD constexpr range query_bounds(range k, index_t q_len) const noexcept {
    return {k.begin < length ? -unlimited : k.begin, q_len};
  }

  constexpr void validate() const {
    SEQPRIM_EXPECTS(length >= 0, "mask::prefix: length (", length, ") must be >= 0. See docs/reference/mask/prefix.md");
  }
};
static_assert(rule<prefix> && one_range_per_row<prefix>);

/// A prefix length per batch row: binds to prefix{lengths[batch]}.
///
/// Errors  precondition_error: fewer lengths than batch rows; a length < 0.
struct prefix_per_batch {
  index_array lengths;  ///< [batch] keys that every query of that batch row attends to

  SEQPRIM_HD constexpr prefix bind(index_t batch, index_t) const noexcept { return {.length = lengths[batch]}; }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    visit(subject{"mask::prefix_per_batch", "mask/prefix"}, "lengths", lengths);
  }

  constexpr void validate() const {
    if (!lengths.host_readable()) return;
    for (index_t b = 0; b < lengths.size(); ++b)
      SEQPRIM_EXPECTS(lengths[b] >= 0, "mask::prefix_per_batch: lengths[", b, "] (", lengths[b],
                      ") must be >= 0. See docs/reference/mask/prefix.md");
  }
  constexpr void validate(const shape& problem) const {
    SEQPRIM_EXPECTS(lengths.size() >= problem.batch, "mask::prefix_per_batch: lengths has ", lengths.size(),
                    " entries but there are ", problem.batch, " batch rows. See docs/reference/mask/prefix.md");
  }
};
static_assert(depends_on_batch_or_head<prefix_per_batch>);

}  // namespace seqprim::mask
