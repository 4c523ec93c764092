// SPDX-License-Identifier: Apache-2.0
// Softmax attention on the CPU, as shares of the limits of this machine, next to an unfused version made of the same parts.
//
//   attention_bench --benchmark_filter=forward --benchmark_counters_tabular=true
#include <seqprim/arch/matmul.hpp>
#include <seqprim/attention/attention.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/score/score.hpp>

#include <benchmark/benchmark.h>

#include <cmath>
#include <string>
#include <support/roof.hpp>
#include <support/stopwatch.hpp>
#include <type_traits>

using namespace seqprim;

namespace {

template <class T> struct inputs {
  tensor<T, 4> q, k, v, out, dout, dq, dk, dv;
  tensor<float, 3> lse;

  inputs(index_t heads, index_t kv_heads, index_t q_len, index_t k_len, index_t dim)
      : q(1, heads, q_len, dim),
        k(1, kv_heads, k_len, dim),
        v(1, kv_heads, k_len, dim),
        out(1, heads, q_len, dim),
        dout(1, heads, q_len, dim),
        dq(1, heads, q_len, dim),
        dk(1, kv_heads, k_len, dim),
        dv(1, kv_heads, k_len, dim),
        lse(1, heads, q_len) {
    random_stream stream{.seed = 1};
    std::uint32_t n = 0;
    for (auto* x : {&q, &k, &v, &dout})
      for (T& value : *x) value = T(2.0f * uniform_open(stream.word(purpose::caller, n++)) - 1.0f);
  }
};

/// Pairs that a mask lets see each other.
template <class Mask> double visible_pairs(const Mask& mask, index_t q_len, index_t k_len) {
  double pairs = 0;
  for (index_t i = 0; i < q_len; ++i)
    pairs += static_cast<double>(intersect(mask.visible_keys(i), range{0, k_len}).size());
  return pairs;
}

/// Counters of a benchmark whose every iteration does `flop` operations.
template <class T> void report(benchmark::State& state, const bench::stopwatch& watch, double flop) {
  const double speed = flop * static_cast<double>(state.iterations()) / watch.seconds();
  state.counters["GFLOP/s"] = speed * 1e-9;
  state.counters["share_of_roof"] = speed / (std::is_same_v<T, bfloat16> ? bench::bfloat16_roof() : bench::fma_roof());
}

template <class T, class Mask> void run_forward(benchmark::State& state, const Mask& mask) {
  const index_t len = state.range(0), dim = state.range(1);
  inputs<T> in(1, 1, len, len, dim);
  const attention::softmax op{mask};
  const bench::stopwatch watch;
  for (auto _ : state) attention::forward(cpu{.threads = 1}, op, in.q, in.k, in.v, in.out, in.lse);
  report<T>(state, watch, 4.0 * static_cast<double>(dim) * visible_pairs(mask, len, len));
}

template <class T> void forward_full(benchmark::State& state) { run_forward<T>(state, mask::full{}); }
template <class T> void forward_causal(benchmark::State& state) { run_forward<T>(state, mask::causal{}); }
template <class T> void forward_window(benchmark::State& state) { run_forward<T>(state, mask::causal_window(1024)); }

/// What fusing has to beat: all logits of a head in memory, softmax over them, then the weighted sum, with the same matmul
/// and the same exp2.
template <class T> void unfused_full(benchmark::State& state) {
  using v = arch::simd<arch::native_isa, float>;
  const index_t len = state.range(0), dim = state.range(1);
  inputs<T> in(1, 1, len, len, dim);
  tensor<float, 2> logits(len, len), result(len, dim);
  const auto scale = v::set(1.4426950f / std::sqrt(static_cast<float>(dim)));
  const bench::stopwatch watch;
  for (auto _ : state) {
    arch::matmul(cpu{.threads = 1}, in.q.view()[0][0], in.k.view()[0][0].transposed(0, 1), logits);
    for (index_t i = 0; i < len; ++i) {
      float* const row = &logits(i, 0);
      auto top = v::set(-1e30f);
      for (index_t j = 0; j < len; j += v::lanes)
        top = v::max(top, v::load_partial(row + j, static_cast<int>(min<index_t>(v::lanes, len - j))));
      const auto shift = v::mul(v::set(-v::maximum(top)), scale);
      auto sum = v::zero();
      for (index_t j = 0; j < len; j += v::lanes) {
        const int live = static_cast<int>(min<index_t>(v::lanes, len - j));
        const auto p = v::keep_lanes(v::exp2(v::fma(v::load_partial(row + j, live), scale, shift)), 0, live, v::zero());
        v::store_partial(row + j, p, live);
        sum = v::add(sum, p);
      }
      const auto inverse = v::set(1.0f / v::sum(sum));
      for (index_t j = 0; j < len; j += v::lanes) {
        const int live = static_cast<int>(min<index_t>(v::lanes, len - j));
        v::store_partial(row + j, v::mul(v::load_partial(row + j, live), inverse), live);
      }
    }
    arch::matmul(cpu{.threads = 1}, logits, in.v.view()[0][0], result);
    benchmark::ClobberMemory();
  }
  report<T>(state, watch, 4.0 * static_cast<double>(dim) * static_cast<double>(len) * static_cast<double>(len));
}

template <class T> void backward_causal(benchmark::State& state) {
  const index_t len = state.range(0), dim = state.range(1);
  inputs<T> in(1, 1, len, len, dim);
  const attention::softmax op{mask::causal{}};
  attention::forward(cpu{.threads = 1}, op, in.q, in.k, in.v, in.out, in.lse);
  const bench::stopwatch watch;
  for (auto _ : state)
    attention::backward(cpu{.threads = 1}, op, in.q, in.k, in.v, in.out, in.lse, in.dout, in.dq, in.dk, in.dv);
  report<T>(state, watch, 10.0 * static_cast<double>(dim) * visible_pairs(mask::causal{}, len, len));
}

/// One query against a long cache: as fast as the cache can be read.
template <class T> void decode_one(benchmark::State& state) {
  const index_t len = state.range(0), dim = state.range(1);
  inputs<T> in(1, 1, 1, len, dim);
  const attention::softmax op{mask::causal{len - 1}};
  const bench::stopwatch watch;
  for (auto _ : state) attention::decode(cpu{.threads = 1}, op, in.q, in.k, in.v, in.out, in.lse);
  const double speed =
      2.0 * static_cast<double>(len * dim) * sizeof(T) * static_cast<double>(state.iterations()) / watch.seconds();
  state.counters["GB/s"] = speed * 1e-9;
  state.counters["share_of_roof"] = speed / bench::read_roof();
}

void sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim"})->Unit(benchmark::kMicrosecond);
  for (const int dim : {64, 128})
    for (const int seq : {64, 256, 1024, 4096}) b->Args({seq, dim});
}
void cache_sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim"})->Unit(benchmark::kMicrosecond)->Args({4096, 128})->Args({32768, 128});
}

