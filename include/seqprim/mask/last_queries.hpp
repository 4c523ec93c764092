// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/index_array.hpp>
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/key_range.hpp>
#include <seqprim/mask/query_range.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// Sequences of unequal length in the rows of one cache, or in pages: batch row b has lengths[b] tokens, the queries of a call are
/// the last of them, and keys behind the end are hidden.
///
///     visible(b, q, k)  <=>  0 <= q,  k < lengths[b]  and  inner(q, k)          row r of the call: q = lengths[b] - q_len + r
///
/// With inner = causal{} several new tokens of each sequence attend to its cache and to each other up to themselves:
/// speculative decoding, prefill in chunks. With a window each looks back from its own end. A sequence with fewer tokens than
/// queries (an idle slot of a batch has 0) has rows before its first token; they attend to nothing.
///
/// Errors  precondition_error: fewer lengths than batch rows; a length < 0 or > k_len.
/// Cost    that of `inner`.
template <bindable Inner> struct last_queries {
  index_array lengths;  ///< [batch] tokens of each sequence, the queries among them
  Inner inner{};

  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept {
    return mask::bind(inner, batch, head) & key_range{0, lengths[batch]} & query_range{0, unlimited};
  }

  SEQPRIM_HD constexpr row_starts query_starts(index_t q_len, index_t) const noexcept {
    return {.ends = lengths, .len = q_len};
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    visit(subject{"mask::last_queries", "mask/last_queries"}, "lengths", lengths);
    seqprim::for_arrays(inner, visit);
  }

  constexpr void validate() const {
    mask::validate(inner);
    if (!lengths.host_readable()) return;
    for (index_t b = 0; b < lengths.size(); ++b)
      SEQPRIM_EXPECTS(lengths[b] >= 0, "mask::last_queries: lengths[", b, "] (", lengths[b],
                      ") must be >= 0. See docs/reference/mask/last_queries.md");
  }
  constexpr void validate(const shape& problem) const {
    SEQPRIM_EXPECTS(lengths.size() >= problem.batch, "mask::last_queries: lengths has ", lengths.size(),
                    " entries but there are ", problem.batch, " batch rows. See docs/reference/mask/last_queries.md");
    mask::validate(inner, problem);
    if (!lengths.host_readable()) return;
    for (index_t b = 0; b < problem.batch; ++b)
      SEQPRIM_EXPECTS(lengths[b] <= problem.k_len, "mask::last_queries: lengths[", b, "] (", lengths[b],
                      ") must be <= k_len (", problem.k_len, "). See docs/reference/mask/last_queries.md");
  }
};
template <class Inner> last_queries(index_array, Inner) -> last_queries<Inner>;

}  // namespace seqprim::mask
