// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/packing.hpp>
#include <seqprim/score/rule.hpp>

#include <concepts>

namespace seqprim::score {

namespace detail {

// Functors, not lambdas: nvcc rejects lambdas in functions of both sides without a flag.
struct value_of {
  template <class S, class X, class Site>
  SEQPRIM_HD constexpr X operator()(const S& s, X logit, Site at) const noexcept {
    return s(logit, at);
  }
};
struct derivative_of {
  template <class S, class X, class Site>
  SEQPRIM_HD constexpr X operator()(const S& s, X logit, Site at) const noexcept {
    return s.derivative(logit, at);
  }
};
template <int N> struct parameter_derivative_of {
  template <class S, class X, class Site>
  SEQPRIM_HD constexpr X operator()(const S& s, X logit, Site at) const noexcept {
    return s.template parameter_derivative<N>(logit, at);
  }
};
struct table_derivative_of {
  template <class S, class X, class Site>
  SEQPRIM_HD constexpr X operator()(const S& s, X logit, Site at) const noexcept {
    return s.table_derivative(logit, at);
  }
};
struct row_derivative_of {
  template <class S, class X, class Site>
  SEQPRIM_HD constexpr X operator()(const S& s, X logit, Site at) const noexcept {
    return s.row_derivative(logit, at);
  }
};

}  // namespace detail

/// A modifier evaluated at positions within the sequences of a packed batch, instead of rows and columns of the whole:
///
///     score(s, {q, k})  =  inner(s, {position of q, position of k})        positions of `packing`, q and k of one sequence
///
/// For modifiers that read distances, such as alibi, where queries and keys are packed differently, and for those that read tables by
/// position. Where both sides have the same offsets, distances within a sequence are those of rows and columns, and the bare modifier
/// gives the same for less. Tables of `inner` serve every sequence; its batch row is that of the call.
///
/// Errors  precondition_error: as packing::validate; the offsets do not end at q_len and k_len; `inner` does not fit a sequence.
/// Cost    that of `inner`, and one search among the sequences for each pair; in lanes, for each register, of which those that a
///         sequence begins in are evaluated pair by pair.
template <bindable Inner> struct packed {
  packing sequences;
  Inner inner;

  template <class X, class Site = site>
  requires modifier<Inner> && requires(const Inner& s, X x, Site at) { s(x, at); }
  SEQPRIM_HD constexpr X operator()(X logit, Site at) const noexcept { return inside(detail::value_of{}, logit, at); }
  template <class X, class Site = site>
  requires modifier<Inner> && requires(const Inner& s, X x, Site at) { s.derivative(x, at); }
  SEQPRIM_HD constexpr X derivative(X logit, Site at) const noexcept {
    return inside(detail::derivative_of{}, logit, at);
  }

  static constexpr int parameters = score::parameters<Inner>;
  template <int N, class X, class Site = site>
  requires differentiable_by_parameter<Inner, N, X, Site> SEQPRIM_HD constexpr X parameter_derivative(
      X logit, Site at) const noexcept {
    return inside(detail::parameter_derivative_of<N>{}, logit, at);
  }

  static constexpr bool learns_table = differentiable_by_table<Inner>;
  SEQPRIM_HD constexpr index_t table_size() const noexcept requires learns_table { return inner.table_size(); }
  SEQPRIM_HD constexpr index_t table_index(site at) const noexcept requires learns_table {
    const index_t d = sequences.sequence_of_query(at.q);
    return sequences.keys(d).contains(at.k) ? inner.table_index(within(d, at)) : -1;
  }
  template <class X, class Site = site>
  requires differentiable_by_table<Inner, X, Site> SEQPRIM_HD constexpr X table_derivative(X logit,
                                                                                           Site at) const noexcept {
    return inside(detail::table_derivative_of{}, logit, at);
  }
  template <class X, class Site = site>
  requires differentiable_by_row<Inner, X, Site> SEQPRIM_HD constexpr X row_derivative(X logit,
                                                                                       Site at) const noexcept {
    return inside(detail::row_derivative_of{}, logit, at);
  }

  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept requires depends_on_batch_or_head<Inner> {
    return packed<decltype(inner.bind(batch, head))>{sequences, inner.bind(batch, head)};
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    sequences.for_arrays(visit);
    seqprim::for_arrays(inner, visit);
  }

  SEQPRIM_INLINE constexpr void validate() const {
    sequences.validate();
    score::validate(inner);
  }
  SEQPRIM_INLINE constexpr void validate(const shape& problem) const {
    sequences.validate(problem.start, problem.q_len, problem.k_len);
    if (!sequences.q_offsets.host_readable() || !sequences.k_offsets.host_readable()) return;
    for (index_t d = 0; d < sequences.sequences(); ++d) {
      const index_t queries = sequences.queries(d).size(), keys = sequences.keys(d).size();
      if (queries == 0 || keys == 0) continue;
      score::validate(inner, {problem.batch, problem.heads, queries, keys, sequences.shift(d)});
    }
  }

 private:
  /// f of the inner modifier at positions of the sequence. Pairs of two sequences are hidden: their logits stay as they are.
  template <class F, class X, class Site> SEQPRIM_HD constexpr X inside(const F& f, X logit, Site at) const noexcept {
    if constexpr (std::same_as<Site, site>) {
      const index_t d = sequences.sequence_of_query(at.q);
      return sequences.keys(d).contains(at.k) ? f(inner, logit, within(d, at)) : logit;
    } else {
      // The side that is the same for all lanes identifies the sequence.
      constexpr bool keys = Site::side == along::keys;
      const index_t d = keys ? sequences.sequence_of_query(at.first.q) : sequences.sequence_of_key(at.first.k);
      const index_t begin = keys ? at.first.k : at.first.q;
      const range own = intersect(keys ? sequences.keys(d) : sequences.queries(d), {begin, begin + at.live});
      if (own.empty()) return logit;
      if (own.begin == begin) return f(inner, logit, Site{within(d, at.first), at.step, static_cast<int>(own.size())});
      typename X::value_type each[X::count];
      logit.store(each);
      for (index_t n = own.begin; n < own.end; ++n) {
        auto& one = each[n - begin];
        one = f(inner, one, within(d, at[static_cast<int>(n - begin)]));
      }
      return X::load(each);
    }
  }

  SEQPRIM_HD constexpr site within(index_t d, site at) const noexcept {
    return {at.q - sequences.q_offsets[d] + sequences.shift(d), at.k - sequences.k_offsets[d]};
  }
};
template <class Inner> packed(packing, Inner) -> packed<Inner>;
static_assert(modifier<packed<identity>>);

}  // namespace seqprim::score
