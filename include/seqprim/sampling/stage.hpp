// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/bits.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/index.hpp>
#include <seqprim/core/philox.hpp>
#include <seqprim/core/tensor_view.hpp>

#include <concepts>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

/// A sampler is a chain of stages, joined by `|` and applied in the order in which they are written:
///
///     temperature{0.8f} | top_k{50} | top_p{0.95f} | draw{}
///
/// Exactly one terminal stage stands at the end and picks the token; anything else does not compile, with one sentence.
/// A stage is any trivially copyable struct with one of these members:
///
///     elementwise   float operator()(float logit, index_t token)   the new logit: scale, bias, penalty, mask; -inf excludes
///     threshold     float cutoff(const row_summary&)               the lowest logit that stays
///     order         prefix limit(const row_summary&)               how much of the sorted row stays
///     terminal      index_t choose(const candidates&, const random_stream&)               picks the token
///                   void law(const candidates&, tensor_view<float, 1>)                    the distribution it picks from
///
/// Optional: `void validate() const` (throws precondition_error), and `bind(index_t row)` for parameters that differ
/// between rows.
///
/// Total order, everywhere in the library: token a comes before token b iff logit a > logit b, or they are equal and a
/// < b; -0 equals +0. A logit of -inf excludes its token: probability exactly 0, never kept, never drawn, never passed
/// to an elementwise stage.
///
/// Edge    a stage that produces NaN, +inf or excludes every token gives the row that status.
/// Errors  precondition_error from validate(), which entry points call before they write. Values of logits are never an
///         error: they give their row a status. Page docs/reference/sampling/stage.md
namespace seqprim::sampling {

/// What is wrong with a row, if anything. When several hold: nan before infinite before all_masked.
enum class row_status : std::int32_t {
  ok = 0,
  all_masked = 1,  ///< every logit is -inf
  nan = 2,         ///< some logit is NaN
  infinite = 3,    ///< some logit is +inf
};

/// Statistics of a row, for thresholds and limits.
struct row_summary {
  float max = 0;        ///< the largest logit
  index_t argmax = -1;  ///< the first token of the total order
  row_status status = row_status::all_masked;
};

/// The tokens that are still in a row, by ascending token id. Some may be excluded (logit -inf).
struct candidates {
  const float* logits = nullptr;         ///< [count]
  const std::int32_t* tokens = nullptr;  ///< [count], ascending; null when candidate i is token i
  index_t count = 0;
  row_summary summary;  ///< of these logits; status ok

