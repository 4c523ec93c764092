// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/mask/full.hpp>
#include <seqprim/mask/rule.hpp>
#include <seqprim/position/none.hpp>
#include <seqprim/position/placed.hpp>
#include <seqprim/score/rule.hpp>

#include <cmath>

namespace seqprim::attention {

/// Softmax attention as a value: who sees whom (mask), how a logit changes (score), where a token is (position).
///
///     logit(q, k) = score(scale * <position(query q), position(key k)>)
///     out(q)      = sum over visible k of softmax(logit)(k) * value(k)
///
/// The same value is given to forward, backward and decode, on CPU and GPU:
///
///     const attention::softmax op{mask::causal{}, score::soft_cap{.cap = 50}};
///
/// Errors  validate() throws precondition_error when a part's parameters are wrong or the scale is not finite.
/// Source  spec masks-text 1, layers-losses 1.6.  Page docs/reference/attention/softmax.md
template <class Mask = mask::full, class Score = score::identity, class Position = position::none> struct softmax {
  Mask mask;
  Score score;
  Position position;
  float scale = 0;  ///< multiplies <query, key>; 0 means 1 / sqrt(head_dim)

  // A constructor rather than an aggregate: clang 14 deduces template arguments from constructors only.
  SEQPRIM_HD constexpr explicit softmax(Mask m = {}, Score s = {}, Position p = {}) noexcept
      : mask(m), score(s), position(p) {}

  /// The same operator with another softmax scale.
  [[nodiscard]] SEQPRIM_HD constexpr softmax scaled(float factor) const noexcept {
    softmax result = *this;
    result.scale = factor;
    return result;
  }

  /// The scale in use for queries of `head_dim` numbers.
  [[nodiscard]] double scale_for(index_t head_dim) const noexcept {
    if (scale != 0) return static_cast<double>(scale);
    return head_dim > 0 ? 1.0 / std::sqrt(static_cast<double>(head_dim)) : 1.0;
  }

  void validate() const {
    mask::validate(mask);
    score::validate(score);
    SEQPRIM_EXPECTS(std::isfinite(scale),
                    "attention::softmax: scale must be finite. See docs/reference/attention/softmax.md");
  }
};

template <class Op> inline constexpr bool is_softmax = false;
template <class Mask, class Score, class Position>
inline constexpr bool is_softmax<softmax<Mask, Score, Position>> = true;

/// Named requirement of the entry points.
template <class Op> consteval bool require_op() {
  static_assert(is_softmax<Op>,
                "seqprim: an attention operator is an 'attention::softmax{mask, score, position}'. See "
                "docs/reference/attention/softmax.md");
  if constexpr (is_softmax<Op>) {
    mask::require_mask<decltype(Op::mask)>();
    score::require_modifier<decltype(Op::score)>();
    static_assert(position::part_of_op<decltype(Op::position)>,
                  "seqprim: the position of an attention operator is an encoding, or 'position::placed{encoding, query "
                  "map, key map}'. See docs/reference/position/rule.md");
  }
  return true;
}

}  // namespace seqprim::attention
