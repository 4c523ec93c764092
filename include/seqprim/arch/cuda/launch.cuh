// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/gpu.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <type_traits>

/// How every kernel of the library starts, and kernels of your own may. Page: docs/reference/arch/launch.md
namespace seqprim::arch::cuda {

/// The blocks of one launch.
struct grid {
  index_t blocks;
  int lanes;                     ///< threads of a block
  std::size_t shared_bytes = 0;  ///< dynamic shared memory of a block
};

/// Shared memory that a kernel has without setting an attribute.
inline constexpr std::size_t default_shared_bytes = 48 * 1024;

/// A kernel that may start: its grid is one that CUDA takes, and its attributes are set. An entry point prepares all kernels of a
/// call before it starts the first one, so that a refusal leaves the outputs untouched:
///
///     const auto split = arch::cuda::prepare("attention::decode", split_kernel<...>, {blocks, lanes, shared_bytes});
///     const auto merge = arch::cuda::prepare("attention::decode", merge_kernel<...>, {rows, 128});
///     split.launch(executor, call);
///     merge.launch(executor, call);
///
/// Errors  cuda_error: the runtime refused this launch; what others left behind is neither reported nor cleared.
template <class... Parameters> struct prepared {
  const char* operation;
  void (*kernel)(Parameters...);
  grid shape;

  /// Starts it on the executor's stream; without blocks nothing is started.
  void launch(const gpu& executor, const std::type_identity_t<Parameters>&... arguments) const {
    if (shape.blocks == 0) return;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
    config.blockDim = dim3(static_cast<unsigned>(shape.lanes));
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = executor.stream;
    check_cuda(cudaLaunchKernelEx(&config, kernel, arguments...), operation);
  }
};

/// Sets what the kernel needs to start on the current device.
///
/// Errors  precondition_error: more blocks, lanes or shared memory of a block than CUDA or the device has; cuda_error: the runtime refuses
///         an attribute.
template <class... Parameters>
[[nodiscard]] prepared<Parameters...> prepare(const char* operation, void (*kernel)(Parameters...), const grid& shape) {
  constexpr const char* page = ". See docs/reference/arch/launch.md";
  SEQPRIM_EXPECTS(0 <= shape.blocks && shape.blocks <= 0x7fffffff, operation, ": ", shape.blocks,
                  " blocks exceed the CUDA limit of 2^31 - 1", page);
  SEQPRIM_EXPECTS(1 <= shape.lanes && shape.lanes <= 1024, operation, ": a block has 1 to 1024 lanes, not ",
                  shape.lanes, page);
  if (shape.blocks > 0 && shape.shared_bytes > default_shared_bytes) {
    int device = 0, of_block = 0;
    cudaFuncAttributes own{};
    check_cuda(cudaGetDevice(&device), operation);
    check_cuda(cudaDeviceGetAttribute(&of_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), operation);
    check_cuda(cudaFuncGetAttributes(&own, kernel), operation);
    const int most = of_block - static_cast<int>(own.sharedSizeBytes);
    SEQPRIM_EXPECTS(shape.shared_bytes <= static_cast<std::size_t>(max(most, 0)), operation, ": ", shape.shared_bytes,
                    " bytes of shared memory exceed the ", most, " that this device lends a block", page);
    // Always all that there is: the same kernel, prepared elsewhere for less, must not lower it before this launch.
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), operation);
  }
  return {operation, kernel, shape};
}

/// Both at once, for a call with one kernel.
template <class... Parameters>
void launch(const gpu& executor, const char* operation, void (*kernel)(Parameters...), const grid& shape,
            const std::type_identity_t<Parameters>&... arguments) {
  prepare(operation, kernel, shape).launch(executor, arguments...);
}

}  // namespace seqprim::arch::cuda
