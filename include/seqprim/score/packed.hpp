// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/packing.hpp>
#include <seqprim/score/rule.hpp>

#include <concepts>

namespace seqprim::score {

/// A modifier evaluated at positions within the sequences of a packed batch, instead of rows and columns of the whole:
///
///     score(s, {q, k})  =  inner(s, {position of q, position of k})        positions of `packing`
///
/// For modifiers that read distances, such as alibi, where queries and keys are packed differently. Where both have the same
/// offsets, distances within a sequence are those of rows and columns, and the bare modifier gives the same for less.
///
/// Errors  precondition_error: as packing::validate; those of `inner`.
/// Cost    that of `inner`, and one search among the sequences for each pair.
template <bindable Inner> struct packed {
  packing sequences;
  Inner inner;

  template <std::floating_point T>
  requires modifier<Inner> SEQPRIM_HD constexpr T operator()(T logit, site at) const noexcept {
    return inner(logit, within(at));
  }
  template <std::floating_point T>
  requires modifier<Inner> SEQPRIM_HD constexpr T derivative(T logit, site at) const noexcept {
    return inner.derivative(logit, within(at));
  }

  static constexpr int parameters = score::parameters<Inner>;
  template <int N, std::floating_point T>
  requires differentiable_by_parameter<Inner, N> SEQPRIM_HD constexpr T parameter_derivative(T logit,
                                                                                             site at) const noexcept {
    return inner.template parameter_derivative<N>(logit, within(at));
  }

  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept requires depends_on_batch_or_head<Inner> {
    return packed<decltype(inner.bind(batch, head))>{sequences, inner.bind(batch, head)};
  }

  SEQPRIM_INLINE constexpr void validate() const {
    sequences.validate();
    score::validate(inner);
  }
  SEQPRIM_INLINE constexpr void validate(index_t batch, index_t heads) const { score::validate(inner, batch, heads); }

 private:
  SEQPRIM_HD constexpr site within(site at) const noexcept {
    // Of a pair that is visible: both lie in the sequence of the query.
    const index_t d = sequences.sequence_of_query(at.q);
    return {at.q - sequences.q_offsets[d] + sequences.shift(d), at.k - sequences.k_offsets[d]};
  }
};
template <class Inner> packed(packing, Inner) -> packed<Inner>;
static_assert(modifier<packed<identity>>);

}  // namespace seqprim::score
