// SPDX-License-Identifier: Apache-2.0
// The matrix product at the sizes of layers: forward (x W^T), gradient of the input (dy W), gradient of the weights (dy^T x),
// and one row against a weight matrix, which decoding does.
#include <seqprim/linalg/matmul.hpp>

#include <benchmark/benchmark.h>

#include <string>
#include <support/roof.hpp>
#include <support/stopwatch.hpp>

using namespace seqprim;

namespace {

template <class Product> void run(benchmark::State& state, double flop, const Product& product) {
  const bench::stopwatch watch;
  for (auto _ : state) product();
  const double speed = flop * static_cast<double>(state.iterations()) / watch.seconds();
  state.counters["GFLOP/s"] = speed * 1e-9;
  state.counters["share_of_roof"] = speed / bench::fma_roof();
}

struct layer {
  index_t rows, in, out;
  tensor<float, 2> x, w, y, dw;

  explicit layer(const benchmark::State& state)
      : rows(state.range(0)),
        in(state.range(1)),
        out(state.range(2)),
        x(rows, in),
        w(out, in),
        y(rows, out),
        dw(out, in) {
    x.fill(0.5f);
    w.fill(0.25f);
    y.fill(0.125f);
  }
  [[nodiscard]] double flop() const {
    return 2.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out);
  }
};

void linear_forward(benchmark::State& state) {
  layer l(state);
  run(state, l.flop(), [&] { linalg::matmul(cpu{.threads = 1}, l.x, l.w.view().transposed(0, 1), l.y); });
}
void linear_input_gradient(benchmark::State& state) {
  layer l(state);
  run(state, l.flop(), [&] { linalg::matmul(cpu{.threads = 1}, l.y, l.w, l.x); });
}
void linear_weight_gradient(benchmark::State& state) {
  layer l(state);
  run(state, l.flop(),
      [&] { linalg::matmul(cpu{.threads = 1}, l.y.view().transposed(0, 1), l.x, l.dw, linalg::store::accumulate); });
}
/// One row reads the whole weight matrix: the limit is memory, not arithmetic.
void one_row(benchmark::State& state) {
  layer l(state);
  const bench::stopwatch watch;
  for (auto _ : state) linalg::matmul(cpu{.threads = 1}, l.x, l.w.view().transposed(0, 1), l.y);
  const double speed =
      4.0 * static_cast<double>(l.in * l.out) * static_cast<double>(state.iterations()) / watch.seconds();
  state.counters["GB/s"] = speed * 1e-9;
  state.counters["share_of_read_roof"] = speed / bench::read_roof();
}

void layers(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "in", "out"})->Unit(benchmark::kMicrosecond);
  b->Args({4096, 192, 512})->Args({2048, 512, 512})->Args({2048, 1024, 4096});
}

BENCHMARK(linear_forward)->Apply(layers);
BENCHMARK(linear_input_gradient)->Apply(layers);
BENCHMARK(linear_weight_gradient)->Apply(layers);
BENCHMARK(one_row)->ArgNames({"rows", "in", "out"})->Unit(benchmark::kMicrosecond)->Args({1, 4096, 16384});

}  // namespace

int main(int argc, char** argv) {
  benchmark::AddCustomContext("isa", arch::native_isa::name);
  benchmark::AddCustomContext("fma_roof_GFLOP/s", std::to_string(bench::fma_roof() * 1e-9));
  benchmark::AddCustomContext("read_roof_GB/s", std::to_string(bench::read_roof() * 1e-9));
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
