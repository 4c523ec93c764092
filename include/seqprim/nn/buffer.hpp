// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/tensor.hpp>

#include <concepts>
#include <type_traits>

namespace seqprim::nn {

/// Memory for one saved tensor: sized on first use, larger when asked for more, then reused. The caller owns it as part of
/// `layer::activations`, so a training step allocates nothing after the first one.
template <class T> class buffer {
 public:
  /// A dense view of the given extents. The content is what an earlier use left, or zero.
  template <std::convertible_to<index_t>... Extents> tensor_view<T, sizeof...(Extents)> view(Extents... extents) {
    const index_t count = (index_t{1} * ... * static_cast<index_t>(extents));
    if (data_.data() == nullptr || count > data_.size()) data_ = tensor<T, 1>(count);
    return tensor_view<T, sizeof...(Extents)>(data_.data(), extents...);
  }

 private:
  tensor<T, 1> data_;
};

}  // namespace seqprim::nn
