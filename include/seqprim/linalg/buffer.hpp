// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/tensor.hpp>

#include <concepts>

namespace seqprim::linalg {

/// Memory that grows: sized on first use, larger when asked for more, then reused. Callers keep it between steps (saved
/// activations, workspaces), so that a step allocates nothing after the first one.
template <class T> class buffer {
 public:
  /// A dense view of the given extents. The content is what an earlier use left, or zero; a larger view than any before moves
  /// the memory.
  template <std::convertible_to<index_t>... Extents> tensor_view<T, sizeof...(Extents)> view(Extents... extents) {
    const index_t count = (index_t{1} * ... * static_cast<index_t>(extents));
    if (data_.data() == nullptr || count > data_.size()) data_ = tensor<T, 1>(count);
    return tensor_view<T, sizeof...(Extents)>(data_.data(), extents...);
  }

 private:
  tensor<T, 1> data_;
};

}  // namespace seqprim::linalg
