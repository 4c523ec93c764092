// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/unrolled.hpp>
#include <seqprim/attention/detail/rows.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/core/element.hpp>
#include <seqprim/core/tensor.hpp>

#include <cmath>
#include <limits>

/// The definition of softmax attention: one query at a time, one key at a time, in double. Slow and obvious; everything
/// fast is tested against it, and so can be your own masks and kernels. Same shapes and edge values as
/// attention::forward and attention::backward; op has no position: encode before. Nothing is validated.
///
/// Cost    O(batch heads q_len k_len dim), one thread.
namespace seqprim::attention::reference {

namespace detail {

/// Logits of one row: visible[k], and the logit before and after the score modifier.
template <class Mask, class Score, class Q, class K>
void logits(const Mask& mask, const Score& score, double scale, const Q& q, const K& k, index_t i, index_t position,
            tensor<double, 1>& raw, tensor<double, 1>& logit, tensor<bool, 1>& visible) {
  for (index_t j = 0; j < k.extent(0); ++j) {
    visible(j) = mask(position, j);
    if (!visible(j)) continue;
    double dot = 0;
    for (index_t d = 0; d < k.extent(1); ++d) dot += static_cast<double>(q(i, d)) * static_cast<double>(k(j, d));
    raw(j) = scale * dot;
    if constexpr (requires { score(raw(j), score::site{position, j}); } && !std::same_as<Score, score::identity>) {
      logit(j) = static_cast<double>(score(raw(j), score::site{position, j}));
    } else {
      logit(j) = raw(j);
    }
  }
}

/// The key head of query head h.
template <class Op> [[nodiscard]] index_t kv_head(const Op& op, index_t heads, index_t kv_heads, index_t h) {
  return op.order == head_order::tiled ? h % kv_heads : h / (heads / kv_heads);
}

/// p = softmax(logit) over the visible keys and the sink; returns the log-sum-exp, -inf for an empty row without sink.
inline double normalize(const tensor<double, 1>& logit, const tensor<bool, 1>& visible, double sink,
                        tensor<double, 1>& p) {
  const double infinity = std::numeric_limits<double>::infinity();
  double top = sink;
  for (index_t j = 0; j < p.size(); ++j) {
    p(j) = 0;
    if (visible(j) && !(logit(j) <= top)) top = logit(j);
  }
  if (top == -infinity) return -infinity;
  double sum = std::exp(sink - top);
  for (index_t j = 0; j < p.size(); ++j)
    if (visible(j)) sum += p(j) = std::exp(logit(j) - top);
  for (index_t j = 0; j < p.size(); ++j) p(j) /= sum;
  return top + std::log(sum);
}

}  // namespace detail

/// out, lse: any element type; sums in double.
template <class Op, class Q, class K, class V, class Out, class Lse>
void forward(const Op& op, const Q& q, const K& k, const V& v, Out&& out, Lse&& lse) {
  static_assert(std::same_as<std::remove_cvref_t<decltype(op.position)>, position::none>,
                "seqprim: the reference takes encoded queries and keys; call position::encode first");
  const row_starts starts = attention::detail::starts_of(op, q.extent(2), k.extent(2));
  const double scale = op.scale_for(q.extent(3));
  tensor<double, 1> raw(k.extent(2)), logit(k.extent(2)), p(k.extent(2));
  tensor<bool, 1> visible(k.extent(2));
  for (index_t b = 0; b < q.extent(0); ++b)
    for (index_t h = 0; h < q.extent(1); ++h) {
      const auto mask = mask::bind(op.mask, b, h);
      const auto score = score::bind(op.score, b, h);
      for (index_t i = 0; i < q.extent(2); ++i) {
        const index_t g = detail::kv_head(op, q.extent(1), k.extent(1), h);
        detail::logits(mask, score, scale, as_view(q)[b][h], as_view(k)[b][g], i, starts(b) + i, raw, logit, visible);
        const double row_lse = detail::normalize(logit, visible, static_cast<double>(op.sink_of(h)), p);
        for (index_t d = 0; d < v.extent(3); ++d) {
          double sum = 0;
          for (index_t j = 0; j < k.extent(2); ++j)
            if (visible(j) && row_lse != -std::numeric_limits<double>::infinity())
              sum += p(j) * static_cast<double>(v(b, g, j, d));
          using element = std::remove_cvref_t<decltype(out(b, h, i, d))>;
          if constexpr (sizeof(element) == 2) {
            out(b, h, i, d) = element(static_cast<float>(sum));
          } else {
            out(b, h, i, d) = static_cast<element>(sum);
          }
        }
        lse(b, h, i) = static_cast<std::remove_cvref_t<decltype(lse(b, h, i))>>(row_lse);
      }
    }
}

/// Gradients of sum(out * dout); dq, dk, dv in double, and with respect to what the score learns where requested: parameters [heads,
/// parameters], table [heads, table_size], values of rows [batch, heads, q_len].
template <class Op, class Q, class K, class V, class Dout>
void backward(const Op& op, const Q& q, const K& k, const V& v, const Dout& dout, tensor<double, 4>& dq,
              tensor<double, 4>& dk, tensor<double, 4>& dv, tensor<double, 2>* dscore = nullptr,
              tensor<double, 2>* dtable = nullptr, tensor<double, 3>* drow = nullptr) {
  const row_starts starts = attention::detail::starts_of(op, q.extent(2), k.extent(2));
  const double scale = op.scale_for(q.extent(3));
  tensor<double, 1> raw(k.extent(2)), logit(k.extent(2)), p(k.extent(2)), dp(k.extent(2));
  tensor<bool, 1> visible(k.extent(2));
  dq.fill(0);
  dk.fill(0);
  dv.fill(0);
  if (dscore != nullptr) dscore->fill(0);
  if (dtable != nullptr) dtable->fill(0);
  if (drow != nullptr) drow->fill(0);
  for (index_t b = 0; b < q.extent(0); ++b)
    for (index_t h = 0; h < q.extent(1); ++h) {
      const auto mask = mask::bind(op.mask, b, h);
      const auto score = score::bind(op.score, b, h);
      const index_t g = detail::kv_head(op, q.extent(1), k.extent(1), h);
      for (index_t i = 0; i < q.extent(2); ++i) {
        detail::logits(mask, score, scale, as_view(q)[b][h], as_view(k)[b][g], i, starts(b) + i, raw, logit, visible);
        if (detail::normalize(logit, visible, static_cast<double>(op.sink_of(h)), p) ==
            -std::numeric_limits<double>::infinity())
          continue;
        double mean = 0;
        for (index_t j = 0; j < k.extent(2); ++j) {
          if (!visible(j)) continue;
          dp(j) = 0;
          for (index_t d = 0; d < v.extent(3); ++d) {
            dp(j) += static_cast<double>(dout(b, h, i, d)) * static_cast<double>(v(b, g, j, d));
            dv(b, g, j, d) += p(j) * static_cast<double>(dout(b, h, i, d));
          }
          mean += p(j) * dp(j);
        }
        for (index_t j = 0; j < k.extent(2); ++j) {
          if (!visible(j)) continue;
          double ds = p(j) * (dp(j) - mean);
          using score_type = std::remove_cvref_t<decltype(score)>;
          const score::site at{starts(b) + i, j};
          constexpr int parameters = score::parameters<score_type>;
          if constexpr (parameters > 0) {
            arch::unrolled<parameters>([&](auto n) {
              const auto slope = static_cast<double>(score.template parameter_derivative<n>(raw(j), at));
              if (dscore != nullptr) (*dscore)(h, index_t{n}) += ds * slope;
            });
          }
          if constexpr (score::differentiable_by_table<score_type>) {
            const index_t entry = score.table_index(at);
            if (dtable != nullptr && entry >= 0)
              (*dtable)(h, entry) += ds * static_cast<double>(score.table_derivative(raw(j), at));
          }
          if constexpr (score::differentiable_by_row<score_type>) {
            if (drow != nullptr) (*drow)(b, h, i) += ds * static_cast<double>(score.row_derivative(raw(j), at));
          }
          if constexpr (!std::same_as<score_type, score::identity>)
            ds *= static_cast<double>(score.derivative(raw(j), at));
          for (index_t d = 0; d < q.extent(3); ++d) {
            dq(b, h, i, d) += scale * ds * static_cast<double>(k(b, g, j, d));
            dk(b, g, j, d) += scale * ds * static_cast<double>(q(b, h, i, d));
          }
        }
      }
    }
}

}  // namespace seqprim::attention::reference
