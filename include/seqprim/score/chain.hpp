// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/score/rule.hpp>

#include <concepts>

namespace seqprim::score {

namespace detail {
/// Which parameter of the second of two modifiers is parameter N of both. A name of its own: nvcc cannot print the difference in a
/// template argument.
template <class First, int N> inline constexpr int second_parameter = N - score::parameters<First>;
}  // namespace detail

/// Two modifiers, one after the other: what `first | second` makes. The derivative follows the chain rule, bind() binds
/// both parts, validate() checks both. `identity` disappears.
template <bindable First, bindable Second> struct chain {
  First first;
  Second second;

  template <class X, class Site = site>
  requires requires(const First& f, const Second& s, X x, Site at) { s(f(x, at), at); }
  SEQPRIM_HD constexpr X operator()(X logit, Site at) const noexcept { return second(first(logit, at), at); }
  template <class X, class Site = site>
  requires requires(const First& f, const Second& s, X x, Site at) { s.derivative(f(x, at), at) * f.derivative(x, at); }
  SEQPRIM_HD constexpr X derivative(X logit, Site at) const noexcept {
    return second.derivative(first(logit, at), at) * first.derivative(logit, at);
  }

  /// Those of the first, then those of the second.
  static constexpr int parameters = score::parameters<First> + score::parameters<Second>;
  template <int N, class X, class Site = site>
  requires(differentiable_by_parameter<First, N, X, Site> ||
           differentiable_by_parameter<Second, detail::second_parameter<First, N>, X, Site>) SEQPRIM_HD constexpr X
      parameter_derivative(X logit, Site at) const noexcept {
    if constexpr (N < score::parameters<First>) {
      return second.derivative(first(logit, at), at) * first.template parameter_derivative<N>(logit, at);
    } else {
      return second.template parameter_derivative<detail::second_parameter<First, N>>(first(logit, at), at);
    }
  }

  /// The table and the values of rows of the one part that learns them; of two, neither.
  static constexpr bool learns_table = differentiable_by_table<First> != differentiable_by_table<Second>;
  SEQPRIM_HD constexpr index_t table_size() const noexcept requires learns_table {
    if constexpr (differentiable_by_table<First>) {
      return first.table_size();
    } else {
      return second.table_size();
    }
  }
  SEQPRIM_HD constexpr index_t table_index(site at) const noexcept requires learns_table {
    if constexpr (differentiable_by_table<First>) {
      return first.table_index(at);
    } else {
      return second.table_index(at);
    }
  }
  template <class X, class Site = site>
  requires(learns_table && (differentiable_by_table<First, X, Site> || differentiable_by_table<Second, X, Site>))
      SEQPRIM_HD constexpr X table_derivative(X logit, Site at) const noexcept {
    if constexpr (differentiable_by_table<First>) {
      return second.derivative(first(logit, at), at) * first.table_derivative(logit, at);
    } else {
      return second.table_derivative(first(logit, at), at);
    }
  }
  template <class X, class Site = site>
  requires(differentiable_by_row<First, X, Site> != differentiable_by_row<Second, X, Site>) SEQPRIM_HD constexpr X
      row_derivative(X logit, Site at) const noexcept {
    if constexpr (differentiable_by_row<First, X, Site>) {
      return second.derivative(first(logit, at), at) * first.row_derivative(logit, at);
    } else {
      return second.row_derivative(first(logit, at), at);
    }
  }

  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept
      requires(depends_on_batch_or_head<First> || depends_on_batch_or_head<Second>) {
    return score::bind(first, batch, head) | score::bind(second, batch, head);
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    seqprim::for_arrays(first, visit);
    seqprim::for_arrays(second, visit);
  }

  SEQPRIM_INLINE constexpr void validate() const {
    score::validate(first);
    score::validate(second);
  }
  SEQPRIM_INLINE constexpr void validate(const shape& problem) const {
    score::validate(first, problem);
    score::validate(second, problem);
  }
};

/// Found by argument-dependent lookup as soon as one operand is a modifier of this library.
inline namespace operators {
template <bindable First, bindable Second>
[[nodiscard]] SEQPRIM_HD constexpr auto operator|(const First& first, const Second& second) noexcept {
  if constexpr (std::same_as<First, identity>) {
    return second;
  } else if constexpr (std::same_as<Second, identity>) {
    return first;
  } else {
    return chain<First, Second>{first, second};
  }
}
}  // namespace operators

}  // namespace seqprim::score
