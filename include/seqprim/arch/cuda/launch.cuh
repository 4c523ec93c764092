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

/// Shared memory that a kernel has without asking.
inline constexpr std::size_t granted_shared_bytes = 48 * 1024;

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
  grid blocks;

  /// Starts it on the executor's stream; without blocks nothing is started.
  void launch(const gpu& executor, const std::type_identity_t<Parameters>&... arguments) const {
    if (blocks.blocks == 0) return;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks.blocks));
    config.blockDim = dim3(static_cast<unsigned>(blocks.lanes));
    config.dynamicSmemBytes = blocks.shared_bytes;
    config.stream = executor.stream;
    check_cuda(cudaLaunchKernelEx(&config, kernel, arguments...), operation);
  }
};

/// Errors  precondition_error: more blocks than CUDA can count; cuda_error: the device lends a block less shared memory.
template <class... Parameters>
[[nodiscard]] prepared<Parameters...> prepare(const char* operation, void (*kernel)(Parameters...),
                                              const grid& blocks) {
  SEQPRIM_EXPECTS(0 <= blocks.blocks && blocks.blocks <= 0x7fffffff, operation, ": ", blocks.blocks,
                  " blocks exceed the CUDA limit of 2^31 - 1. See docs/reference/arch/launch.md");
  if (blocks.blocks > 0 && blocks.shared_bytes > granted_shared_bytes)
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(blocks.shared_bytes)),
               operation);
  return {operation, kernel, blocks};
}

/// Both at once, for a call with one kernel.
template <class... Parameters>
void launch(const gpu& executor, const char* operation, void (*kernel)(Parameters...), const grid& blocks,
            const std::type_identity_t<Parameters>&... arguments) {
  prepare(operation, kernel, blocks).launch(executor, arguments...);
}

}  // namespace seqprim::arch::cuda
