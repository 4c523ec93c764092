// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/tensor_view.hpp>

#include <type_traits>

namespace seqprim::attention {

/// A gradient that is not requested.
struct not_wanted {};

/// Where backward writes its gradients, each by name, so that two of one type cannot be confused:
///
///     attention::backward(executor, op, q, k, v, out, lse, dout, attention::gradients{}.dq(dq).dk(dk).dv(dv));
///
/// dq, dk and dv are always written. What the score learns has gradients of three kinds, each where requested:
///
///     dscore(h, n)     with respect to the n-th parameter of the score of head h           (score::alibi_table, score::soft_cap)
///     dtable(h, n)     with respect to entry n of the table of head h                      (score::relative_bias, score::key_bias)
///     drow(b, h, i)    with respect to the value of the score that belongs to row i        (score::query_scale)
///
/// Tensors are borrowed: the value holds views.
template <class Dq = not_wanted, class Dk = not_wanted, class Dv = not_wanted, class Dscore = not_wanted,
          class Dtable = not_wanted, class Drow = not_wanted>
struct gradients {
  Dq query{};      ///< [batch, heads, q_len, head_dim]
  Dk key{};        ///< [batch, kv_heads, k_len, head_dim]
  Dv value{};      ///< [batch, kv_heads, k_len, value_dim]
  Dscore score{};  ///< [heads, score::parameters], where requested
  Dtable table{};  ///< [heads, table_size() of the score], where requested
  Drow row{};      ///< [batch, heads, q_len], where requested

  template <class X> [[nodiscard]] constexpr auto dq(X&& x) const noexcept {
    return with(as_view(x), key, value, score, table, row);
  }
  template <class X> [[nodiscard]] constexpr auto dk(X&& x) const noexcept {
    return with(query, as_view(x), value, score, table, row);
  }
  template <class X> [[nodiscard]] constexpr auto dv(X&& x) const noexcept {
    return with(query, key, as_view(x), score, table, row);
  }
  template <class X> [[nodiscard]] constexpr auto dscore(X&& x) const noexcept {
    return with(query, key, value, as_view(x), table, row);
  }
  template <class X> [[nodiscard]] constexpr auto dtable(X&& x) const noexcept {
    return with(query, key, value, score, as_view(x), row);
  }
  template <class X> [[nodiscard]] constexpr auto drow(X&& x) const noexcept {
    return with(query, key, value, score, table, as_view(x));
  }

 private:
  template <class... X> [[nodiscard]] static constexpr gradients<X...> with(const X&... x) noexcept { return {x...}; }
};

template <class X> inline constexpr bool is_gradients = false;
template <class... X> inline constexpr bool is_gradients<gradients<X...>> = true;

/// Whether one of them was requested.
template <class X> inline constexpr bool is_wanted = !std::is_same_v<X, not_wanted>;

/// Named requirement of the entry points.
template <class G> consteval bool require_gradients() {
  static_assert(is_gradients<G>,
                "seqprim: the results of attention::backward go by name: "
                "'attention::gradients{}.dq(dq).dk(dk).dv(dv)'. See docs/reference/attention/gradients.md");
  if constexpr (is_gradients<G>)
    static_assert(is_wanted<decltype(G::query)> && is_wanted<decltype(G::key)> && is_wanted<decltype(G::value)>,
                  "seqprim: attention::backward writes dq, dk and dv: name all three, "
                  "'attention::gradients{}.dq(dq).dk(dk).dv(dv)'. See docs/reference/attention/gradients.md");
  return true;
}

}  // namespace seqprim::attention
