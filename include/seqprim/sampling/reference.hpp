// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/sampling/greedy.hpp>
#include <seqprim/sampling/gumbel_max.hpp>
#include <seqprim/sampling/min_p.hpp>
#include <seqprim/sampling/stage.hpp>
#include <seqprim/sampling/temperature.hpp>
#include <seqprim/sampling/top_k.hpp>
#include <seqprim/sampling/top_p.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

/// The definition of the sampling stages: sort the row, add probabilities in double. Slow; for tests. Logits, and what
/// a temperature makes of them, are float, because ties decide; everything else is double.
namespace seqprim::sampling::reference {

/// The total order of the tokens that are not excluded.
[[nodiscard]] inline std::vector<std::size_t> total_order(const std::vector<float>& logits) {
  std::vector<std::size_t> tokens;
  for (std::size_t v = 0; v < logits.size(); ++v)
    if (logits[v] > -std::numeric_limits<float>::infinity()) tokens.push_back(v);
  std::sort(tokens.begin(), tokens.end(),
            [&](std::size_t a, std::size_t b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); });
  return tokens;
}

[[nodiscard]] inline row_status status(const std::vector<float>& logits) {
  bool any_nan = false, any_infinite = false, all_masked = true;
  for (const float l : logits) {
    any_nan = any_nan || std::isnan(l);
    any_infinite = any_infinite || l == std::numeric_limits<float>::infinity();
    all_masked = all_masked && l == -std::numeric_limits<float>::infinity();
  }
  return any_nan        ? row_status::nan
         : any_infinite ? row_status::infinite
         : all_masked   ? row_status::all_masked
                        : row_status::ok;
}

/// p = exp(l - max) / sum; 0 where l = -inf. The row status must be ok.
[[nodiscard]] inline std::vector<double> softmax(const std::vector<float>& logits) {
  const double highest = *std::max_element(logits.begin(), logits.end());
  std::vector<double> p(logits.size());
  double sum = 0;
  for (std::size_t v = 0; v < p.size(); ++v) sum += p[v] = std::exp(static_cast<double>(logits[v]) - highest);
  for (double& x : p) x /= sum;
  return p;
}

/// Excludes everything but the first `count` tokens of the total order.
inline void keep_first(std::vector<float>& logits, std::size_t count) {
  const auto tokens = total_order(logits);
  for (std::size_t rank = count; rank < tokens.size(); ++rank)
    logits[tokens[rank]] = -std::numeric_limits<float>::infinity();
}

inline void apply(const temperature& s, std::vector<float>& logits) {
  const float inverse = 1.0f / s.value;
  const float highest = *std::max_element(logits.begin(), logits.end());
  if (!std::isfinite(inverse) || !std::isfinite(highest * inverse)) keep_first(logits, 1);
  if (!std::isfinite(inverse)) return;
  constexpr float largest = std::numeric_limits<float>::max();
  for (float& l : logits)
    if (l > -std::numeric_limits<float>::infinity()) l = std::clamp(l * inverse, -largest, largest);
}

inline void apply(const top_k& s, std::vector<float>& logits) {
  if (s.count > 0) keep_first(logits, static_cast<std::size_t>(s.count));
}

inline void apply(const top_p& s, std::vector<float>& logits) {
  if (s.mass >= 1.0f) return;
  const auto p = softmax(logits);
  double before = 0;
  std::size_t rank = 0;
  for (const std::size_t token : total_order(logits)) {
    if (rank > 0 && before >= static_cast<double>(s.mass)) break;
    before += p[token];
    ++rank;
  }
  keep_first(logits, rank);
}

inline void apply(const min_p& s, std::vector<float>& logits) {
  const auto p = softmax(logits);
  const double highest = *std::max_element(p.begin(), p.end());
  for (std::size_t v = 0; v < p.size(); ++v)
    if (p[v] < static_cast<double>(s.ratio) * highest) logits[v] = -std::numeric_limits<float>::infinity();
}

/// Applies a stage in place. This overload: any elementwise stage of the user.
template <elementwise S>
requires(!order<S> && !threshold<S>) inline void apply(const S& s, std::vector<float>& logits) {
  for (std::size_t v = 0; v < logits.size(); ++v)
    if (logits[v] > -std::numeric_limits<float>::infinity()) logits[v] = s(logits[v], static_cast<index_t>(v));
}

template <terminal S> inline void apply(const S&, std::vector<float>&) {}

template <class First, class Second> void apply(const chain<First, Second>& c, std::vector<float>& logits) {
  reference::apply(c.first, logits);
  reference::apply(c.second, logits);
}

/// The softmax of what the stages leave; zeros when the row status is not ok.
template <stage Chain> [[nodiscard]] std::vector<double> probabilities(const Chain& stages, std::vector<float> logits) {
  if (status(logits) != row_status::ok) return std::vector<double>(logits.size(), 0.0);
  reference::apply(stages, logits);
  return softmax(logits);
}

}  // namespace seqprim::sampling::reference
