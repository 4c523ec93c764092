// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/subject.hpp>
#include <seqprim/nn/parameter.hpp>

#include <cmath>

namespace seqprim::nn {

/// The norm of all gradients together, and the factor that limits it.
struct gradient_norm {
  double norm = 0;      ///< sqrt of the sum of squares over all parameters
  double factor = 1;    ///< min(1, max_norm / (norm + 1e-6)); 0 when the norm is not finite
  bool finite = false;  ///< false: some gradient is infinite or NaN; skip the step
};

/// The norm of all gradients of a layer or model, and the factor that brings it to at most max_norm:
///
///     norm = sqrt(sum of squares over all parameters)        factor = min(1, max_norm / (norm + 1e-6))
///
/// Nothing is changed: pass `factor` to the optimizer, or to scale_gradients.
///
/// Edge    a gradient that is infinite or NaN: `finite` is false and the factor 0. Skip the step.
/// Errors  precondition_error: max_norm is not > 0.
/// Repeat  same bits for any number of threads: squares are summed in double over fixed blocks, then in their order.
/// Cost    reads every gradient once.
/// Source  Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks".
///         Page docs/reference/nn/clip.md
template <class Layer>
[[nodiscard]] gradient_norm measure_gradients(const cpu& executor, Layer& layer, double max_norm) {
  executor.validate();
  constexpr subject self{"nn::measure_gradients", "nn/clip"};
  self.expects(max_norm > 0, "max_norm (", max_norm, ") must be > 0");
  using T = typename Layer::value_type;
  const flat_parameters<T> all(layer);
  std::vector<double> sums(all.pieces.size());
  parallel_for(executor, all.count(), [&](index_t i, int) {
    constexpr int streams = 8;  // so that the additions do not wait for each other
    double sum[streams] = {};
    const T* const g = all[i].grad;
    index_t j = 0;
    for (; j + streams <= all[i].size; j += streams)
      for (int k = 0; k < streams; ++k) sum[k] += static_cast<double>(g[j + k]) * static_cast<double>(g[j + k]);
    for (; j < all[i].size; ++j) sum[0] += static_cast<double>(g[j]) * static_cast<double>(g[j]);
    for (int k = 1; k < streams; ++k) sum[0] += sum[k];
    sums[static_cast<std::size_t>(i)] = sum[0];
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  gradient_norm result;
  result.norm = std::sqrt(total);
  result.finite = std::isfinite(result.norm);
  result.factor = result.finite ? std::fmin(1.0, max_norm / (result.norm + 1e-6)) : 0.0;
  return result;
}

/// Multiplies every gradient. Factor 1 does nothing.
template <class Layer> void scale_gradients(const cpu& executor, Layer& layer, double factor) {
  executor.validate();
  if (factor == 1) return;
  using T = typename Layer::value_type;
  const flat_parameters<T> all(layer);
  parallel_for(executor, all.count(), [&](index_t i, int) {
    for (index_t j = 0; j < all[i].size; ++j) all[i].grad[j] *= static_cast<T>(factor);
  });
}

/// Both: clips the gradients by their global norm. A norm that is not finite leaves them alone; look at `finite`.
template <class Layer> gradient_norm clip_gradients(const cpu& executor, Layer& layer, double max_norm) {
  const gradient_norm measured = measure_gradients(executor, layer, max_norm);
  if (measured.finite) scale_gradients(executor, layer, measured.factor);
  return measured;
}

}  // namespace seqprim::nn
