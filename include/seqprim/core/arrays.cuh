// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/gpu.cuh>

#include <cuda_runtime.h>

namespace seqprim {

/// Who may read an address: host code, kernels on the current device.
struct memory_access {
  bool host, device;
};

/// Asks the runtime. Memory of cudaMalloc: the device; of cudaMallocManaged, cudaMallocHost, cudaHostRegister: both; other memory of
/// the host: the host, and the device where it reads pageable memory.
///
/// Errors  cuda_error.
/// Cost    one query of the runtime; synchronizes nothing.
[[nodiscard]] inline memory_access access_of(const void* address, const char* operation) {
  cudaPointerAttributes found{};
  check_cuda(cudaPointerGetAttributes(&found, address), operation);
  if (found.type == cudaMemoryTypeUnregistered) {
    int device = 0, pageable = 0;
    check_cuda(cudaGetDevice(&device), operation);
    check_cuda(cudaDeviceGetAttribute(&pageable, cudaDevAttrPageableMemoryAccess, device), operation);
    return {.host = true, .device = pageable != 0};
  }
  return {.host = found.type != cudaMemoryTypeDevice, .device = found.devicePointer == address};
}

/// Kernels on the current device may read an array, and so may host code that has to.
///
/// Errors  precondition_error names the array and the remedy.
inline void expect_memory(const gpu&, const subject& self, const char* name, const borrowed& array) {
  if (array.data == nullptr) return;
  const memory_access can = access_of(array.data, self.name);
  self.expects(can.device, name,
               can.host ? " is in host memory, which kernels on this device cannot read: copy it to the "
                          "device (cudaMalloc, cudaMemcpyAsync)"
                        : " is in memory of another device that this one cannot read: copy it, or enable "
                          "peer access",
               array.host == host_access::checks ? ", and pass the copy marked on_device()" : "");
  self.expects(can.host || array.host != host_access::checks, name,
               " is in device memory, which host code cannot read: pass it marked on_device()");
  self.expects(
      can.host || array.host != host_access::needed, name,
      " is in device memory, but host code reads it, too: allocate it with cudaMallocManaged or cudaMallocHost");
}

/// The same for every array of a part.
template <class Part> void expect_arrays(const gpu& executor, const Part& part) {
  for_arrays(part, [&](const subject& self, const char* name, const borrowed& array) {
    expect_memory(executor, self, name, array);
  });
}

}  // namespace seqprim
