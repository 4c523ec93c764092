// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/tensor.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace seqprim::test {

/// Largest |a - b| / max(1, |b|) over two dense tensors or views of one shape; infinite when one is NaN where the other is not, or when the
/// sizes differ.
template <class A, class B> double worst_error(const A& first, const B& second) {
  const auto actual = as_view(first);
  const auto expected = as_view(second);
  constexpr double infinity = std::numeric_limits<double>::infinity();
  if (actual.size() != expected.size() || !actual.contiguous() || !expected.contiguous()) return infinity;
  double worst = 0;
  for (index_t i = 0; i < actual.size(); ++i) {
    const auto a = static_cast<double>(actual.data[i]), b = static_cast<double>(expected.data[i]);
    if (std::isnan(a) && std::isnan(b)) continue;
    const double error = std::abs(a - b) / std::max(1.0, std::abs(b));
    worst = std::isnan(error) ? infinity : std::max(worst, error);
  }
  return worst;
}

/// Central difference of objective() by one number.
template <class Objective> double slope(double& x, const Objective& objective) {
  const double before = x, h = 1e-5 * std::max(1.0, std::abs(x));
  x = before + h;
  const double above = objective();
  x = before - h;
  const double below = objective();
  x = before;
  return (above - below) / (2 * h);
}

/// Largest error of a gradient against central differences, relative to max(1, |slope|). Of long arrays, every n-th number
/// is checked so that about `most` are.
template <class Objective>
double gradient_error(double* values, const double* gradient, index_t size, const Objective& objective,
                      index_t most = 40) {
  double worst = 0;
  const index_t step = std::max<index_t>(1, size / most);
  for (index_t i = 0; i < size; i += step) {
    const double expected = slope(values[i], objective);
    const double error = std::abs(gradient[i] - expected) / std::max(1.0, std::abs(expected));
    worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
  }
  return worst;
}

/// With h = 1e-5, truncation is about 1e-10 times the third derivative and rounding about 1e-11 times the objective.
inline constexpr double gradient_budget = 1e-7;

/// sum of y * weights: an objective whose gradient by y is `weights`.
template <class Y, class W> double weighted_sum(const Y& y, const W& weights) {
  double sum = 0;
  for (index_t i = 0; i < weights.size(); ++i)
    sum += static_cast<double>(y.data()[i]) * static_cast<double>(weights.data()[i]);
  return sum;
}

}  // namespace seqprim::test
