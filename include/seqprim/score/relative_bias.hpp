// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/score/rule.hpp>

namespace seqprim::score {

/// The table of one head: what `relative_bias` binds to.
struct bias_of_distances {
  const float* values;  ///< [held.size()]
  range held;           ///< distances k - q in the table

  template <class X, class Site = site> SEQPRIM_HD constexpr X operator()(X logit, Site at) const noexcept {
    return logit + at.template by_distance<X>(values, held);
  }
  template <class X, class Site = site> SEQPRIM_HD constexpr X derivative(X, Site) const noexcept { return X(1.0f); }

  static constexpr bool learns_table = true;  ///< the biases
  SEQPRIM_HD constexpr index_t table_size() const noexcept { return held.size(); }
  SEQPRIM_HD constexpr index_t table_index(site at) const noexcept {
    return max_of(held.begin, min_of(at.k - at.q, held.end - 1)) - held.begin;
  }
  template <class X, class Site = site> SEQPRIM_HD constexpr X table_derivative(X, Site) const noexcept {
    return X(1.0f);
  }
};
static_assert(modifier<bias_of_distances> && differentiable_by_table<bias_of_distances>);

/// A bias by the distance of key and query, from a table; beyond its ends the nearest entry counts.
///
///     score(s) = s + table(head, d - least),     d = k - q brought into [least, least + distances)
///
/// `t5_buckets` fills a table from the weights of a T5 model. Backward gives the gradient of the table.
///
/// Edge    an entry of -inf hides its distance, NaN makes the rows NaN that attend at it; `least` may be positive.
/// Errors  precondition_error: no distance, another number of heads (1 serves all), a last axis that is not contiguous.
/// Cost    one load and one addition per pair; where a register of pairs crosses an end of the table, one load for each.
/// Source  Shaw, Uszkoreit and Vaswani, "Self-attention with relative position representations" (clipped distances); Raffel et al.,
///         "Exploring the limits of transfer learning with a unified text-to-text transformer" (a scalar for each distance).
struct relative_bias {
  tensor_view<const float, 2> table;  ///< [1 or heads, distances], logit units
  index_t least = 0;                  ///< distance k - q of the first entry [tokens]; negative: the key is earlier

  SEQPRIM_HD constexpr bias_of_distances bind(index_t, index_t head) const noexcept {
    return {table.data + (table.extent(0) > 1 ? head : 0) * table.stride(0), {least, least + table.extent(1)}};
  }

  static constexpr subject self{"score::relative_bias", "score/relative_bias"};

  template <class Visit> constexpr void for_arrays(const Visit& visit) const { visit(self, "table", table); }

  SEQPRIM_INLINE constexpr void validate() const {
    self.expects_contiguous("table", table);
    self.expects(table.extent(1) >= 1, "table has no distances (axis 1)");
    constexpr index_t furthest = index_t{1} << 62;
    self.expects(least >= -furthest && least <= furthest, "least (", least, ") must be in [-2^62, 2^62]");
  }
  SEQPRIM_INLINE constexpr void validate(const shape& problem) const {
    self.expects(table.extent(0) == 1 || table.extent(0) == problem.heads, "table has ", table.extent(0),
                 " heads (axis 0) but the call has ", problem.heads);
  }
};
static_assert(depends_on_batch_or_head<relative_bias>);

}  // namespace seqprim::score
