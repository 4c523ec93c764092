// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/score/number.hpp>
#include <seqprim/score/rule.hpp>

#include <concepts>

namespace seqprim::score {

/// A bias that falls linearly with the distance between query and key: what `alibi` and `alibi_table` bind to.
///
///     score(s) = s - slope * (i - j)      or, bidirectional,  s - slope * |i - j|,     i = q, j = k
///
/// The form slope * j, used elsewhere, differs by a constant of the row: same weights, an lse that differs by slope * i.
struct distance_bias {
  float slope;                 ///< logit units per token
  bool bidirectional = false;  ///< later keys count by their distance too

  template <class X, class Site = site> SEQPRIM_HD constexpr X operator()(X logit, Site at) const noexcept {
    return multiply_add(X(slope), parameter_derivative<0>(X(0.0f), at), logit);
  }
  template <class X, class Site = site> SEQPRIM_HD constexpr X derivative(X, Site) const noexcept { return X(1.0f); }

  static constexpr int parameters = 1;  ///< the slope
  template <int, class X, class Site = site> SEQPRIM_HD constexpr X parameter_derivative(X, Site at) const noexcept {
    const X ahead = at.template ahead<X>();
    // -|ahead| or ahead, by a factor: GCC 12 tuned for Zen compiles a choice between two registers by one bool into a choice
    // for the first lane alone.
    return at_most(ahead, X(bidirectional ? -1.0f : 1.0f) * ahead);
  }
};
static_assert(modifier<distance_bias> && differentiable_by_parameter<distance_bias, 0>);

namespace detail {

/// 2^x for x <= 0 in double, by its Taylor series on [0, 1): a constant expression, and the same on host and device.
SEQPRIM_HD constexpr double exp2_negative(double x) noexcept {
  double scale = 1;
  for (; x < 0; x += 1) scale *= 0.5;
  const double y = x * 0.6931471805599453094;
  double sum = 1;
  for (int term = 20; term >= 1; --term) sum = 1 + sum * y / term;
  return scale * sum;
}

}  // namespace detail

/// The slope of one head: a geometric ladder down to 2^-max_bias when `heads` is a power of two; otherwise the ladder of the
/// next lower power of two, then every second rung of the ladder of twice that power. Not monotone in the head then.
[[nodiscard]] SEQPRIM_HD constexpr float alibi_slope(index_t head, index_t heads, float max_bias = 8.0f) noexcept {
  index_t power = 1;
  while (power <= heads / 2) power *= 2;
  const auto rung = static_cast<double>(head < power ? head + 1 : 2 * (head - power) + 1);
  const auto rungs = static_cast<double>(head < power ? power : 2 * power);
  return static_cast<float>(detail::exp2_negative(-static_cast<double>(max_bias) * rung / rungs));
}

/// ALiBi: each head lowers the logit of a key in proportion to its distance, with its own slope. Binds to distance_bias.
///
/// Errors  precondition_error: heads < 1 or not that of the call, max_bias not in (0, 1000].
/// Cost    one multiply-add per pair; the slope is computed when a head is bound.
/// Source  Press, Smith and Lewis, "Train short, test long: attention with linear biases".
struct alibi {
  index_t heads;               ///< query heads
  bool bidirectional = false;  ///< use |i - j|: for masks under which queries attend to later keys
  float max_bias = 8.0f;       ///< the smallest slope of a power of two of heads is 2^-max_bias

  SEQPRIM_HD constexpr distance_bias bind(index_t, index_t head) const noexcept {
    return {.slope = alibi_slope(head, heads, max_bias), .bidirectional = bidirectional};
  }

  SEQPRIM_INLINE constexpr void validate() const {
    SEQPRIM_EXPECTS(heads >= 1, "score::alibi: heads (", heads, ") must be >= 1. See docs/reference/score/alibi.md");
    SEQPRIM_EXPECTS(max_bias > 0.0f && max_bias <= 1000.0f, "score::alibi: max_bias (", max_bias,
                    ") must be in (0, 1000]. See docs/reference/score/alibi.md");
  }
  SEQPRIM_INLINE constexpr void validate(const shape& problem) const {
    SEQPRIM_EXPECTS(heads == problem.heads, "score::alibi: heads (", heads, ") is not the number of query heads (",
                    problem.heads, "). See docs/reference/score/alibi.md");
  }
};
static_assert(depends_on_batch_or_head<alibi>);

/// ALiBi with slopes of your own, learned or scaled. Binds to distance_bias.
///
/// Errors  precondition_error: fewer slopes than query heads.
struct alibi_table {
  tensor_view<const float, 1> slopes;  ///< [heads], logit units per token
  bool bidirectional = false;          ///< use |i - j|

  SEQPRIM_HD constexpr distance_bias bind(index_t, index_t head) const noexcept {
    return {.slope = slopes(head), .bidirectional = bidirectional};
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    visit(subject{"score::alibi_table", "score/alibi"}, "slopes", slopes);
  }

  SEQPRIM_INLINE constexpr void validate(const shape& problem) const {
    SEQPRIM_EXPECTS(slopes.extent(0) >= problem.heads, "score::alibi_table: ", slopes.extent(0), " slopes for ",
                    problem.heads, " query heads. See docs/reference/score/alibi.md");
  }
};
static_assert(depends_on_batch_or_head<alibi_table>);

}  // namespace seqprim::score
