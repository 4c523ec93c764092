// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/core/index.hpp>

#include <cuda_runtime.h>

namespace seqprim {

/// The executor of the CUDA entry points: runs an operation on the current CUDA device, in order on `stream`. Nothing
/// is synchronized, and nothing is allocated where a workspace is given, so every such call can be captured into a CUDA
/// graph.
///
/// Errors  cuda_error names the operation and what the runtime reported.
struct gpu {
  cudaStream_t stream = nullptr;
};

/// Throws cuda_error naming the operation when a runtime call failed, and clears that error, so that later calls are not blamed for
/// it.
inline void check_cuda(cudaError_t status, const char* operation) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  throw cuda_error(message(operation, ": ", cudaGetErrorString(status)));
}

}  // namespace seqprim
