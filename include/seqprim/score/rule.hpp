// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index.hpp>

#include <concepts>
#include <type_traits>
#include <utility>

/// A score modifier changes one attention logit, after the softmax scale and before the softmax:
///
///     logit = score(scale * <q, k>, {q, k})        p = softmax(logit over the visible keys)
///
/// Modifiers compose with `|`, left to right: soft_cap{50} | alibi{...} caps first and adds the bias second.
/// Page: docs/reference/score/rule.md
namespace seqprim::score {

/// Which logit: query q and key k, absolute positions in the sequence [tokens].
struct site {
  index_t q = 0;
  index_t k = 0;

  /// How far the key is ahead of the query [tokens]; negative for past keys.
  template <class T> [[nodiscard]] SEQPRIM_HD constexpr T ahead() const noexcept { return static_cast<T>(k - q); }
  /// The same key, and the query `by` positions later.
  [[nodiscard]] SEQPRIM_HD constexpr site later_query(index_t by) const noexcept { return {q + by, k}; }

  /// The entry of an array over keys, or over queries: values[k], values[q].
  template <class T> [[nodiscard]] SEQPRIM_HD constexpr T of_key(const float* values) const noexcept {
    return static_cast<T>(values[k]);
  }
  template <class T> [[nodiscard]] SEQPRIM_HD constexpr T of_query(const float* values) const noexcept {
    return static_cast<T>(values[q]);
  }
  /// The entry of a table by distance, values[k - q]: `values` points to the entry of distance 0.
  template <class T> [[nodiscard]] SEQPRIM_HD constexpr T by_distance(const float* values) const noexcept {
    return static_cast<T>(values[k - q]);
  }
  /// The same for a table of the distances `held`, whose first entry `values` points to; distances outside take the nearest of them.
  template <class T> [[nodiscard]] SEQPRIM_HD constexpr T by_distance(const float* values, range held) const noexcept {
    return static_cast<T>(values[max_of(held.begin, min_of(k - q, held.end - 1)) - held.begin]);
  }
};

/// Which side of the problem runs along the lanes of a register.
enum class along : unsigned char { keys, queries };

/// The positions of the logits of one register: X holds many values, the site of the first is given, and each further lane
/// is one key later or one query later. Arrays are read with one load: as they lie, one entry for all lanes, or backwards.
///
/// Only the first `live` lanes are pairs of the problem. Arrays are read for these, and zeros stand in the others: an array
/// that has an entry for each key, query or distance of the problem needs no padding. The register of steps is referred to, not
/// held: GCC 12 would move it through memory with every copy of the site.
template <class X, along Lanes> struct lane_site {
  static constexpr along side = Lanes;

  site first;
  const X& step;  ///< what each lane adds to ahead(): 0, 1, 2, ... along keys, 0, -1, -2, ... along queries
  int live;       ///< how many lanes hold pairs, >= 1

  /// The site of one lane.
  [[nodiscard]] SEQPRIM_INLINE site operator[](int lane) const noexcept {
    return Lanes == along::keys ? site{first.q, first.k + lane} : site{first.q + lane, first.k};
  }

  template <class> [[nodiscard]] X ahead() const noexcept { return X(first.ahead<float>()) + step; }
  [[nodiscard]] SEQPRIM_INLINE lane_site later_query(index_t by) const noexcept {
    return {first.later_query(by), step, live};
  }

  template <class> [[nodiscard]] SEQPRIM_INLINE X of_key(const float* values) const noexcept {
    if constexpr (Lanes == along::keys) {
      return X::load(values + first.k, live);
    } else {
      return X(values[first.k]);
    }
  }
  template <class> [[nodiscard]] SEQPRIM_INLINE X of_query(const float* values) const noexcept {
    if constexpr (Lanes == along::queries) {
      return X::load(values + first.q, live);
    } else {
      return X(values[first.q]);
    }
  }
  template <class> [[nodiscard]] SEQPRIM_INLINE X by_distance(const float* values) const noexcept {
    return consecutive(values + (first.k - first.q));
  }
  template <class> [[nodiscard]] SEQPRIM_INLINE X by_distance(const float* values, range held) const noexcept {
    const index_t distance = first.k - first.q;
    const index_t least = Lanes == along::keys ? distance : distance - live + 1, most = least + live - 1;
    if (held.begin <= least && most < held.end) return consecutive(values + (distance - held.begin));
    if (most <= held.begin) return X(values[0]);
    if (least >= held.end - 1) return X(values[held.size() - 1]);
    float each[X::count] = {};
    for (int lane = 0; lane < live; ++lane) each[lane] = (*this)[lane].template by_distance<float>(values, held);
    return X::load(each);
  }

 private:
  /// Entries of a table by distance, from that of the first lane on.
  [[nodiscard]] SEQPRIM_INLINE X consecutive(const float* entry) const noexcept {
    if constexpr (Lanes == along::keys) {
      return X::load(entry, live);
    } else {
      return X::load_reversed(entry, live);
    }
  }
};

/// A modifier: the new logit, and its derivative with respect to the old one (for backward). Functions of a float and a site, pure,
/// host and device. Those of this library are templates that take double as well, for references and gradient checks, and
/// arch::lanes for speed (score/number.hpp has the functions that all three share).
template <class S> concept modifier = std::is_trivially_copyable_v<S> && requires(const S& s, float logit, site at) {
  { s(logit, at) } -> std::same_as<float>;
  { s.derivative(logit, at) } -> std::same_as<float>;
};

/// A modifier that also takes many logits at once: written as a template over the element type and the site. Forward
/// and backward on the CPU then evaluate a register at a time (decode pair by pair all the same); results mean the same. X is
/// arch::lanes.
template <class S, class X>
concept takes_lanes = requires(const S& s, X logits, lane_site<X, along::keys> keys,
                               lane_site<X, along::queries> queries) {
  { s(logits, keys) } -> std::same_as<X>;
  { s(logits, queries) } -> std::same_as<X>;
  { s.derivative(logits, keys) } -> std::same_as<X>;
};

/// A modifier that differs between heads: s.bind(batch, head) is the modifier of one of them.
template <class S> concept depends_on_batch_or_head = requires(const S& s, index_t batch, index_t head) {
  { s.bind(batch, head) } -> modifier;
};

template <class S> concept bindable = modifier<S> || depends_on_batch_or_head<S>;

/// The modifier of one (batch, head). Modifiers that depend on neither bind to themselves.
template <bindable S> [[nodiscard]] SEQPRIM_HD constexpr auto bind(const S& s, index_t batch, index_t head) noexcept {
  if constexpr (depends_on_batch_or_head<S>) {
    return s.bind(batch, head);
  } else {
    return s;
  }
}

namespace detail {
template <class S> struct parameters_of { static constexpr int value = 0; };
template <class S>
requires requires { S::parameters; }
struct parameters_of<S> {
  static constexpr int value = S::parameters;
};
}  // namespace detail

/// How many parameters of a modifier can be learned: a type with `static constexpr int parameters` has so many, and
///
///     template <int N> float parameter_derivative(float logit, site at) const
///
/// is the derivative of the new logit with respect to the N-th of them, at the old logit. 0 for a type without the constant. Backward sums
/// the gradient of each for each head.
template <class S> inline constexpr int parameters = detail::parameters_of<S>::value;

/// A modifier whose N-th parameter can be learned. Site and X as for the modifier itself.
template <class S, int N, class X = float, class Site = site>
concept differentiable_by_parameter = N < parameters<S> && requires(const S& s, X logit, Site at) {
  { s.template parameter_derivative<N>(logit, at) } -> std::same_as<X>;
};

/// A modifier that learns a table, which it declares by `static constexpr bool learns_table = true`: each logit depends on one entry,
/// table_index(at) in [0, table_size()), or on none, < 0, and table_derivative is the derivative of the new logit with respect to it, at
/// the old logit. Backward sums the gradient of each entry for each head. Site and X as for the modifier itself.
template <class S, class X = float, class Site = site>
concept differentiable_by_table = requires(const S& s, X logit, Site at, site one) {
  requires S::learns_table;
  { s.table_size() } -> std::same_as<index_t>;
  { s.table_index(one) } -> std::same_as<index_t>;
  { s.table_derivative(logit, at) } -> std::same_as<X>;
};

/// A modifier with one value to learn for each query: row_derivative is the derivative of the new logit with respect to that of its row, at
/// the old logit. Backward sums over the keys.
template <class S, class X = float, class Site = site>
concept differentiable_by_row = requires(const S& s, X logit, Site at) {
  { s.row_derivative(logit, at) } -> std::same_as<X>;
};

/// Checks the parameters of a modifier, if it has any: throws precondition_error.
template <bindable S> SEQPRIM_INLINE constexpr void validate(const S& s) {
  if constexpr (requires { s.validate(); }) s.validate();
}

/// The problem that a modifier is evaluated at: queries at positions [start, start + q_len), keys at [0, k_len).
struct shape {
  index_t batch = 1;
  index_t heads = 1;
  index_t q_len = 0;
  index_t k_len = 0;
  index_t start = 0;  ///< position of the first query [tokens]
};

/// The same, and that the modifier fits the problem: as many slopes as heads, tables as long as the keys. Every entry point
/// calls it before it touches data, so that no kernel reads past a modifier's arrays.
template <bindable S> SEQPRIM_INLINE constexpr void validate(const S& s, const shape& problem) {
  score::validate(s);
  if constexpr (requires { s.validate(problem); }) s.validate(problem);
}

/// Leaves the logit as it is; kernels drop it at compile time.
struct identity {
  template <class X, class Site = site> SEQPRIM_HD constexpr X operator()(X logit, Site) const noexcept {
    return logit;
  }
  template <class X, class Site = site> SEQPRIM_HD constexpr X derivative(X, Site) const noexcept { return X(1.0f); }
};
static_assert(modifier<identity>);

/// Named requirement of the entry points: one sentence when a type is not a score modifier.
template <class S> consteval bool require_modifier() {
  if constexpr (!depends_on_batch_or_head<S>) {
    static_assert(
        requires(const S& s, float logit, site at) {
          { s(logit, at) } -> std::same_as<float>;
        },
        "seqprim: a score modifier needs 'float operator()(float logit, score::site at) const'. See "
        "docs/reference/score/rule.md");
    static_assert(
        requires(const S& s, float logit, site at) {
          { s.derivative(logit, at) } -> std::same_as<float>;
        },
        "seqprim: a score modifier needs 'float derivative(float logit, score::site at) const' for backward. See "
        "docs/reference/score/rule.md");
    static_assert(std::is_trivially_copyable_v<S>,
                  "seqprim: a score modifier must be trivially copyable so that it can travel to a kernel. See "
                  "docs/reference/score/rule.md");
  }
  return true;
}

}  // namespace seqprim::score
