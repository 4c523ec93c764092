// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/index_array.hpp>
#include <seqprim/core/packing.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/mask/full.hpp>
#include <seqprim/mask/packed.hpp>
#include <seqprim/mask/rule.hpp>
#include <seqprim/position/none.hpp>
#include <seqprim/position/packed.hpp>
#include <seqprim/position/placed.hpp>
#include <seqprim/score/packed.hpp>
#include <seqprim/score/rule.hpp>

#include <cmath>
#include <limits>

namespace seqprim::attention {

/// Which key head a query head uses, where several query heads share one.
enum class head_order : unsigned char {
  grouped,  ///< neighbors share: kv_head = head / (heads / kv_heads)
  tiled,    ///< heads that are kv_heads apart share: kv_head = head % kv_heads
};

/// The default of softmax::start: the last query is at the last key of its sequence.
inline constexpr index_t last_query_at_last_key = std::numeric_limits<index_t>::min();

/// Softmax attention as a value: a mask (which keys a query attends to), a score modifier (how a logit changes) and a
/// position encoding.
///
///     logit(q, k) = score(scale * <position(query q), position(key k)>)
///     out(q)      = sum over visible k of softmax(logit)(k) * value(k)
///
/// The same value is given to forward, backward and decode, on CPU and GPU:
///
///     const attention::softmax op{mask::causal{}, score::soft_cap{.cap = 50}};
///
/// Masks, scores and encodings are evaluated at absolute positions, and the operator places the queries of a call: by
/// default the last query is at the last key of its sequence (bottom-right alignment), so that one value serves
/// training, prefill in chunks and decoding with a cache. `starting_at` places them elsewhere; starting_at(0) is
/// PyTorch's is_causal.
///
/// A sink adds one logit to the softmax denominator; it has no key and no value. lse then includes it, and a row
/// without visible key has out = 0, lse = sink.
///
/// Errors  validate() throws precondition_error when the parameters of a part are wrong, the scale is not finite, the
///         sink is +inf or NaN; entry points also when the number of sinks is not that of the heads, or, where the host can
///         read them, one of them is +inf or NaN.
/// Source  Vaswani et al., "Attention is all you need"; Ainslie et al., "GQA" (shared key heads); Xiao et al.,
///         "Efficient streaming language models with attention sinks" (sinks).  Page
///         docs/reference/attention/softmax.md
template <class Mask = mask::full, class Score = score::identity, class Position = position::none> struct softmax {
  Mask mask;
  Score score;
  Position position;
  float scale = 0;  ///< multiplies <query, key>; 0 means 1 / sqrt(head_dim)
  head_order order = head_order::grouped;
  float sink = -__builtin_huge_valf();  ///< logit of the sink of every head; -inf: none
  tensor_view<const float, 1> sinks{};  ///< logits of the sinks [heads] where they differ; no data: `sink` holds

  index_t start = last_query_at_last_key;  ///< position of the first query [tokens]
  index_array starts{};                    ///< [batch] the same where batch rows differ; empty: `start` holds

  static constexpr subject self{"attention::softmax", "attention/softmax"};
  static constexpr index_t furthest = index_t{1} << 62;  ///< of a position: differences do not overflow

  // A constructor rather than an aggregate: clang 14 deduces template arguments from constructors only.
  SEQPRIM_HD constexpr explicit softmax(Mask m = {}, Score s = {}, Position p = {}) noexcept
      : mask(m), score(s), position(p) {}

  /// The same operator with another softmax scale.
  [[nodiscard]] SEQPRIM_HD constexpr softmax scaled(float factor) const noexcept {
    softmax result = *this;
    result.scale = factor;
    return result;
  }

  /// The same operator with query heads in tiled order.
  [[nodiscard]] SEQPRIM_HD constexpr softmax tiled_heads() const noexcept {
    softmax result = *this;
    result.order = head_order::tiled;
    return result;
  }

  /// The same operator with a sink of this logit in every head.
  [[nodiscard]] SEQPRIM_HD constexpr softmax with_sink(float logit) const noexcept {
    softmax result = *this;
    result.sink = logit;
    result.sinks = {};
    return result;
  }

  /// The same operator with a sink of its own for each head: logits [heads], read by every call.
  [[nodiscard]] SEQPRIM_HD constexpr softmax with_sinks(const tensor_view<const float, 1>& logits) const noexcept {
    softmax result = *this;
    result.sinks = logits;
    return result;
  }

  /// The same operator with the first query of every batch row at position `n`.
  [[nodiscard]] SEQPRIM_HD constexpr softmax starting_at(index_t n) const noexcept {
    softmax result = *this;
    result.start = n;
    result.starts = {};
    return result;
  }

  /// The same operator with the first query of batch row b at position positions[b]; read by every call.
  [[nodiscard]] SEQPRIM_HD constexpr softmax starting_at(const index_array& positions) const noexcept {
    softmax result = *this;
    result.starts = positions;
    return result;
  }

  /// The same operator for sequences packed into one row of tokens: mask, score and position are evaluated within each sequence.
  [[nodiscard]] constexpr auto packed(const packing& sequences) const noexcept;

  /// The sink's logit of one query head, natural units; -inf where there is none.
  [[nodiscard]] SEQPRIM_HD constexpr float sink_of(index_t head) const noexcept {
    return sinks.data != nullptr ? sinks(head) : sink;
  }

  /// The scale in use for queries of `head_dim` channels.
  [[nodiscard]] SEQPRIM_INLINE double scale_for(index_t head_dim) const noexcept {
    if (scale != 0) return static_cast<double>(scale);
    return head_dim > 0 ? 1.0 / std::sqrt(static_cast<double>(head_dim)) : 1.0;
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    seqprim::for_arrays(mask, visit);
    seqprim::for_arrays(score, visit);
    seqprim::for_arrays(position, visit);
    visit(self, "sinks", sinks);
    visit(self, "starts", starts);
  }

  SEQPRIM_INLINE void validate() const {
    mask::validate(mask);
    score::validate(score);
    self.expects(std::isfinite(scale), "scale must be finite");
    self.expects(start == last_query_at_last_key || (start >= -furthest && start <= furthest),
                 "the first query is at position ", start, ", which must be in [-2^62, 2^62]");
    self.expects(sink < __builtin_huge_valf(), "the sink (", sink, ") must be finite, or -inf for none");
  }
  /// The same for a sink per head, which is read: entry points of the host call it.
  SEQPRIM_INLINE void validate_sinks() const {
    if (sinks.data == nullptr) return;
    for (index_t h = 0; h < sinks.extent(0); ++h)
      self.expects(sinks(h) < __builtin_huge_valf(), "sinks[", h, "] (", sinks(h),
                   ") must be finite, or -inf for none");
  }
  /// Mask and score fit a problem; entry points call it before they write anything.
  SEQPRIM_INLINE void validate(const mask::shape& problem) const {
    mask::validate(mask, problem);
    score::validate(score, score::shape{problem.batch, problem.heads, problem.q_len, problem.k_len, problem.start});
  }
};

namespace detail {

/// `to` with everything of `from` but its mask, score and position.
template <class To, class From>
[[nodiscard]] SEQPRIM_HD constexpr To with_settings_of(To to, const From& from) noexcept {
  to.scale = from.scale;
  to.order = from.order;
  to.sink = from.sink;
  to.sinks = from.sinks;
  to.start = from.start;
  to.starts = from.starts;
  return to;
}

}  // namespace detail

template <class Mask, class Score, class Position>
constexpr auto softmax<Mask, Score, Position>::packed(const packing& sequences) const noexcept {
  const mask::packed<Mask> packed_mask{sequences, mask};
  const auto packed_score = [&] {
    if constexpr (std::is_same_v<Score, score::identity>) {
      return score;
    } else {
      return score::packed<Score>{sequences, score};
    }
  }();
  const auto packed_position = [&] {
    static_assert(
        !position::is_placed<Position>,
        "seqprim: 'packed' gives the tokens of a packed batch their positions; an operator with position maps of "
        "its own takes maps of the packed rows. See docs/reference/position/packed.md");
    if constexpr (position::is_placed<Position> || std::is_same_v<Position, position::none>) {
      return position;
    } else {
      return position::placed{position, position::packed_queries{sequences}, position::packed_keys{sequences}};
    }
  }();
  return detail::with_settings_of(
      softmax<mask::packed<Mask>, std::remove_const_t<decltype(packed_score)>,
              std::remove_const_t<decltype(packed_position)>>(packed_mask, packed_score, packed_position),
      *this);
}

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
