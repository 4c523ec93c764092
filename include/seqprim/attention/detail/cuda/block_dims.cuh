// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cuda/block_softmax.hpp>
#include <seqprim/attention/tuning.cuh>
#include <seqprim/core/tensor_view.hpp>

#include <type_traits>
#include <utility>

namespace seqprim::attention::detail {

/// The sizes of heads that tensor-core kernels are compiled for; others are padded to the next one inside the kernel.
struct block_dims {
  int head, value;
};
inline constexpr block_dims dims_of_blocks[] = {{64, 64}, {96, 96}, {128, 128}, {192, 128}, {256, 256}};
inline constexpr index_t largest_block_dim = 256;

/// The first of them that holds the two dims, -1 when none does.
[[nodiscard]] constexpr int dims_index(index_t head_dim, index_t value_dim) noexcept {
  for (int n = 0; n < 5; ++n)
    if (head_dim <= dims_of_blocks[n].head && value_dim <= dims_of_blocks[n].value) return n;
  return -1;
}

/// The n-th pair of sizes as a type.
template <int N> struct dims_constant {
  static constexpr int head = dims_of_blocks[N].head, value = dims_of_blocks[N].value;
};

/// Calls body(dims_constant<n>) for the right n. Dims that the types of the views fix select at compile time, and nothing else is
/// compiled.
template <index_t StaticHead, index_t StaticValue, class Body>
void with_dims(index_t head_dim, index_t value_dim, const Body& body) {
  if constexpr (StaticHead != dynamic_extent && StaticValue != dynamic_extent) {
    body(dims_constant<dims_index(StaticHead, StaticValue)>{});
  } else {
    const int index = dims_index(head_dim, value_dim);
    [&]<int... N>(std::integer_sequence<int, N...>) {
      (
          [&] {
            constexpr bool possible = StaticHead <= dims_of_blocks[N].head && StaticValue <= dims_of_blocks[N].value;
            if constexpr (possible) {
              if (index == N) body(dims_constant<N>{});
            }
          }(),
          ...);
    }
    (std::make_integer_sequence<int, 5>{});
  }
}

/// float16 or bfloat16, the same for all three: what tensor-core kernels multiply.
template <class Q, class K, class V>
inline constexpr bool block_elements = std::is_same_v<Q, K>&& std::is_same_v<Q, V> &&
                                       (std::is_same_v<Q, float16> || std::is_same_v<Q, bfloat16>);

}  // namespace seqprim::attention::detail
