// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>
#include <vector>

/// A CUDA runtime for machines without a GPU, linked in place of the real one: it starts no kernel, writes down what a program asked
/// for, and refuses what a test tells it to. Memory of the "device" cannot be read by host code: who tries ends with a
/// segmentation fault, as on a machine with a GPU.
namespace seqprim::test::fake_cuda {

struct launch {
  std::string kernel;  ///< mangled name
  dim3 grid, block;
  std::size_t shared_bytes;
  cudaStream_t stream;
};

/// Everything since the last reset().
struct record {
  std::vector<launch> launches;
  std::vector<std::string> calls;  ///< names of all other functions that work on a stream or on memory, in order
};
[[nodiscard]] const record& seen();

/// Forgets the record, the refusals and the error left behind, and frees all memory.
void reset();

/// The n-th next call (1: the next) of this function returns `error`, and leaves it behind for cudaGetLastError.
void refuse(const char* function, cudaError_t error, int n = 1);
/// An error that somebody else left behind.
void leave_error(cudaError_t error);

/// Memory of a kind: what cudaMalloc, cudaMallocManaged or cudaMallocHost would return; at home on device `device`.
[[nodiscard]] void* allocate(cudaMemoryType kind, std::size_t bytes, int device = 0);
/// Kernels read pageable memory of the host, as on some systems.
void read_pageable_memory(bool can);

}  // namespace seqprim::test::fake_cuda
