// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/constants.hpp>
#include <seqprim/core/philox.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/nn/parameter.hpp>

#include <cmath>
#include <cstdint>

namespace seqprim::nn {

/// The random words that become parameters.
inline constexpr random_domain initial_weights{16};

/// Options of the GPT-2 scheme.
struct gpt2_initialization {
  std::uint64_t seed = 0;
  double stddev = 0.02;
  index_t layers = 0;  ///< blocks that add to the residual stream; 0: the layer's own `layers()`
};

/// Fills the parameters of a layer or model with the GPT-2 scheme: matrices and embeddings ~ N(0, stddev^2), projections into
/// the residual stream divided by sqrt(2 layers); biases and norm weights keep the values they were built with.
///
/// Errors  precondition_error: stddev is negative or not finite; layers is not given and the layer has none.
/// Repeat  a function of seed, the order of the parameters and their shapes; not of the threads.
/// Cost    one Philox evaluation, two logarithms and four sines or cosines for four values.
/// Source  Radford et al., "Language models are unsupervised multitask learners" (GPT-2).
///         Page docs/reference/nn/initialize.md
template <class Layer> void initialize(const cpu& executor, Layer& layer, const gpt2_initialization& options = {}) {
  executor.validate();
  index_t layers = options.layers;
  if constexpr (requires { layer.layers(); }) {
    if (layers == 0) layers = layer.layers();
  }
  constexpr subject self{"nn::initialize", "nn/initialize"};
  self.expects(layers >= 1, "layers (", layers, ") must be >= 1");
  self.expects(options.stddev >= 0 && std::isfinite(options.stddev), "stddev (", options.stddev,
               ") must be finite and >= 0");
  std::uint32_t ordinal = 0;
  layer.visit_parameters([&](const std::string&, auto& p) {
    const random_stream stream{.seed = options.seed, .request = ordinal++};
    if (p.role == role::scale || p.role == role::bias) return;
    using T = typename std::remove_cvref_t<decltype(p)>::value_type;
    const double spread = p.role == role::residual_projection
                              ? options.stddev / std::sqrt(2.0 * static_cast<double>(layers))
                              : options.stddev;
    T* const out = p.value.data();
    const index_t size = p.size();
    constexpr index_t piece = 1 << 14;
    parallel_for(executor, ceil_div(size, piece), [&](index_t i, int) {
      for (index_t begin = i * piece; begin < min_of((i + 1) * piece, size); begin += 4) {
        const auto words = stream.four(initial_weights, static_cast<std::uint32_t>(begin / 4));
        for (index_t pair = 0; pair < 2; ++pair) {  // Box and Muller: two uniforms make two normals
          const auto uniform = [&](index_t k) {
            return static_cast<double>(uniform_open(words[static_cast<int>(2 * pair + k)]));
          };
          const double radius = spread * std::sqrt(-2.0 * std::log(uniform(0)));
          const double angle = 2 * constants::pi * uniform(1);
          const index_t at = begin + 2 * pair;
          if (at < size) out[at] = static_cast<T>(radius * std::cos(angle));
          if (at + 1 < size) out[at + 1] = static_cast<T>(radius * std::sin(angle));
        }
      }
    });
  });
}

}  // namespace seqprim::nn
