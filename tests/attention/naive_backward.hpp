// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/unrolled.hpp>

#include <attention/problem.hpp>
#include <cmath>
#include <limits>

namespace seqprim::test {

/// The naive loop in the precision of a kernel that multiplies numbers of type T and adds in float: weights and logit gradients are
/// rounded to T before they meet a vector; lse and out are what forward left. Results in float, [batch, heads, len, dim].
template <class Op, class T>
void naive_backward(const Op& op, const attention_problem<T>& p, const tensor<T, 4>& out, const tensor<float, 3>& lse,
                    const tensor<T, 4>& dout, tensor<float, 4>& dq, tensor<float, 4>& dk, tensor<float, 4>& dv) {
  const auto rows = attention::detail::in_rows(op, attention::detail::starts_of(op, p.q_len, p.k_len));
  const auto scale = static_cast<float>(op.scale_for(p.head_dim));
  dq.fill(0);
  dk.fill(0);
  dv.fill(0);
  const auto wide = [](T x) { return static_cast<float>(x); };
  for (index_t b = 0; b < p.batch; ++b)
    for (index_t h = 0; h < p.heads; ++h) {
      const auto mask = mask::bind(rows.mask, b, h);
      const auto score = score::bind(rows.score, b, h);
      const index_t g = attention::reference::detail::kv_head(op, p.heads, p.kv_heads, h);
      for (index_t i = 0; i < p.q_len; ++i) {
        float delta = 0;
        for (index_t d = 0; d < p.value_dim; ++d) delta += wide(out(b, h, i, d)) * wide(dout(b, h, i, d));
        for (index_t j = 0; j < p.k_len; ++j) {
          if (!mask(i, j) || lse(b, h, i) == -std::numeric_limits<float>::infinity()) continue;
          float dot = 0, dp = 0;
          for (index_t d = 0; d < p.head_dim; ++d) dot += wide(p.q(b, h, i, d)) * wide(p.k(b, g, j, d));
          for (index_t d = 0; d < p.value_dim; ++d) dp += wide(dout(b, h, i, d)) * wide(p.v(b, g, j, d));
          const float raw = scale * dot;
          const score::site at{i, j};
          const float weight = std::exp(static_cast<float>(score(raw, at)) - lse(b, h, i));
          const float ds = wide(T(weight * (dp - delta) * static_cast<float>(score.derivative(raw, at))));
          for (index_t d = 0; d < p.value_dim; ++d) dv(b, g, j, d) += wide(T(weight)) * wide(dout(b, h, i, d));
          for (index_t d = 0; d < p.head_dim; ++d) {
            dq(b, h, i, d) += scale * ds * wide(p.k(b, g, j, d));
            dk(b, g, j, d) += scale * ds * wide(p.q(b, h, i, d));
          }
        }
      }
    }
}

template <class T> float rounded_as(float x) {
  if constexpr (std::is_same_v<T, bfloat16>) return static_cast<float>(bfloat16(x));
  return x;
}

/// Sums of the naive loop with respect to what a score learns; what is null is not asked for. They begin with what is there.
struct naive_sums {
  tensor<float, 2>* dscore = nullptr;
  tensor<float, 2>* dtable = nullptr;
  tensor<float, 3>* drow = nullptr;
};

/// The naive loop in the precision of the kernel: float products and sums in the order of the definition, from the same out
/// and lse. With bfloat16 operands p and ds are rounded to bfloat16 too, as every kernel does that multiplies such numbers.
template <class Op, class T>
void naive_gradients(const Op& op, const attention_problem<T>& p, const tensor<T, 4>& out, const tensor<float, 3>& lse,
                     const tensor<T, 4>& dout, tensor<float, 4>& dq, tensor<float, 4>& dk, tensor<float, 4>& dv,
                     const naive_sums& learned = {}) {
  const float scale = static_cast<float>(op.scale_for(p.head_dim));
  const auto number = [](T x) { return static_cast<float>(x); };
  const auto rows = attention::detail::in_rows(op, attention::detail::starts_of(op, p.q_len, p.k_len));
  for (index_t b = 0; b < p.batch; ++b)
    for (index_t h = 0; h < p.heads; ++h) {
      const auto mask = mask::bind(rows.mask, b, h);
      const auto score = score::bind(rows.score, b, h);
      const index_t g = attention::reference::detail::kv_head(op, p.heads, p.kv_heads, h);
      for (index_t i = 0; i < p.q_len; ++i) {
        float delta = 0;
        // Backwards: in the order of dp the two would cancel exactly where one key has all the weight, by luck.
        for (index_t d = p.value_dim - 1; d >= 0; --d) delta += number(out(b, h, i, d)) * number(dout(b, h, i, d));
        for (index_t j = 0; j < p.k_len; ++j) {
          if (!mask(i, j)) continue;
          float dot = 0, dp = 0;
          for (index_t d = 0; d < p.head_dim; ++d) dot += number(p.q(b, h, i, d)) * number(p.k(b, g, j, d));
          for (index_t d = 0; d < p.value_dim; ++d) dp += number(dout(b, h, i, d)) * number(p.v(b, g, j, d));
          const score::site at{i, j};
          const float weight = std::exp(static_cast<float>(score(scale * dot, at)) - lse(b, h, i));
          const float dlogit = weight * (dp - delta);
          using score_type = std::remove_cvref_t<decltype(score)>;
          constexpr int parameters = score::parameters<score_type>;
          if constexpr (parameters > 0) {
            arch::unrolled<parameters>([&](auto n) {
              const auto slope = static_cast<float>(score.template parameter_derivative<n>(scale * dot, at));
              if (learned.dscore != nullptr) (*learned.dscore)(h, n) += dlogit * slope;
            });
          }
          if constexpr (score::differentiable_by_table<score_type>) {
            const index_t entry = score.table_index(at);
            if (learned.dtable != nullptr && entry >= 0)
              (*learned.dtable)(h, entry) += dlogit * score.table_derivative(scale * dot, at);
          }
          if constexpr (score::differentiable_by_row<score_type>) {
            if (learned.drow != nullptr) (*learned.drow)(b, h, i) += dlogit * score.row_derivative(scale * dot, at);
          }
          const float ds = rounded_as<T>(scale * dlogit * static_cast<float>(score.derivative(scale * dot, at)));
          for (index_t d = 0; d < p.value_dim; ++d) dv(b, g, j, d) += rounded_as<T>(weight) * number(dout(b, h, i, d));
          for (index_t d = 0; d < p.head_dim; ++d) {
            dk(b, g, j, d) += ds * number(p.q(b, h, i, d));
            dq(b, h, i, d) += ds * number(p.k(b, g, j, d));
          }
        }
      }
    }
}

}  // namespace seqprim::test
