// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/reference.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/tensor.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <support/random.hpp>

namespace seqprim::test {

/// One attention problem of random shape and content.
template <class T> struct attention_problem {
  index_t batch, heads, kv_heads, q_len, k_len, head_dim, value_dim;
  tensor<T, 4> q, k, v;

  attention_problem(index_t batch_, index_t heads_, index_t kv_heads_, index_t q_len_, index_t k_len_,
                    index_t head_dim_, index_t value_dim_)
      : batch(batch_),
        heads(heads_),
        kv_heads(kv_heads_),
        q_len(q_len_),
        k_len(k_len_),
        head_dim(head_dim_),
        value_dim(value_dim_),
        q(batch, heads, q_len, head_dim),
        k(batch, kv_heads, k_len, head_dim),
        v(batch, kv_heads, k_len, value_dim) {}

  void fill(random_numbers& random, float scale = 1.0f) {
    random.fill(q, scale);
    random.fill(k, scale);
    random.fill(v);
  }
};

/// In words, for what a failure prints.
template <class T> std::string sizes_of(const attention_problem<T>& p) {
  return message("batch ", p.batch, ", heads ", p.heads, ", kv_heads ", p.kv_heads, ", q_len ", p.q_len, ", k_len ",
                 p.k_len, ", head_dim ", p.head_dim, ", value_dim ", p.value_dim);
}

/// Lengths that bite: 0 and 1, one less and one more than a tile, primes, more queries than keys.
template <class T> attention_problem<T> random_problem(random_numbers& random, index_t longest = 210) {
  const index_t edges[] = {0, 1, 2, 15, 16, 17, 63, 64, 65, 95, 96, 97, 127, 131, 193};
  const auto length = [&] {
    const index_t n = random.integer(0, 3) == 0 ? edges[random.integer(0, 14)] : random.integer(0, longest);
    return min(n, longest);
  };
  const index_t group = random.integer(1, 3), kv_heads = random.integer(1, 2);
  const index_t dims[] = {1, 3, 8, 16, 17, 24, 32, 40, 64, 72};
  const index_t q_len = length(), k_len = length(), head_dim = dims[random.integer(0, 9)],
                value_dim = dims[random.integer(0, 9)];
  attention_problem<T> p(random.integer(1, 2), group * kv_heads, kv_heads, q_len, k_len, head_dim, value_dim);
  p.fill(random);
  return p;
}

/// The naive loop in the precision of the kernel: float products and sums in the order of the definition. Its distance from
/// the definition in double is what rounding alone costs; a kernel may cost twice that, plus two roundings of its output.
template <class Op, class T>
void naive_forward(const Op& op, const attention_problem<T>& p, tensor<float, 4>& out, tensor<float, 3>& lse) {
  const auto rows = attention::detail::in_rows(op, attention::detail::starts_of(op, p.q_len, p.k_len));
  const float scale = static_cast<float>(op.scale_for(p.head_dim));
  tensor<float, 1> logit(p.k_len);
  for (index_t b = 0; b < p.batch; ++b)
    for (index_t h = 0; h < p.heads; ++h) {
      const auto mask = mask::bind(rows.mask, b, h);
      const auto score = score::bind(rows.score, b, h);
      const index_t g = attention::reference::detail::kv_head(op, p.heads, p.kv_heads, h);
      for (index_t i = 0; i < p.q_len; ++i) {
        const float infinity = std::numeric_limits<float>::infinity();
        float top = op.sink_of(h), sum = 0;
        for (index_t j = 0; j < p.k_len; ++j) {
          logit(j) = -infinity;
          if (!mask(i, j)) continue;
          float dot = 0;
          for (index_t d = 0; d < p.head_dim; ++d)
            dot += static_cast<float>(p.q(b, h, i, d)) * static_cast<float>(p.k(b, g, j, d));
          logit(j) = static_cast<float>(score(scale * dot, score::site{i, j}));
          top = std::max(top, logit(j));
        }
        if (op.sink_of(h) != -infinity) sum = std::exp(op.sink_of(h) - top);
        for (index_t j = 0; j < p.k_len; ++j)
          if (logit(j) != -infinity) sum += std::exp(logit(j) - top);
        for (index_t d = 0; d < p.value_dim; ++d) {
          float total = 0;
          for (index_t j = 0; j < p.k_len; ++j)
            if (logit(j) != -infinity) total += std::exp(logit(j) - top) * static_cast<float>(p.v(b, g, j, d));
          out(b, h, i, d) = sum == 0 ? 0 : total / sum;
        }
        lse(b, h, i) = sum == 0 ? -infinity : top + std::log(sum);
      }
    }
}

/// Largest |a - b|; equal infinities are no difference.
template <class A, class B> double distance(const A& a, const B& b) {
  double worst = 0;
  auto y = b.begin();
  for (auto x = a.begin(); x != a.end(); ++x, ++y) {
    const auto u = static_cast<double>(*x), w = static_cast<double>(*y);
    if (u == w) continue;
    const double difference = std::abs(u - w);
    worst = difference <= worst ? worst : difference;  // a NaN sticks
    if (std::isnan(difference)) return difference;
  }
  return worst;
}

/// Whether every number of a is that of b within `tolerance`; NaN and infinities must be the same ones.
template <class A, class B> bool same_numbers(const A& a, const B& b, double tolerance) {
  auto y = b.begin();
  for (auto x = a.begin(); x != a.end(); ++x, ++y) {
    const auto u = static_cast<double>(*x), w = static_cast<double>(*y);
    if (std::isnan(u) && std::isnan(w)) continue;
    if (u != w && !(std::abs(u - w) <= tolerance)) return false;
  }
  return true;
}

/// A window over keys whose values hold NaN and infinity in some channels, alone and side by side.
template <class T> attention_problem<T> problem_with_wild_values(random_numbers& random) {
  attention_problem<T> p(1, 1, 1, 150, 150, 16, 24);
  p.fill(random);
  for (const index_t j : {0, 40, 41, 77, 90, 149}) {
    p.v(0, 0, j, 3) = T(std::numeric_limits<float>::quiet_NaN());
    p.v(0, 0, j, 20) = T(j % 2 == 0 ? std::numeric_limits<float>::infinity() : 1.0f);
  }
  return p;
}

/// Half a unit in the last place of T, relative.
template <class T>
inline constexpr double rounding = std::is_same_v<T, float>      ? 0x1p-24
                                   : std::is_same_v<T, float16>  ? 0x1p-11
                                   : std::is_same_v<T, bfloat16> ? 0x1p-8
                                                                 : 0x1p-53;

template <class A> double largest(const A& a) {
  double top = 0;
  for (const auto& x : a)
    if (std::isfinite(static_cast<double>(x))) top = std::max(top, std::abs(static_cast<double>(x)));
  return top;
}

}  // namespace seqprim::test
