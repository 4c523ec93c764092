// SPDX-License-Identifier: Apache-2.0
// Backward. Flop counted: 10 dim a visible pair, five products.
#include <support/attention.hpp>

using namespace seqprim;

namespace {

template <class T, class Mask> void run_backward(benchmark::State& state, const Mask& mask) {
  const index_t len = state.range(0), dim = state.range(1);
  const attention::softmax op{mask};
  bench::attention_gradients<T> in(op, 1, len, dim);
  const double seconds = bench::seconds_per_call(state, [&] { in.backward(op); });
  bench::report_flop<T>(state, bench::backward_flop(dim) * bench::visible_pairs(mask, len, len), seconds);
}
template <class T> void backward_full(benchmark::State& state) { run_backward<T>(state, mask::full{}); }
template <class T> void backward_causal(benchmark::State& state) { run_backward<T>(state, mask::causal{}); }
template <class T> void backward_window(benchmark::State& state) { run_backward<T>(state, mask::causal_window(1024)); }

/// A window of 1024 over 4 times the length: how near to 4 times the time?
template <class T> void backward_window_growth(benchmark::State& state) {
  const index_t len = state.range(0), dim = state.range(1);
  const attention::softmax op{mask::causal_window(1024)};
  bench::attention_gradients<T> in(op, 1, len, dim), quarter(op, 1, len / 4, dim);
  const auto result = bench::run_duel(
      state, "x_of_quarter", [&] { in.backward(op); }, [&] { quarter.backward(op); });
  bench::report_flop<T>(state, bench::backward_flop(dim) * bench::visible_pairs(op.mask, len, len), result.seconds);
}

void sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim"})->Unit(benchmark::kMicrosecond);
  for (const int dim : {64, 128})
    for (const int seq : {256, 1024, 4096}) b->Args({seq, dim});
}
void window_sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim"})->Unit(benchmark::kMicrosecond)->Args({8192, 128})->Args({32768, 128});
}
void growth_sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim"})->Args({32768, 128})->Apply(bench::duel_settings);
}

BENCHMARK_TEMPLATE(backward_full, float)->Apply(sizes);
BENCHMARK_TEMPLATE(backward_full, bfloat16)->Apply(sizes);
BENCHMARK_TEMPLATE(backward_causal, float)->Apply(sizes);
BENCHMARK_TEMPLATE(backward_causal, bfloat16)->Apply(sizes);
BENCHMARK_TEMPLATE(backward_window, float)->Apply(window_sizes);
BENCHMARK_TEMPLATE(backward_window, bfloat16)->Apply(window_sizes);
BENCHMARK_TEMPLATE(backward_window_growth, float)->Apply(growth_sizes);
BENCHMARK_TEMPLATE(backward_window_growth, bfloat16)->Apply(growth_sizes);

}  // namespace
