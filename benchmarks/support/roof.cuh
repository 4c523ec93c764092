// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/bfloat16.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/gpu.cuh>
#include <seqprim/core/index.hpp>

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <vector>

/// The limits of the GPU a benchmark runs on, measured in the same process, so that results can be told as shares.
namespace seqprim::bench {

/// Device memory without contents.
template <class T> class device_array {
 public:
  explicit device_array(index_t count) : count_(count) {
    check_cuda(cudaMalloc(&data_, static_cast<std::size_t>(max<index_t>(count, 1)) * sizeof(T)), "cudaMalloc");
  }
  device_array(const device_array&) = delete;
  device_array& operator=(const device_array&) = delete;
  ~device_array() { cudaFree(data_); }

  [[nodiscard]] T* data() const noexcept { return data_; }
  [[nodiscard]] index_t size() const noexcept { return count_; }

 private:
  T* data_ = nullptr;
  index_t count_;
};

/// Seconds of single runs of a body on the default stream, between events. Before each run twice the second-level cache is
/// written: no run finds its inputs there, and the launch of the body waits behind the write, so that the time of the host
/// is not measured.
class stopwatch_cuda {
 public:
  stopwatch_cuda() : flush_(2 * cache_bytes()) {
    check_cuda(cudaEventCreate(&begin_), "cudaEventCreate");
    check_cuda(cudaEventCreate(&end_), "cudaEventCreate");
  }
  stopwatch_cuda(const stopwatch_cuda&) = delete;
  stopwatch_cuda& operator=(const stopwatch_cuda&) = delete;
  ~stopwatch_cuda() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }

  template <class Body> [[nodiscard]] double seconds(const Body& body) const {
    check_cuda(cudaMemsetAsync(flush_.data(), 0, static_cast<std::size_t>(flush_.size())), "cudaMemsetAsync");
    check_cuda(cudaEventRecord(begin_), "cudaEventRecord");
    body();
    check_cuda(cudaEventRecord(end_), "cudaEventRecord");
    check_cuda(cudaEventSynchronize(end_), "cudaEventSynchronize");  // errors inside kernels surface here
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return static_cast<double>(milliseconds) * 1e-3;
  }

  /// Median of a few runs, after two that warm up.
  template <class Body> [[nodiscard]] double median(int runs, const Body& body) const {
    std::vector<double> times;
    for (int i = 0; i < runs + 2; ++i) {
      const double time = seconds(body);
      if (i >= 2) times.push_back(time);
    }
    std::nth_element(times.begin(), times.begin() + runs / 2, times.end());
    return times[static_cast<std::size_t>(runs / 2)];
  }

 private:
  static index_t cache_bytes() {
    int device = 0, bytes = 0;
    check_cuda(cudaGetDevice(&device), "cudaGetDevice");
    check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, device), "cudaDeviceGetAttribute");
    return max<index_t>(bytes, index_t{1} << 20);
  }

  device_array<unsigned char> flush_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

inline void check_cublas(cublasStatus_t status, const char* operation) {
  if (status != CUBLAS_STATUS_SUCCESS) throw cuda_error(message(operation, ": ", cublasLtGetStatusString(status)));
}

namespace detail {
/// Numbers of everyday size: products of zeros would draw less power and run faster than any real one.
template <class T> __global__ void fill(T* data, index_t count, unsigned seed) {
  const index_t step = index_t{gridDim.x} * blockDim.x;
  for (index_t i = blockIdx.x * index_t{blockDim.x} + threadIdx.x; i < count; i += step) {
    unsigned x = static_cast<unsigned>(i) * 2654435761u ^ seed;
    x = (x ^ x >> 15) * 2246822519u;
    x = (x ^ x >> 13) * 3266489917u;
    data[i] = T(static_cast<float>((x ^ x >> 16) >> 8) * 0x1p-23f - 1.0f);
  }
}

/// Reads everything once, 16 bytes a lane and four of them on their way, and keeps one number so that no load is left out.
template <int Lanes>
__global__ void __launch_bounds__(Lanes) read_all(const uint4* data, index_t count, unsigned* sink) {
  constexpr int depth = 4;
  const index_t step = index_t{gridDim.x} * Lanes;
  unsigned seen = 0;
  for (index_t i = blockIdx.x * index_t{Lanes} + threadIdx.x; i < count; i += depth * step) {
    uint4 x[depth] = {};
#pragma unroll
    for (int n = 0; n < depth; ++n)
      if (i + n * step < count) x[n] = data[i + n * step];
#pragma unroll
    for (int n = 0; n < depth; ++n) seen |= x[n].x | x[n].y | x[n].z | x[n].w;
  }
  if (seen == 0xffffffffu) *sink = seen;
}
}  // namespace detail

