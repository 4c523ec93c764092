// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/core/index_array.hpp>
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/key_range.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// A mask whose row 0 is row `start` of another: what the newest queries of a sequence see.
///
///     visible(q, k)  <=>  q + start >= 0 and inner(q + start, k)
///
/// Cost    that of `inner`.
template <bindable Inner> struct shifted_rows {
  Inner inner;
  index_t start = 0;  ///< the row of `inner` that is row 0 here [tokens]; rows below 0 see nothing

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept requires rule<Inner> {
    return q + start >= 0 && inner(q + start, k);
  }
  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept requires rule<Inner> {
    const range rows = moved(q);
    if (rows.empty()) return tile_kind::empty;
    const tile_kind kind = inner.classify(rows, k);
    return kind == tile_kind::full && rows.size() < q.size() ? tile_kind::partial : kind;
  }
  SEQPRIM_HD constexpr range visible_keys(index_t q) const noexcept requires one_range_per_row<Inner> {
    if (q + start < 0) return {0, 0};
    const range run = inner.visible_keys(q + start);
    return {max<index_t>(run.begin, 0), run.end};  // never less than in the rows below 0
  }
  SEQPRIM_HD constexpr range key_bounds(range q, index_t k_len) const noexcept requires rule<Inner> {
    const range rows = moved(q);
    return rows.empty() ? range{0, 0} : mask::key_bounds(inner, rows, k_len);
  }
  SEQPRIM_HD constexpr range query_bounds(range k, index_t q_len) const noexcept requires rule<Inner> {
    const range rows = mask::query_bounds(inner, k, max<index_t>(q_len + start, 0));
    return intersect({rows.begin - start, rows.end - start}, {0, q_len});
  }
  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept requires depends_on_batch_or_head<Inner> {
    return shifted_rows<bound<Inner>>{inner.bind(batch, head), start};
  }

  constexpr void validate() const { mask::validate(inner); }
  constexpr void validate(const shape& problem) const {
    mask::validate(inner, shape{problem.batch, problem.heads, problem.q_len + start, problem.k_len});
  }

 private:
  SEQPRIM_HD constexpr range moved(range q) const noexcept { return {max<index_t>(q.begin + start, 0), q.end + start}; }
};

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
/// Cost    that of `inner`; forward and backward ask an `inner` that is a composition without one run per row pair by pair in
///         partial tiles.
/// Source  spec masks-text 1 (bottom-right alignment), 4.1, for each sequence.
template <bindable Inner> struct last_queries {
  index_array lengths;  ///< [batch] tokens of each sequence, the queries among them
  index_t q_len;        ///< queries of each sequence
  Inner inner{};

  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept {
    const index_t length = lengths[batch];
    return shifted_rows<bound<Inner>>{mask::bind(inner, batch, head), length - q_len} & key_range{0, length};
  }

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
