// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/score/detail/rows.hpp>
#include <seqprim/score/rule.hpp>

namespace seqprim::score {

/// The factors of one batch row and head: what `query_scale` binds to.
struct scale_of_queries {
  const float* values;  ///< one for each position

  template <class X, class Site = site> SEQPRIM_HD constexpr X operator()(X logit, Site at) const noexcept {
    return logit * at.template of_query<X>(values);
  }
  template <class X, class Site = site> SEQPRIM_HD constexpr X derivative(X, Site at) const noexcept {
    return at.template of_query<X>(values);
  }
  template <class X, class Site = site> SEQPRIM_HD constexpr X row_derivative(X logit, Site) const noexcept {
    return logit;
  }
};
static_assert(modifier<scale_of_queries> && differentiable_by_row<scale_of_queries>);

/// A factor for each query, on top of the softmax scale: an inverse temperature that grows with the position, so that attention
/// over more keys stays as sharp, or that each query brings.
///
///     score(s) = factors(batch, head, q) * s
///
/// Backward gives the gradient of the factor of each row.
///
/// Edge    a factor of 0 leaves uniform attention, a negative one reverses the order of the keys; an infinite one makes NaN of a logit
///         of 0, and so of its row.
/// Errors  precondition_error: no factor for a position of the call, another number of heads or fewer batch rows (1 serves all),
///         a last axis that is not contiguous.
/// Cost    one multiplication per pair.
/// Source  Chiang and Cholak, "Overcoming a theoretical limitation of self-attention" (a factor log q).
struct query_scale {
  tensor_view<const float, 3> factors;  ///< [1 or batch, 1 or heads, positions], pure numbers; that of position q at q

  SEQPRIM_HD constexpr scale_of_queries bind(index_t batch, index_t head) const noexcept {
    return {detail::row_of(factors, batch, head)};
  }

  static constexpr subject self{"score::query_scale", "score/query_scale"};

  template <class Visit> constexpr void for_arrays(const Visit& visit) const { visit(self, "factors", factors); }

  SEQPRIM_INLINE constexpr void validate(const shape& problem) const {
    detail::expect_rows(self, "factors", factors, problem);
    self.expects(problem.q_len == 0 || (problem.start >= 0 && problem.start <= factors.extent(2) - problem.q_len),
                 "factors is for queries at [0, ", factors.extent(2), ") but those of the call are at [", problem.start,
                 ", ", problem.start + problem.q_len, "); softmax::starting_at says where they are");
  }
};
static_assert(depends_on_batch_or_head<query_scale>);

}  // namespace seqprim::score