/// Uniform numbers in [-1, 1).
template <class T> void fill(const device_array<T>& array, unsigned seed) {
  detail::fill<<<1024, 256>>>(array.data(), array.size(), seed);
  check_cuda(cudaGetLastError(), "fill");
}

/// Flop per second of one large bfloat16 matrix product with float sums: the best that cuBLASLt proposes.
inline double matmul_roof() {
  static const double roof = [] {
    constexpr index_t n = 8192;
    const device_array<bfloat16> a(n * n), b(n * n), c(n * n);
    const device_array<unsigned char> workspace(index_t{64} << 20);
    fill(a, 1);
    fill(b, 2);
    cublasLtHandle_t handle;
    check_cublas(cublasLtCreate(&handle), "cublasLtCreate");
    cublasLtMatmulDesc_t product;
    check_cublas(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    check_cublas(cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
                 "cublasLtMatmulDescSetAttribute");
    cublasLtMatrixLayout_t layout;
    check_cublas(cublasLtMatrixLayoutCreate(&layout, CUDA_R_16BF, n, n, n), "cublasLtMatrixLayoutCreate");
    cublasLtMatmulPreference_t preference;
    check_cublas(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    const auto bytes = static_cast<std::size_t>(workspace.size());
    check_cublas(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                                                      sizeof bytes),
                 "cublasLtMatmulPreferenceSetAttribute");
    cublasLtMatmulHeuristicResult_t proposals[4];
    int count = 0;
    check_cublas(cublasLtMatmulAlgoGetHeuristic(handle, product, layout, layout, layout, layout, preference, 4,
                                                proposals, &count),
                 "cublasLtMatmulAlgoGetHeuristic");
    const stopwatch_cuda watch;
    const float one = 1, zero = 0;
    double best = 0;
    for (int i = 0; i < count; ++i) {
      const double time = watch.median(9, [&] {
        check_cublas(cublasLtMatmul(handle, product, &one, a.data(), layout, b.data(), layout, &zero, c.data(), layout,
                                    c.data(), layout, &proposals[i].algo, workspace.data(), bytes, nullptr),
                     "cublasLtMatmul");
      });
      best = std::max(best, 2.0 * n * n * n / time);
    }
    cublasLtMatmulPreferenceDestroy(preference);
    cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulDescDestroy(product);
    cublasLtDestroy(handle);
    return best;
  }();
  return roof;
}

/// Bytes per second, read plus written, of one large copy within device memory.
inline double copy_roof() {
  static const double roof = [] {
    constexpr index_t bytes = index_t{1} << 30;
    const device_array<unsigned char> from(bytes), to(bytes);
    const stopwatch_cuda watch;
    const double time = watch.median(9, [&] {
      check_cuda(cudaMemcpyAsync(to.data(), from.data(), static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice),
                 "cudaMemcpyAsync");
    });
    return 2.0 * static_cast<double>(bytes) / time;
  }();
  return roof;
}

/// Bytes per second of one large read from device memory.
inline double read_roof() {
  static const double roof = [] {
    constexpr index_t bytes = index_t{1} << 30;
    constexpr int lanes = 256;
    int device = 0, processors = 0;
    check_cuda(cudaGetDevice(&device), "cudaGetDevice");
    check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
    const device_array<uint4> data(bytes / 16);
    const device_array<unsigned> sink(1);
    check_cuda(cudaMemset(data.data(), 1, static_cast<std::size_t>(bytes)), "cudaMemset");
    const stopwatch_cuda watch;
    const double time = watch.median(9, [&] {
      detail::read_all<lanes><<<static_cast<unsigned>(8 * processors), lanes>>>(data.data(), data.size(), sink.data());
      check_cuda(cudaGetLastError(), "read_all");
    });
    return static_cast<double>(bytes) / time;
  }();
  return roof;
}

}  // namespace seqprim::bench
