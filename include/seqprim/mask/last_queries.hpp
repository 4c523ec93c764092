// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/core/index_array.hpp>
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/key_range.hpp>
#include <seqprim/mask/rule.hpp>
#include <seqprim/mask/shifted_rows.hpp>

namespace seqprim::mask {

namespace detail {

/// The rows from `first` on, of all keys.
struct rows_from {
  index_t first;

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t) const noexcept { return q >= first; }
  SEQPRIM_HD constexpr range visible_keys(index_t q) const noexcept { return {0, q >= first ? unlimited : 0}; }
  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept { return classify_ranges(*this, q, k); }
  SEQPRIM_HD constexpr range query_bounds(range, index_t q_len) const noexcept { return {first, q_len}; }
};

}  // namespace detail

/// The queries are the last tokens of sequences of unequal length, in pages or in the rows of one cache: `inner` counts rows
/// and keys from the first token of each sequence, and keys behind its end are hidden.
///
///     visible(b, q, k)  <=>  k < lengths[b] and inner(q + lengths[b] - q_len, k)
///
/// With inner = causal{} several new tokens of each sequence see its cache and each other up to themselves: speculative
/// decoding, prefill in chunks. With a window each looks back from its own end. A sequence with fewer tokens than queries (an
/// idle place in a batch has 0) has rows before its first token; they see nothing.
///
/// Errors  precondition_error: q_len is not that of the call; fewer lengths than batch rows; a length < 0 or > k_len.
/// Cost    that of `inner`.
/// Source  spec masks-text 1 (bottom-right alignment), 4.1, for each sequence.
template <bindable Inner> struct last_queries {
  index_array lengths;  ///< [batch] tokens of each sequence, the queries among them
  index_t q_len;        ///< queries of each sequence
  Inner inner{};

  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept {
    const index_t length = lengths[batch];
    return shifted(mask::bind(inner, batch, head), length - q_len) & key_range{0, length} &
           detail::rows_from{q_len - length};
  }

  /// Rows of the call count from 0: the mask itself places them.
  SEQPRIM_HD constexpr index_t query_end(index_t rows, index_t) const noexcept { return rows; }

  constexpr void validate() const {
    mask::validate(inner);
    if (!lengths.host_readable()) return;
    for (index_t b = 0; b < lengths.size(); ++b)
      SEQPRIM_EXPECTS(lengths[b] >= 0, "mask::last_queries: lengths[", b, "] (", lengths[b],
                      ") must be >= 0. See docs/reference/mask/last_queries.md");
  }
  constexpr void validate(const shape& problem) const {
    SEQPRIM_EXPECTS(q_len == problem.q_len, "mask::last_queries: q_len (", q_len, ") must equal that of the call (",
                    problem.q_len, "). See docs/reference/mask/last_queries.md");
    SEQPRIM_EXPECTS(lengths.size() >= problem.batch, "mask::last_queries: lengths has ", lengths.size(),
                    " entries but there are ", problem.batch, " batch rows. See docs/reference/mask/last_queries.md");
    mask::validate(inner, shape{problem.batch, problem.heads, problem.k_len, problem.k_len});
    if (!lengths.host_readable()) return;
    for (index_t b = 0; b < problem.batch; ++b)
      SEQPRIM_EXPECTS(lengths[b] <= problem.k_len, "mask::last_queries: lengths[", b, "] (", lengths[b],
                      ") must be <= k_len (", problem.k_len, "). See docs/reference/mask/last_queries.md");
  }
};
template <class Inner> last_queries(index_array, index_t, Inner) -> last_queries<Inner>;

}  // namespace seqprim::mask
