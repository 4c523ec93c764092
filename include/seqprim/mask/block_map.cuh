// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/gpu.cuh>
#include <seqprim/mask/block_map.hpp>
#include <seqprim/mask/full.hpp>

#include <cuda_runtime.h>

#include <cstddef>

namespace seqprim::mask {

/// A block_grid in device memory, owned: with it a block_map is a mask on CUDA.
///
///     const mask::block_grid grid(cpu{}, slow, q_len, k_len, 64, 64);
///     const mask::device_block_grid on_device(gpu{stream}, grid);
///     attention::forward(gpu{stream}, attention::softmax{.mask = on_device.over(slow)}, q, k, v, out);
///
/// The memory is filled and given back in the order of the stream: `grid` stays until the copy has run, and calls on other streams are
/// ordered by the caller. Arrays of the mask itself, such as the matrix of `dense`, must be where kernels can read them: `over` takes
/// the mask with device arrays, the grid was built from the same mask with host arrays.
///
/// Errors  cuda_error: no memory, or the copy was refused.
/// Cost    one allocation from the pool of the stream and one copy, a byte a block; nothing is synchronized.
class device_block_grid {
 public:
  device_block_grid(const gpu& executor, const block_grid& grid)
      : outline_(grid.over(full{})), memory_(executor, outline_.kinds.size(), operation) {
    if (memory_.data() != nullptr)
      check_cuda(cudaMemcpyAsync(memory_.data(), outline_.kinds.data,
                                 static_cast<std::size_t>(outline_.kinds.size()) * sizeof(tile_kind),
                                 cudaMemcpyHostToDevice, executor.stream),
                 operation);
    outline_.kinds.data = memory_.data();
  }

  /// The mask with this grid; it must be the mask that the grid was built from. A view: this object must outlive it.
  template <bindable M> [[nodiscard]] block_map<M> over(const M& mask) const noexcept {
    return {.mask = mask,
            .kinds = outline_.kinds,
            .q_block = outline_.q_block,
            .k_block = outline_.k_block,
            .q_len = outline_.q_len,
            .k_len = outline_.k_len};
  }

 private:
  static constexpr const char* operation = "mask::device_block_grid";

  block_map<full> outline_;  // sizes, and classes on the device
  pool_memory<tile_kind> memory_;
};

}  // namespace seqprim::mask