BENCHMARK_TEMPLATE(forward_full, float)->Apply(sizes);
BENCHMARK_TEMPLATE(unfused_full, float)->Apply(sizes);
BENCHMARK_TEMPLATE(forward_full, bfloat16)->Apply(sizes);
BENCHMARK_TEMPLATE(forward_causal, float)->Apply(sizes);
BENCHMARK_TEMPLATE(forward_causal, bfloat16)->Apply(sizes);
BENCHMARK_TEMPLATE(unfused_full, bfloat16)->Apply(sizes);
BENCHMARK_TEMPLATE(forward_window, float)
    ->ArgNames({"seq", "dim"})
    ->Unit(benchmark::kMicrosecond)
    ->Args({8192, 64})
    ->Args({32768, 64});
BENCHMARK_TEMPLATE(backward_causal, float)->Apply(sizes);
BENCHMARK_TEMPLATE(decode_one, float)->Apply(cache_sizes);
BENCHMARK_TEMPLATE(decode_one, bfloat16)->Apply(cache_sizes);

}  // namespace

int main(int argc, char** argv) {
  benchmark::AddCustomContext("isa", arch::native_isa::name);
  benchmark::AddCustomContext("fma_roof_GFLOP/s", std::to_string(bench::fma_roof() * 1e-9));
  benchmark::AddCustomContext("bfloat16_roof_GFLOP/s", std::to_string(bench::bfloat16_roof() * 1e-9));
  benchmark::AddCustomContext("read_roof_GB/s", std::to_string(bench::read_roof() * 1e-9));
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
