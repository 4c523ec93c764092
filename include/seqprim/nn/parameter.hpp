// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/parallel.hpp>
#include <seqprim/core/tensor.hpp>

#include <concepts>
#include <string>
#include <utility>
#include <vector>

namespace seqprim::nn {

/// The element types that layers compute in: float, and double for gradient checks.
template <class T> concept real = std::same_as<T, float> || std::same_as<T, double>;

/// Named requirement of the layers: one sentence for another element type.
template <class T> consteval bool require_real() {
  static_assert(real<T>,
                "seqprim: layers are trained in 'float', or in 'double' for gradient checks. See "
                "docs/reference/nn/parameter.md");
  return true;
}

/// The role of a parameter, which initialization and weight decay depend on.
enum class role {
  projection,           ///< matrix of a linear layer
  residual_projection,  ///< the same, whose output is added to the residual stream
  embedding,            ///< one row for each token
  scale,                ///< factors of a normalization
  bias,                 ///< offsets
};

/// A trained tensor: its value, and the gradient that backward passes add to. Both have the same shape.
///
/// A default-constructed parameter is absent: a bias that a layer does not have. visit_parameters skips it.
template <class T, int Rank> struct parameter {
  static_assert(require_real<T>());
  using value_type = T;
  static constexpr int rank = Rank;

  tensor<T, Rank> value;
  tensor<T, Rank> grad;
  nn::role role = nn::role::projection;

  parameter() = default;
  template <std::convertible_to<index_t>... Extents>
  requires(sizeof...(Extents) == Rank) explicit parameter(nn::role use, Extents... extents)
      : value(extents...), grad(extents...), role(use) {}

  [[nodiscard]] bool present() const noexcept { return value.data() != nullptr; }
  [[nodiscard]] index_t size() const noexcept { return value.size(); }
};

/// A visitor that puts `prefix` and a dot in front of every name: the names of nested layers.
///
///     attention.visit_parameters(nn::nested("self_attn", visit));   // "self_attn.q_proj.weight", ...
template <class Visit> [[nodiscard]] auto nested(const std::string& prefix, Visit& visit) {
  return [prefix, &visit](const std::string& name, auto& parameter) { visit(prefix + '.' + name, parameter); };
}

/// The number of trained values of a layer.
template <class Layer> [[nodiscard]] index_t parameter_count(const Layer& layer) {
  index_t count = 0;
  layer.visit_parameters([&](const std::string&, const auto& p) { count += p.size(); });
  return count;
}

/// All parameters of a layer as one list of flat arrays, in visiting order, cut into blocks of a fixed size: loops over
/// it are balanced over threads and give the same bits for any number of them. Rebuild it when the layer was moved.
template <class T> struct flat_parameters {
  static constexpr index_t piece_size = 1 << 14;

  struct piece {
    T* value;
    T* grad;
    index_t size;
    index_t parameter;  ///< which parameter, in visiting order
    index_t begin;      ///< first element of the piece within its parameter
  };
  std::vector<piece> pieces;

  flat_parameters() = default;
  template <class Layer> explicit flat_parameters(Layer& layer) { assign(layer); }

  /// Keeps the memory of the list.
  template <class Layer> void assign(Layer& layer) {
    pieces.clear();
    index_t parameter = 0;
    layer.visit_parameters([&](const std::string&, auto& p) {
      for (index_t begin = 0; begin < p.size(); begin += piece_size)
        pieces.push_back(
            {p.value.data() + begin, p.grad.data() + begin, min_of(piece_size, p.size() - begin), parameter, begin});
      ++parameter;
    });
  }

  [[nodiscard]] index_t count() const noexcept { return static_cast<index_t>(pieces.size()); }
  [[nodiscard]] const piece& operator[](index_t i) const noexcept { return pieces[static_cast<std::size_t>(i)]; }
};

/// Sets every gradient to zero: before the first backward pass of a step.
template <class Layer> void zero_gradients(const cpu& executor, Layer& layer) {
  executor.validate();
  const flat_parameters<typename Layer::value_type> all(layer);
  parallel_for(executor, all.count(), [&](index_t i, int) {
    for (index_t j = 0; j < all[i].size; ++j) all[i].grad[j] = 0;
  });
}

}  // namespace seqprim::nn
