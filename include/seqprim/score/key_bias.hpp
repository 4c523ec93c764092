// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/score/detail/rows.hpp>
#include <seqprim/score/rule.hpp>

namespace seqprim::score {

/// The bias of one batch row and head: what `key_bias` binds to.
struct bias_of_keys {
  const float* values;  ///< one for each key
  index_t entries = 0;  ///< of the whole table: batch rows times keys
  index_t first = 0;    ///< entry of key 0

  template <class X, class Site = site> SEQPRIM_HD constexpr X operator()(X logit, Site at) const noexcept {
    return logit + at.template of_key<X>(values);
  }
  template <class X, class Site = site> SEQPRIM_HD constexpr X derivative(X, Site) const noexcept { return X(1.0f); }

  static constexpr bool learns_table = true;  ///< the biases
  SEQPRIM_HD constexpr index_t table_size() const noexcept { return entries; }
  SEQPRIM_HD constexpr index_t table_index(site at) const noexcept { return first + at.k; }
  template <class X, class Site = site> SEQPRIM_HD constexpr X table_derivative(X, Site) const noexcept {
    return X(1.0f);
  }
};
static_assert(modifier<bias_of_keys> && differentiable_by_table<bias_of_keys>);

/// A bias for each key: log weights of keys, a learned popularity, a soft padding.
///
///     score(s) = s + bias(batch, head, k)
///
/// A bias that falls with a label of both sides is one of keys alone, because what is added to a whole row cancels in the softmax:
/// slope (label(k) - label(q)) has the weights of slope label(k), and an lse that differs by slope label(q).
///
/// Backward gives its gradient as a table of bias.extent(0) * bias.extent(2) entries, batch row after batch row.
///
/// Edge    -inf hides the key; +inf and NaN make the rows that attend to it NaN.
/// Errors  precondition_error: fewer keys than the call has, another number of heads or fewer batch rows (1 serves all), a last
///         axis that is not contiguous.
/// Cost    one load and one addition per pair.
struct key_bias {
  tensor_view<const float, 3> bias;  ///< [1 or batch, 1 or heads, k_len], logit units

  SEQPRIM_HD constexpr bias_of_keys bind(index_t batch, index_t head) const noexcept {
    return {detail::row_of(bias, batch, head), bias.extent(0) * bias.extent(2),
            bias.extent(0) > 1 ? batch * bias.extent(2) : 0};
  }

  static constexpr subject self{"score::key_bias", "score/key_bias"};

  template <class Visit> constexpr void for_arrays(const Visit& visit) const { visit(self, "bias", bias); }

  SEQPRIM_INLINE constexpr void validate(const shape& problem) const {
    detail::expect_rows(self, "bias", bias, problem);
    self.expects(bias.extent(2) >= problem.k_len, "bias is for ", bias.extent(2), " keys but k_len is ", problem.k_len);
  }
};
static_assert(depends_on_batch_or_head<key_bias>);

}  // namespace seqprim::score
