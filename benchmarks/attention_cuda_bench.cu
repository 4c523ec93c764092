// SPDX-License-Identifier: Apache-2.0
// Softmax attention on CUDA, as shares of the limits of this device. Forward and backward: 16384 tokens and 2048 channels in every
// run, batch is 16384 / seq, heads are 2048 / dim (16 heads of 192 x 128). Decode: one query, 8 key heads of 128 channels, as
// shares of what a large read and a large copy reach.
//
//   attention_cuda_bench --benchmark_filter=forward --benchmark_counters_tabular=true
#include <seqprim/attention/backward.cuh>
#include <seqprim/attention/decode.cuh>
#include <seqprim/attention/forward.cuh>
#include <seqprim/mask/mask.hpp>

#include <benchmark/benchmark.h>

#include <cstdio>
#include <exception>
#include <string>
#include <support/roof.cuh>
#include <vector>

using namespace seqprim;

namespace {

constexpr index_t tokens = 16384, channels = 2048;

template <class T> struct inputs {
  index_t batch, heads, len, dim, value_dim;
  bench::device_array<T> q, k, v, out;
  bench::device_array<float> lse;

  inputs(index_t len_, index_t dim_)
      : batch(tokens / len_),
        heads(dim_ == 192 ? 16 : channels / dim_),
        len(len_),
        dim(dim_),
        value_dim(dim_ == 192 ? 128 : dim_),
        q(tokens * heads * dim),
        k(tokens * heads * dim),
        v(tokens * heads * value_dim),
        out(tokens * heads * value_dim),
        lse(tokens * heads) {
    fill(q, 1);
    fill(k, 2);
    fill(v, 3);
  }

  [[nodiscard]] tensor_view<T, 4> rows(const bench::device_array<T>& array) const {
    return tensor_view<T, 4>(array.data(), batch, heads, len, array.size() / (tokens * heads));
  }
  [[nodiscard]] tensor_view<float, 3> row_lse() const { return tensor_view<float, 3>(lse.data(), batch, heads, len); }
};

/// Pairs that a mask lets see each other, in one head.
template <class Mask> double visible_pairs(const Mask& mask, index_t len) {
  double pairs = 0;
  for (index_t i = 0; i < len; ++i) pairs += static_cast<double>(intersect(mask.visible_keys(i), range{0, len}).size());
  return pairs;
}

/// Times body() run by run and hands the mean to count(seconds); what is thrown becomes the result of the benchmark.
template <class Body, class Count> void run(benchmark::State& state, const Body& body, const Count& count) {
  try {
    const bench::stopwatch_cuda watch;
    for (int i = 0; i < 2; ++i) static_cast<void>(watch.seconds(body));
    double seconds = 0;
    for (auto _ : state) {
      const double time = watch.seconds(body);
      state.SetIterationTime(time);
      seconds += time;
    }
    count(seconds / static_cast<double>(state.iterations()));
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}
template <class Body> void run_products(benchmark::State& state, double flop, const Body& body) {
  run(state, body, [&](double seconds) {
    state.counters["TFLOP/s"] = flop / seconds * 1e-12;
    if (const auto roof = bench::matmul_roof()) state.counters["share_of_matmul_roof"] = flop / seconds / *roof;
  });
}
template <class Body> void run_reads(benchmark::State& state, double bytes, const Body& body) {
  run(state, body, [&](double seconds) {
    state.counters["GB/s"] = bytes / seconds * 1e-9;
    state.counters["share_of_read_roof"] = bytes / seconds / bench::read_roof();
    state.counters["share_of_copy_roof"] = bytes / seconds / bench::copy_roof();
  });
}

template <class T, class Mask> void run_forward(benchmark::State& state, const Mask& mask) {
  const inputs<T> in(state.range(0), state.range(1));
  const attention::softmax op{mask};
  const double pairs = visible_pairs(mask, in.len) * static_cast<double>(in.batch * in.heads);
  run_products(state, 2.0 * static_cast<double>(in.dim + in.value_dim) * pairs, [&] {
    attention::forward(gpu{}, op, in.rows(in.q), in.rows(in.k), in.rows(in.v), in.rows(in.out), in.row_lse());
  });
}

/// Five products: p again, dp, and three gradients; the kernels recompute the first two and are not paid for it.
template <index_t Dim> void run_backward(benchmark::State& state) {
  const inputs<bfloat16> in(state.range(0), Dim);
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
  attention::forward(gpu{}, op, in.rows(in.q), in.rows(in.k), in.rows(in.v), in.rows(in.out), in.row_lse());
  const double pairs = visible_pairs(mask, in.len) * static_cast<double>(in.batch * in.heads);
  run_products(state, 10.0 * static_cast<double>(Dim) * pairs, [&] {
    attention::backward(gpu{}, op, known(in.q), known(in.k), known(in.v), in.rows(in.out), in.row_lse(), known(dout),
                        attention::gradients{}.dq(known(dq)).dk(known(dk)).dv(known(dv)),
                        tensor_view<float, 1>(workspace.data(), 2 * rows));
  });
}
template <class T> void backward_causal(benchmark::State& state) {
  switch (state.range(1)) {
    case 64: return run_backward<64>(state);
    case 128: return run_backward<128>(state);
    default: return run_backward<256>(state);
  }
}

template <class T> void forward_full(benchmark::State& state) { run_forward<T>(state, mask::full{}); }
template <class T> void forward_causal(benchmark::State& state) { run_forward<T>(state, mask::causal{}); }
template <class T> void forward_window(benchmark::State& state) { run_forward<T>(state, mask::causal_window(1024)); }

/// One query for each of `batch` sequences of `context` tokens in a bfloat16 cache: each key and value is read once.
struct decode_inputs {
  static constexpr index_t kv_heads = 8, dim = 128;
  using cache_view = tensor_view<bfloat16, 4, dim>;
  index_t context, group, batch;
  bench::device_array<bfloat16> q, k, v, out;

  explicit decode_inputs(const benchmark::State& state)
      : context(state.range(0)),
        group(state.range(1)),
        batch(state.range(2)),
        q(batch * kv_heads * group * dim),
        k(batch * kv_heads * context * dim),
        v(batch * kv_heads * context * dim),
        out(q.size()) {
    fill(q, 1);
    fill(k, 2);
    fill(v, 3);
  }

  [[nodiscard]] tensor_view<bfloat16, 4> rows(const bench::device_array<bfloat16>& array) const {
    return tensor_view<bfloat16, 4>(array.data(), batch, kv_heads * group, 1, dim);
  }
  /// [outer, kv_heads, inner, dim]: sequences of tokens, or pages.
  [[nodiscard]] cache_view cache(const bench::device_array<bfloat16>& array, index_t inner) const {
    return cache_view(array.data(), array.size() / (kv_heads * inner * dim), kv_heads, inner, dim);
  }
  [[nodiscard]] double bytes() const { return 2.0 * static_cast<double>(k.size()) * sizeof(bfloat16); }

  template <class Cache> void run(benchmark::State& state, const Cache& keys, const Cache& values) const {
    const bench::device_array<float> memory(attention::decode_workspace(rows(q), keys, values));
    run_reads(state, bytes(), [&] {
      attention::decode(gpu{}, attention::softmax{}, rows(q), keys, values, rows(out),
                        tensor_view<float, 3>(nullptr, batch, kv_heads * group, 1),
                        tensor_view<float, 1>(memory.data(), memory.size()));
    });
  }
};

template <class T> void decode_full(benchmark::State& state) {
  const decode_inputs in(state);
  in.run(state, in.cache(in.k, in.context), in.cache(in.v, in.context));
}

/// Pages of 64 tokens, neighbors of a sequence far apart.
template <class T> void decode_paged(benchmark::State& state) {
  constexpr index_t page_size = 64;
  const decode_inputs in(state);
  const index_t max_pages = in.context / page_size, pages = in.batch * max_pages;  // a power of two
  std::vector<std::int32_t> places(static_cast<std::size_t>(pages));
  for (index_t n = 0; n < pages; ++n)
    places[static_cast<std::size_t>(n)] = static_cast<std::int32_t>(n * 2654435761 % pages);
  const std::vector<index_t> lengths(static_cast<std::size_t>(in.batch), in.context);
  const bench::device_array<std::int32_t> entries(pages);
  const bench::device_array<index_t> device_lengths(in.batch);
  check_cuda(cudaMemcpy(entries.data(), places.data(), places.size() * sizeof places[0], cudaMemcpyHostToDevice),
             "cudaMemcpy");
  check_cuda(
      cudaMemcpy(device_lengths.data(), lengths.data(), lengths.size() * sizeof lengths[0], cudaMemcpyHostToDevice),
      "cudaMemcpy");
  const auto table = attention::page_table(tensor_view<const std::int32_t, 2>(entries.data(), in.batch, max_pages),
                                           index_array(device_lengths.data(), in.batch).on_device())
                         .on_device();
  in.run(state, attention::paged(in.cache(in.k, page_size), table), attention::paged(in.cache(in.v, page_size), table));
}

void sizes_of(benchmark::internal::Benchmark* b, std::initializer_list<int> dims) {
  b->ArgNames({"seq", "dim"})->Unit(benchmark::kMicrosecond)->UseManualTime()->MinTime(0.1);
  for (const int dim : dims)
    for (const int seq : {1024, 4096, 16384}) b->Args({seq, dim});
}
void sizes(benchmark::internal::Benchmark* b) { sizes_of(b, {64, 128, 256}); }
void forward_sizes(benchmark::internal::Benchmark* b) { sizes_of(b, {64, 128, 192, 256}); }
void contexts(benchmark::internal::Benchmark* b) {
  b->ArgNames({"context", "group", "batch"})->Unit(benchmark::kMicrosecond)->UseManualTime()->MinTime(0.1);
  for (const int context : {8192, 32768})
    for (const int group : {1, 4})
      for (const int batch : {1, 16}) b->Args({context, group, batch});
}

BENCHMARK_TEMPLATE(forward_full, bfloat16)->Apply(forward_sizes);
BENCHMARK_TEMPLATE(forward_causal, bfloat16)->Apply(forward_sizes);
BENCHMARK_TEMPLATE(forward_window, bfloat16)->Apply(sizes);
BENCHMARK_TEMPLATE(forward_causal, float16)->Apply(sizes);
BENCHMARK_TEMPLATE(backward_causal, bfloat16)->Apply(sizes);
BENCHMARK_TEMPLATE(decode_full, bfloat16)->Apply(contexts);
BENCHMARK_TEMPLATE(decode_paged, bfloat16)->Apply(contexts);

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
  if (const auto roof = bench::matmul_roof()) {
    benchmark::AddCustomContext("matmul_roof_TFLOP/s", std::to_string(*roof * 1e-12));
  } else {
    benchmark::AddCustomContext("without", "matmul_roof: no cuBLASLt");
  }
  benchmark::AddCustomContext("copy_roof_GB/s", std::to_string(bench::copy_roof() * 1e-9));
  benchmark::AddCustomContext("read_roof_GB/s", std::to_string(bench::read_roof() * 1e-9));
  benchmark::RunSpecifiedBenchmarks();
}
