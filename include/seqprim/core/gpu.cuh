// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/core/index.hpp>

#include <cuda_runtime.h>

namespace seqprim {

/// Runs an operation on the current CUDA device, in order on `stream`. Nothing is allocated or synchronized behind the
/// caller's back, so every call can be captured into a CUDA graph.
struct gpu {
  cudaStream_t stream = nullptr;
};

/// Throws cuda_error naming the operation when a runtime call failed.
inline void check_cuda(cudaError_t status, const char* operation) {
  if (status != cudaSuccess) throw cuda_error(message(operation, ": ", cudaGetErrorString(status)));
}

}  // namespace seqprim
