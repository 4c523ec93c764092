// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/score/rule.hpp>

namespace seqprim::score {

/// A modifier evaluated in rows of a call: row 0 is the query at position `start`. The counterpart of mask::shifted_rows; lanes and
/// derivatives go through.
///
///     score(s, {row, k})  =  inner(s, {row + start, k})
template <modifier Inner> struct shifted_rows {
  Inner inner;
  index_t start = 0;  ///< position of row 0 [tokens]; may be negative

  template <class X, class Site = site>
  requires requires(const Inner& s, X x, Site at) { s(x, at); }
  SEQPRIM_HD constexpr X operator()(X logit, Site at) const noexcept { return inner(logit, at.later_query(start)); }
  template <class X, class Site = site>
  requires requires(const Inner& s, X x, Site at) { s.derivative(x, at); }
  SEQPRIM_HD constexpr X derivative(X logit, Site at) const noexcept {
    return inner.derivative(logit, at.later_query(start));
  }

  static constexpr int parameters = score::parameters<Inner>;
  template <int N, class X, class Site = site>
  requires differentiable_by_parameter<Inner, N, X, Site> SEQPRIM_HD constexpr X parameter_derivative(
      X logit, Site at) const noexcept {
    return inner.template parameter_derivative<N>(logit, at.later_query(start));
  }

  static constexpr bool learns_table = differentiable_by_table<Inner>;
  SEQPRIM_HD constexpr index_t table_size() const noexcept requires learns_table { return inner.table_size(); }
  SEQPRIM_HD constexpr index_t table_index(site at) const noexcept requires learns_table {
    return inner.table_index(at.later_query(start));
  }
  template <class X, class Site = site>
  requires differentiable_by_table<Inner, X, Site> SEQPRIM_HD constexpr X table_derivative(X logit,
                                                                                           Site at) const noexcept {
    return inner.table_derivative(logit, at.later_query(start));
  }
  template <class X, class Site = site>
  requires differentiable_by_row<Inner, X, Site> SEQPRIM_HD constexpr X row_derivative(X logit,
                                                                                       Site at) const noexcept {
    return inner.row_derivative(logit, at.later_query(start));
  }
};

/// `s` evaluated in rows, of which row 0 is the query at position `start`. The identity stays, so that kernels still drop it.
template <modifier S> [[nodiscard]] SEQPRIM_HD constexpr auto shifted(const S& s, index_t start) noexcept {
  if constexpr (std::same_as<S, identity>) {
    return s;
  } else {
    return shifted_rows<S>{s, start};
  }
}

}  // namespace seqprim::score
