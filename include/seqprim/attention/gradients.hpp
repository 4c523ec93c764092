// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/tensor_view.hpp>

#include <type_traits>

namespace seqprim::attention {

/// A gradient that nobody asked for.
struct not_wanted {};

/// Where backward writes its gradients, each by name, so that two of one type cannot be confused:
///
///     attention::backward(executor, op, q, k, v, out, lse, dout, attention::gradients{}.dq(dq).dk(dk).dv(dv));
///
/// dq, dk and dv are always written. dscore(h, n) is the gradient with respect to the n-th parameter of the score of head h.
/// Tensors are borrowed: the value holds views.
template <class Dq = not_wanted, class Dk = not_wanted, class Dv = not_wanted, class Dscore = not_wanted>
struct gradients {
  Dq query{};      ///< [batch, heads, q_len, head_dim]
  Dk key{};        ///< [batch, kv_heads, k_len, head_dim]
  Dv value{};      ///< [batch, kv_heads, k_len, value_dim]
  Dscore score{};  ///< [heads, score::parameters], where asked for

  template <class X> [[nodiscard]] constexpr auto dq(X&& x) const noexcept {
    return with(as_view(x), key, value, score);
  }
  template <class X> [[nodiscard]] constexpr auto dk(X&& x) const noexcept {
    return with(query, as_view(x), value, score);
  }
  template <class X> [[nodiscard]] constexpr auto dv(X&& x) const noexcept {
    return with(query, key, as_view(x), score);
  }
  template <class X> [[nodiscard]] constexpr auto dscore(X&& x) const noexcept {
    return with(query, key, value, as_view(x));
  }

 private:
  template <class A, class B, class C, class D>
  [[nodiscard]] static constexpr gradients<A, B, C, D> with(const A& a, const B& b, const C& c, const D& d) noexcept {
    return {a, b, c, d};
  }
};

template <class X> inline constexpr bool is_gradients = false;
template <class Dq, class Dk, class Dv, class Dscore>
inline constexpr bool is_gradients<gradients<Dq, Dk, Dv, Dscore>> = true;

/// Named requirement of the entry points.
template <class G> consteval bool require_gradients() {
  static_assert(is_gradients<G>,
                "seqprim: the results of attention::backward go by name: "
                "'attention::gradients{}.dq(dq).dk(dk).dv(dv)'. See docs/reference/attention/gradients.md");
  if constexpr (is_gradients<G>)
    static_assert(!std::is_same_v<decltype(G::query), not_wanted> && !std::is_same_v<decltype(G::key), not_wanted> &&
                      !std::is_same_v<decltype(G::value), not_wanted>,
                  "seqprim: attention::backward writes dq, dk and dv: name all three, "
                  "'attention::gradients{}.dq(dq).dk(dk).dv(dv)'. See docs/reference/attention/gradients.md");
  return true;
}

}  // namespace seqprim::attention