  [[nodiscard]] SEQPRIM_HD constexpr float logit(index_t i) const noexcept { return logits[i]; }
  [[nodiscard]] SEQPRIM_HD constexpr index_t token(index_t i) const noexcept {
    return tokens != nullptr ? index_t{tokens[i]} : i;
  }
};

/// A prefix of any length.
inline constexpr index_t no_limit = std::numeric_limits<index_t>::max();

/// The first tokens of the total order: a token stays iff fewer than `count` tokens come before it and their share of
/// the probability is < `mass`. The first token always stays. Probabilities are those of the row as it is now, in the
/// integer weights of the draw (integer_weight), so that they do not depend on an order of summation.
struct prefix {
  index_t count = no_limit;  ///< >= 1
  float mass = 1.0f;         ///< in [0, 1]; 1 keeps everything
};

/// True for -inf; by the bits, so that -ffinite-math-only cannot take the test away.
[[nodiscard]] SEQPRIM_HD constexpr bool excluded(float logit) noexcept {
  return bit_cast<std::uint32_t>(logit) == 0xff800000u;
}

/// The logit that excludes a token.
inline constexpr float excluding_logit = -std::numeric_limits<float>::infinity();

/// Where logits that scale past the floats stop.
inline constexpr float largest_logit = std::numeric_limits<float>::max();

template <class S> concept elementwise = requires(const S& s, float logit, index_t token) {
  { s(logit, token) } -> std::same_as<float>;
};
template <class S> concept threshold = requires(const S& s, const row_summary& row) {
  { s.cutoff(row) } -> std::same_as<float>;
};
template <class S> concept order = requires(const S& s, const row_summary& row) {
  { s.limit(row) } -> std::same_as<prefix>;
};

/// A stage that changes the row. One with several of the members is applied in the order threshold, order, elementwise.
template <class S> concept transforming = elementwise<S> || threshold<S> || order<S>;

/// A stage that picks the token and ends the chain. `law` writes the distribution it picks from.
template <class S>
concept terminal = requires(const S& s, const candidates& row, const random_stream& stream, tensor_view<float, 1> out) {
  { s.choose(row, stream) } -> std::same_as<index_t>;
  { s.law(row, out) } -> std::same_as<void>;
};

/// A stage whose parameters differ between rows: s.bind(row) is the stage of one of them.
template <class S> concept depends_on_row = requires(const S& s, index_t row) {
  requires transforming<decltype(s.bind(row))> || terminal<decltype(s.bind(row))>;
};

/// Two stages, or two chains, one after the other. Made by `|`.
template <class First, class Second> struct chain {
  First first;
  Second second;
};

namespace detail {

template <class S> inline constexpr bool is_chain = false;
template <class First, class Second> inline constexpr bool is_chain<chain<First, Second>> = true;

template <class S> struct bound_type { using type = S; };
template <depends_on_row S> struct bound_type<S> {
  using type = std::remove_cvref_t<decltype(std::declval<const S&>().bind(index_t{}))>;
};

template <class S> inline constexpr bool transforms = transforming<typename bound_type<S>::type>;
template <class First, class Second>
inline constexpr bool transforms<chain<First, Second>> = transforms<First> || transforms<Second>;

template <class S> inline constexpr bool ends = terminal<typename bound_type<S>::type>;
template <class First, class Second> inline constexpr bool ends<chain<First, Second>> = ends<Second>;

// A stage may drop tokens, so the ids of the survivors need memory.
template <class S>
inline constexpr bool drops_tokens = threshold<typename bound_type<S>::type> || order<typename bound_type<S>::type>;
template <class First, class Second>
inline constexpr bool drops_tokens<chain<First, Second>> = drops_tokens<First> || drops_tokens<Second>;

}  // namespace detail

/// A stage or a chain of stages, with or without a terminal one.
template <class S> concept stage = detail::is_chain<S> || detail::transforms<S> || detail::ends<S>;

/// First `first`, then `second`.
template <stage First, stage Second>
[[nodiscard]] SEQPRIM_HD constexpr chain<First, Second> operator|(const First& first, const Second& second) noexcept {
  static_assert(
      !detail::ends<First>,
      "seqprim: a stage that picks the token (draw, gumbel_max, greedy) must be the last of a sampling chain. "
      "See docs/reference/sampling/stage.md");
  static_assert(
      std::is_trivially_copyable_v<First> && std::is_trivially_copyable_v<Second>,
      "seqprim: a sampling stage must be trivially copyable so that it can travel to a kernel; hold views, not "
      "containers. See docs/reference/sampling/stage.md");
  return {first, second};
}

/// The stages of one row.
template <stage S> [[nodiscard]] SEQPRIM_HD constexpr auto bind(const S& s, index_t row) noexcept {
  if constexpr (depends_on_row<S>) {
    return s.bind(row);
  } else {
    return s;
  }
}
template <class First, class Second>
[[nodiscard]] SEQPRIM_HD constexpr auto bind(const chain<First, Second>& c, index_t row) noexcept {
  return chain<decltype(sampling::bind(c.first, row)), decltype(sampling::bind(c.second, row))>{
      sampling::bind(c.first, row), sampling::bind(c.second, row)};
}

/// Checks the parameters of every stage: throws precondition_error. Every entry point calls it.
template <stage S> constexpr void validate(const S& s) {
  if constexpr (requires { s.validate(); }) s.validate();
}
template <class First, class Second> constexpr void validate(const chain<First, Second>& c) {
  sampling::validate(c.first);
  sampling::validate(c.second);
}

/// Named requirement of sample(): one sentence when the chain cannot pick a token.
template <class S> consteval bool require_sampler() {
  static_assert(stage<S>,
                "seqprim: a sampling stage needs one of 'float operator()(float logit, index_t token) const', 'float "
                "cutoff(const row_summary&) const', 'prefix limit(const row_summary&) const'. See "
                "docs/reference/sampling/stage.md");
  static_assert(!stage<S> || detail::ends<S>,
                "seqprim: a sampling chain must end in exactly one stage that picks the token: draw, gumbel_max or "
                "greedy. See docs/reference/sampling/stage.md");
  return true;
}

/// Named requirement of apply(): stages that change the row and pick nothing.
template <class S> consteval bool require_transforms() {
  static_assert(stage<S> && !detail::ends<S>,
                "seqprim: apply needs stages that change the row, without one that picks the token. See "
                "docs/reference/sampling/sample.md");
  return true;
}

}  // namespace seqprim::sampling
