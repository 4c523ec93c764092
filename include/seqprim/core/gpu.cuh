// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/core/index.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

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

/// Device memory from the pool of a stream, owned: `count` elements, uninitialized; data() is null when there are none. It is taken and
/// given back in the order of the stream, so what was launched there before the owner ends may still use it.
///
/// Errors  cuda_error names the operation that the memory is for.
/// Cost    nothing is synchronized.
template <class T> class pool_memory {
 public:
  pool_memory(const gpu& executor, index_t count, const char* operation) : stream_(executor.stream) {
    if (count > 0) check_cuda(cudaMallocAsync(&data_, static_cast<std::size_t>(count) * sizeof(T), stream_), operation);
  }
  pool_memory(pool_memory&& other) noexcept : stream_(other.stream_), data_(std::exchange(other.data_, nullptr)) {}
  pool_memory& operator=(pool_memory&& other) noexcept {
    std::swap(stream_, other.stream_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~pool_memory() {
    if (data_ != nullptr) cudaFreeAsync(data_, stream_);
  }

  [[nodiscard]] T* data() const noexcept { return static_cast<T*>(data_); }

 private:
  cudaStream_t stream_;
  void* data_ = nullptr;
};

}  // namespace seqprim
