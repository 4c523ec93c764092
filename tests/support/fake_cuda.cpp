// SPDX-License-Identifier: Apache-2.0
// The functions of the runtime that the library calls; a new one shows itself as an undefined symbol.
#include <cstdint>
#include <map>
#include <stdexcept>
#include <support/fake_cuda.hpp>
#include <sys/mman.h>

namespace seqprim::test::fake_cuda {

namespace {

struct refusal {
  std::string function;
  cudaError_t error;
  int left;
};
struct block {
  cudaMemoryType kind;
  std::size_t bytes;
  int device;
};
struct state {
  record seen;
  std::vector<refusal> refusals;
  std::map<std::uintptr_t, block> memory;
  std::map<const void*, std::size_t> shared_bytes;  // that a kernel may use, where it was set
  cudaError_t last = cudaSuccess;
  bool pageable = false;
};
state& now() {
  static state s;
  return s;
}
std::map<const void*, std::string>& kernel_names() {
  static std::map<const void*, std::string> names;
  return names;
}

cudaError_t answer(const char* function) {
  for (refusal& each : now().refusals)
    if (each.function == function && --each.left == 0) return now().last = each.error;
  return cudaSuccess;
}
cudaError_t noted(const char* function) {
  now().seen.calls.emplace_back(function);
  return answer(function);
}

}  // namespace

const record& seen() { return now().seen; }
void refuse(const char* function, cudaError_t error, int n) { now().refusals.push_back({function, error, n}); }
void leave_error(cudaError_t error) { now().last = error; }
void read_pageable_memory(bool can) { now().pageable = can; }

void* allocate(cudaMemoryType kind, std::size_t bytes, int device) {
  const int access = kind == cudaMemoryTypeDevice ? PROT_NONE : PROT_READ | PROT_WRITE;
  void* const data = mmap(nullptr, bytes, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) throw std::runtime_error("fake_cuda: no memory");
  now().memory[reinterpret_cast<std::uintptr_t>(data)] = {kind, bytes, device};
  return data;
}

void reset() {
  for (const auto& [address, each] : now().memory) munmap(reinterpret_cast<void*>(address), each.bytes);
  now() = {};
}

}  // namespace seqprim::test::fake_cuda

using namespace seqprim::test::fake_cuda;

extern "C" {

cudaError_t cudaGetLastError() {
  const cudaError_t error = now().last;
  now().last = cudaSuccess;
  return error;
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    default: return "another error";
  }
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return answer("cudaGetDevice");
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrPageableMemoryAccess           ? now().pageable
           : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 99 * 1024
                                                                  : 0;
  return answer("cudaDeviceGetAttribute");
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void* pointer) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  *found = {};
  found->type = cudaMemoryTypeUnregistered;
  found->device = -2;
  auto next = now().memory.upper_bound(address);
  if (next != now().memory.begin()) {
    const auto& [begin, each] = *--next;
    if (address < begin + each.bytes) {
      found->type = each.kind;
      found->device = each.device;
      found->devicePointer = each.device == 0 ? const_cast<void*>(pointer) : nullptr;
      found->hostPointer = each.kind == cudaMemoryTypeDevice ? nullptr : const_cast<void*>(pointer);
    }
  }
  return answer("cudaPointerGetAttributes");
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* found, const void*) {
  *found = {};
  return answer("cudaFuncGetAttributes");
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  const cudaError_t error = noted("cudaFuncSetAttribute");
  if (error == cudaSuccess) now().shared_bytes[kernel] = static_cast<std::size_t>(value);
  return error;
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void**) {
  const cudaError_t error = answer("cudaLaunchKernelExC");
  const auto set = now().shared_bytes.find(kernel);
  if (config->dynamicSmemBytes > (set == now().shared_bytes.end() ? 48 * 1024 : set->second))
    return now().last = cudaErrorInvalidValue;
  if (error == cudaSuccess)
    now().seen.launches.push_back(
        {kernel_names()[kernel], config->gridDim, config->blockDim, config->dynamicSmemBytes, config->stream});
  return error;
}
cudaError_t cudaMallocAsync(void** pointer, std::size_t bytes, cudaStream_t) {
  const cudaError_t error = noted("cudaMallocAsync");
  if (error == cudaSuccess) *pointer = allocate(cudaMemoryTypeDevice, bytes);
  return error;
}
cudaError_t cudaMemcpyAsync(void*, const void*, std::size_t, cudaMemcpyKind, cudaStream_t) {
  return noted("cudaMemcpyAsync");
}
cudaError_t cudaFreeAsync(void*, cudaStream_t) { return noted("cudaFreeAsync"); }

// What compiled .cu files call to announce their kernels.
void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* host_function, char*, const char* name, int, void*, void*, void*, void*,
                            int*) {
  kernel_names()[host_function] = name;
}
char __cudaInitModule(void**) { return 1; }  // without optimization
void __cudaRegisterVar(void**, char*, char*, const char*, int, std::size_t, int, int) {}
unsigned __cudaPushCallConfiguration(dim3, dim3, std::size_t, void*) { return 0; }
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, std::size_t*, void*) { return cudaSuccess; }
// The body of a host stub, which only <<<>>> calls: through one of these two, after the version of nvcc.
cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, std::size_t, cudaStream_t) {
  throw std::logic_error("fake_cuda: a kernel was launched by <<<>>>, not by arch::cuda::launch");
}
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, std::size_t, cudaStream_t) {
  throw std::logic_error("fake_cuda: a kernel was launched by <<<>>>, not by arch::cuda::launch");
}
cudaError_t __cudaGetKernel(cudaKernel_t*, const void*) { return cudaSuccess; }

}  // extern "C"
