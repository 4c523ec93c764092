// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/bfloat16.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/gpu.cuh>
#include <seqprim/core/index.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <optional>
#include <string>
#include <vector>

#if __has_include(<cublasLt.h>)
#  include <cublasLt.h>
#  define SEQPRIM_BENCH_CUBLASLT
#endif

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

#if defined(SEQPRIM_BENCH_CUBLASLT)
namespace detail {
/// cuBLASLt, opened when it is needed and not linked: a machine without it measures everything else.
class cublaslt_library {
 public:
  cublaslt_library() {
    const char* const wanted = std::getenv("SEQPRIM_CUBLASLT");  // a path
    const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
    handle_ = dlopen(wanted != nullptr ? wanted : name.c_str(), RTLD_NOW);
  }
  [[nodiscard]] bool found() const noexcept { return handle_ != nullptr; }

  /// call<decltype(f)>("f", arguments ...): throws where f is missing or reports an error. Nothing is linked.
  template <class Function, class... Arguments> void call(const char* name, const Arguments&... arguments) const {
    auto* const function = reinterpret_cast<Function*>(dlsym(handle_, name));
    if (function == nullptr) throw cuda_error(message(name, ": not in this libcublasLt"));
    const cublasStatus_t status = function(arguments...);
    if (status != CUBLAS_STATUS_SUCCESS) throw cuda_error(message(name, ": status ", static_cast<int>(status)));
  }

 private:
  void* handle_ = nullptr;
};

inline double measure_matmul_roof() {
  const cublaslt_library lt;
  if (!lt.found()) throw cuda_error("libcublasLt not found; SEQPRIM_CUBLASLT may name it");
  constexpr index_t n = 8192;
  const device_array<bfloat16> a(n * n), b(n * n), c(n * n);
  const device_array<unsigned char> workspace(index_t{64} << 20);
  fill(a, 1);
  fill(b, 2);
  cublasLtHandle_t handle;
  lt.call<decltype(cublasLtCreate)>("cublasLtCreate", &handle);
  cublasLtMatmulDesc_t product;
  lt.call<decltype(cublasLtMatmulDescCreate)>("cublasLtMatmulDescCreate", &product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  const cublasOperation_t transposed = CUBLAS_OP_T;
  lt.call<decltype(cublasLtMatmulDescSetAttribute)>("cublasLtMatmulDescSetAttribute", product,
                                                    CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
  cublasLtMatrixLayout_t layout;
  lt.call<decltype(cublasLtMatrixLayoutCreate)>("cublasLtMatrixLayoutCreate", &layout, CUDA_R_16BF, n, n, n);
  cublasLtMatmulPreference_t preference;
  lt.call<decltype(cublasLtMatmulPreferenceCreate)>("cublasLtMatmulPreferenceCreate", &preference);
  const auto bytes = static_cast<std::size_t>(workspace.size());
  lt.call<decltype(cublasLtMatmulPreferenceSetAttribute)>("cublasLtMatmulPreferenceSetAttribute", preference,
                                                          CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                                                          sizeof bytes);
  cublasLtMatmulHeuristicResult_t proposals[4];
  int count = 0;
  lt.call<decltype(cublasLtMatmulAlgoGetHeuristic)>("cublasLtMatmulAlgoGetHeuristic", handle, product, layout, layout,
                                                    layout, layout, preference, 4, &proposals[0], &count);
  const stopwatch_cuda watch;
  const float one = 1, zero = 0;
  double best = 0;
  for (int i = 0; i < count; ++i) {
    const double time = watch.median(9, [&] {
      lt.call<decltype(cublasLtMatmul)>("cublasLtMatmul", handle, product, &one, a.data(), layout, b.data(), layout,
                                        &zero, c.data(), layout, c.data(), layout, &proposals[i].algo, workspace.data(),
                                        bytes, cudaStream_t{});
    });
    best = std::max(best, 2.0 * n * n * n / time);
  }
  lt.call<decltype(cublasLtMatmulPreferenceDestroy)>("cublasLtMatmulPreferenceDestroy", preference);
  lt.call<decltype(cublasLtMatrixLayoutDestroy)>("cublasLtMatrixLayoutDestroy", layout);
  lt.call<decltype(cublasLtMatmulDescDestroy)>("cublasLtMatmulDescDestroy", product);
  lt.call<decltype(cublasLtDestroy)>("cublasLtDestroy", handle);
  if (count == 0) throw cuda_error("cuBLASLt proposes nothing");
  return best;
}
}  // namespace detail

/// Flop per second of one large bfloat16 matrix product with float sums: the best that cuBLASLt proposes. Empty where there is no
/// cuBLASLt, or it fails; then stderr says why.
inline std::optional<double> matmul_roof() {
  static const std::optional<double> roof = []() -> std::optional<double> {
    try {
      return detail::measure_matmul_roof();
    } catch (const cuda_error& error) {
      std::fprintf(stderr, "no matmul roof: %s\n", error.what());
      return std::nullopt;
    }
  }();
  return roof;
}
#else  // compiled where the toolkit has no cuBLASLt
inline std::optional<double> matmul_roof() { return std::nullopt; }
#endif

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
