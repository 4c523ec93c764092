// SPDX-License-Identifier: Apache-2.0
// Softmax attention on CUDA, as shares of the limits of this device. 16384 tokens and 2048 channels in every run: batch is
// 16384 / seq, heads are 2048 / dim.
//
//   attention_cuda_bench --benchmark_filter=forward --benchmark_counters_tabular=true
#include <seqprim/attention/backward.cuh>
#include <seqprim/attention/forward.cuh>
#include <seqprim/mask/mask.hpp>

#include <benchmark/benchmark.h>

#include <cstdio>
#include <exception>
#include <string>
#include <support/roof.cuh>

using namespace seqprim;

namespace {

constexpr index_t tokens = 16384, channels = 2048;

struct inputs {
  index_t batch, heads, len, dim;
  bench::device_array<bfloat16> q, k, v, out;
  bench::device_array<float> lse;

  inputs(index_t len_, index_t dim_)
      : batch(tokens / len_),
        heads(channels / dim_),
        len(len_),
        dim(dim_),
        q(tokens * channels),
        k(tokens * channels),
        v(tokens * channels),
        out(tokens * channels),
        lse(tokens * heads) {
    fill(q, 1);
    fill(k, 2);
    fill(v, 3);
  }

  template <class T> [[nodiscard]] tensor_view<T, 4> rows(const bench::device_array<T>& array) const {
    return tensor_view<T, 4>(array.data(), batch, heads, len, dim);
  }
  [[nodiscard]] tensor_view<float, 3> row_lse() const { return tensor_view<float, 3>(lse.data(), batch, heads, len); }
};

/// Pairs that a mask lets see each other, in one head.
template <class Mask> double visible_pairs(const Mask& mask, index_t len) {
  double pairs = 0;
  for (index_t i = 0; i < len; ++i) pairs += static_cast<double>(intersect(mask.visible_keys(i), range{0, len}).size());
  return pairs;
}

/// Times body() run by run; what it throws becomes the result of the benchmark.
template <class Body> void run(benchmark::State& state, double flop, const Body& body) {
  try {
    const bench::stopwatch_cuda watch;
    for (int i = 0; i < 2; ++i) static_cast<void>(watch.seconds(body));
    double seconds = 0;
    for (auto _ : state) {
      const double time = watch.seconds(body);
      state.SetIterationTime(time);
      seconds += time;
    }
    const double speed = flop * static_cast<double>(state.iterations()) / seconds;
    state.counters["TFLOP/s"] = speed * 1e-12;
    state.counters["share_of_matmul_roof"] = speed / bench::matmul_roof();
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}

template <class Mask> void run_forward(benchmark::State& state, const Mask& mask) {
  const inputs in(state.range(0), state.range(1));
  const attention::softmax op{mask};
  const double pairs = visible_pairs(mask, in.len) * static_cast<double>(in.batch * in.heads);
  run(state, 4.0 * static_cast<double>(in.dim) * pairs, [&] {
    attention::forward(cuda{}, op, in.rows(in.q), in.rows(in.k), in.rows(in.v), in.rows(in.out), in.row_lse());
  });
}

/// Five products: p again, dp, and three gradients; the kernels recompute the first two and are not paid for it.
template <index_t Dim> void run_backward(benchmark::State& state) {
  const inputs in(state.range(0), Dim);
  const mask::causal mask;
  const attention::softmax op{mask};
  const index_t rows = tokens * in.heads;
  const bench::device_array<bfloat16> dout(tokens * channels), dq(tokens * channels), dk(tokens * channels),
      dv(tokens * channels);
  const bench::device_array<float> workspace(2 * rows);
  fill(dout, 4);
  const auto known = [&](const bench::device_array<bfloat16>& array) {
    return tensor_view<bfloat16, 4, Dim>(array.data(), in.batch, in.heads, in.len, Dim);
  };
  attention::forward(cuda{}, op, in.rows(in.q), in.rows(in.k), in.rows(in.v), in.rows(in.out), in.row_lse());
  const double pairs = visible_pairs(mask, in.len) * static_cast<double>(in.batch * in.heads);
  run(state, 10.0 * static_cast<double>(Dim) * pairs, [&] {
    attention::backward(cuda{}, op, known(in.q), known(in.k), known(in.v), in.rows(in.out), in.row_lse(), known(dout),
                        known(dq), known(dk), known(dv), tensor_view<float, 1>(workspace.data(), 2 * rows));
  });
}
template <class T> void backward_causal(benchmark::State& state) {
  switch (state.range(1)) {
    case 64: return run_backward<64>(state);
    case 128: return run_backward<128>(state);
    default: return run_backward<256>(state);
  }
}

template <class T> void forward_full(benchmark::State& state) { run_forward(state, mask::full{}); }
template <class T> void forward_causal(benchmark::State& state) { run_forward(state, mask::causal{}); }
template <class T> void forward_window(benchmark::State& state) { run_forward(state, mask::causal_window(1024)); }

void sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim"})->Unit(benchmark::kMicrosecond)->UseManualTime()->MinTime(0.1);
  for (const int dim : {64, 128, 256})
    for (const int seq : {1024, 4096, 16384}) b->Args({seq, dim});
}

BENCHMARK_TEMPLATE(forward_full, bfloat16)->Apply(sizes);
BENCHMARK_TEMPLATE(forward_causal, bfloat16)->Apply(sizes);
BENCHMARK_TEMPLATE(forward_window, bfloat16)->Apply(sizes);
BENCHMARK_TEMPLATE(backward_causal, bfloat16)->Apply(sizes);

}  // namespace

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("skipped: no CUDA device");
    return 77;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  cudaDeviceProp device;
  check_cuda(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  benchmark::AddCustomContext("gpu", device.name);
  benchmark::AddCustomContext("matmul_roof_TFLOP/s", std::to_string(bench::matmul_roof() * 1e-12));
  benchmark::AddCustomContext("copy_roof_GB/s", std::to_string(bench::copy_roof() * 1e-9));
  benchmark::RunSpecifiedBenchmarks();
}
