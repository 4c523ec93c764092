// SPDX-License-Identifier: Apache-2.0
// Softmax attention on the CPU, as shares of the limits of this machine. This file: forward, and what it is compared with
// inside one process; backward, decode and compositions are in attention_bench/.
//
//   attention_bench --benchmark_filter=forward --benchmark_counters_tabular=true
//
// benchmarks/report/compare.py runs all of it and puts it beside PyTorch.
#include <seqprim/linalg/matmul.hpp>

#include <cmath>
#include <string>
#include <support/attention.hpp>

using namespace seqprim;

namespace {

template <class T, class Mask> void run_forward(benchmark::State& state, const Mask& mask) {
  const index_t len = state.range(0), dim = state.range(1);
  bench::attention_inputs<T> in(1, 1, len, len, dim);
  const attention::softmax op{mask};
  const double seconds = bench::seconds_per_call(state, [&] { in.forward(op); });
  bench::report_flop<T>(state, bench::forward_flop(dim) * bench::visible_pairs(mask, len, len), seconds);
}

template <class T> void forward_full(benchmark::State& state) { run_forward<T>(state, mask::full{}); }
template <class T> void forward_causal(benchmark::State& state) { run_forward<T>(state, mask::causal{}); }
template <class T> void forward_window(benchmark::State& state) { run_forward<T>(state, mask::causal_window(1024)); }

/// Half of the pairs: how near to half of the time?
template <class T> void forward_causal_against_full(benchmark::State& state) {
  const index_t len = state.range(0), dim = state.range(1);
  bench::attention_inputs<T> in(1, 1, len, len, dim);
  const auto result = bench::run_duel(
      state, "x_of_full", [&] { in.forward(attention::softmax{mask::causal{}}); },
      [&] { in.forward(attention::softmax{mask::full{}}); });
  bench::report_flop<T>(state, bench::forward_flop(dim) * bench::visible_pairs(mask::causal{}, len, len),
                        result.seconds);
}

/// A window of 1024 over 4 times the length: how near to 4 times the time?
template <class T> void forward_window_growth(benchmark::State& state) {
  const index_t len = state.range(0), dim = state.range(1);
  const attention::softmax op{mask::causal_window(1024)};
  bench::attention_inputs<T> in(1, 1, len, len, dim), quarter(1, 1, len / 4, len / 4, dim);
  const auto result = bench::run_duel(
      state, "x_of_quarter", [&] { in.forward(op); }, [&] { quarter.forward(op); });
  bench::report_flop<T>(state, bench::forward_flop(dim) * bench::visible_pairs(op.mask, len, len), result.seconds);
}

/// What fusing has to beat: the logits of a block of rows in memory, softmax over them, then the weighted sum, with the same
/// matmul and the same exp2. `block` rows at a time, keys up to the last that one of them sees.
template <class T> class unfused {
  using v = arch::simd<arch::native_isa, float>;

 public:
  unfused(const bench::attention_inputs<T>& in, index_t block, bool causal)
      : in_(in),
        block_(block),
        causal_(causal),
        logits_(block, in.k.extent(2)),
        result_(block, in.v.extent(3)),
        out_(1, in.q.extent(1), in.q.extent(2), in.v.extent(3)) {}

  void operator()() {
    for (index_t h = 0; h < in_.q.extent(1); ++h)
      for (index_t i = 0; i < in_.q.extent(2); i += block_) rows(h, {i, min(i + block_, in_.q.extent(2))});
    benchmark::ClobberMemory();
  }

 private:
  void rows(index_t h, range rows) {
    constexpr cpu one{.threads = 1};
    const index_t keys = causal_ ? rows.end : in_.k.extent(2);
    const auto logits = logits_.view().slice(0, {0, rows.size()}).slice(1, {0, keys});
    const auto out = out_.view()[0][h].slice(0, rows);
    linalg::matmul(one, in_.q.view()[0][h].slice(0, rows), in_.k.view()[0][h].slice(0, {0, keys}).transposed(0, 1),
                   logits);
    const auto scale = v::set(1.4426950f / std::sqrt(static_cast<float>(in_.q.extent(3))));
    for (index_t i = 0; i < rows.size(); ++i) softmax(&logits(i, 0), causal_ ? rows.begin + i + 1 : keys, keys, scale);
    const auto values = in_.v.view()[0][h].slice(0, {0, keys});
    if constexpr (std::is_same_v<T, float>) {
      linalg::matmul(one, logits, values, out);
    } else {
      linalg::matmul(one, logits, values, result_.view().slice(0, {0, rows.size()}));
      const float* const from = result_.data();  // dense rows, as in out
      T* const to = out.data;
      for (index_t n = 0; n < rows.size() * out.extent(1); ++n) to[n] = static_cast<T>(from[n]);
    }
  }

  /// The first `visible` of `keys` logits become weights, the others zero.
  static void softmax(float* row, index_t visible, index_t keys, v::reg scale) {
    auto top = v::set(-1e30f);
    for (index_t j = 0; j < visible; j += v::lanes) {
      const int live = static_cast<int>(min<index_t>(v::lanes, visible - j));
      top = v::max(top, v::select(v::lanes_in(0, live), v::load_partial(row + j, live), top));
    }
    const auto shift = v::mul(v::set(-v::maximum(top)), scale);
    auto sum = v::zero();
    for (index_t j = 0; j < visible; j += v::lanes) {
      const int live = static_cast<int>(min<index_t>(v::lanes, visible - j));
      const auto p =
          v::select(v::lanes_in(0, live), v::exp2(v::fma(v::load_partial(row + j, live), scale, shift)), v::zero());
      v::store_partial(row + j, p, live);
      sum = v::add(sum, p);
    }
    const auto inverse = v::set(1.0f / v::sum(sum));
    for (index_t j = 0; j < visible; j += v::lanes) {
      const int live = static_cast<int>(min<index_t>(v::lanes, visible - j));
      v::store_partial(row + j, v::mul(v::load_partial(row + j, live), inverse), live);
    }
    for (index_t j = visible; j < keys; ++j) row[j] = 0.0f;
  }

  const bench::attention_inputs<T>& in_;
  index_t block_;
  bool causal_;
  tensor<float, 2> logits_, result_;
  tensor<T, 4> out_;
};

/// Operands widened to float first: for bfloat16 that may be the better unfused version.
template <class T> class unfused_widened {
 public:
  unfused_widened(const bench::attention_inputs<T>& in, index_t block, bool causal)
      : from_(in),
        wide_(in.q.extent(1), in.k.extent(1), in.q.extent(2), in.k.extent(2), in.q.extent(3)),
        body_(wide_, block, causal) {}

  void operator()() {
    widen(from_.q, wide_.q);
    widen(from_.k, wide_.k);
    widen(from_.v, wide_.v);
    body_();
  }

 private:
  static void widen(const tensor<T, 4>& from, tensor<float, 4>& to) {
    for (index_t i = 0; i < from.size(); ++i) to.data()[i] = static_cast<float>(from.data()[i]);
  }

  const bench::attention_inputs<T>& from_;
  bench::attention_inputs<float> wide_;
  unfused<float> body_;
};

/// Short sequences, where fusing saves little: forward against the best unfused version of the same parts.
template <class T> void run_short(benchmark::State& state, bool causal) {
  const index_t len = state.range(0), dim = state.range(1), heads = state.range(2);
  bench::attention_inputs<T> in(heads, heads, len, len, dim);
  const auto fused = [&] {
    if (causal) {
      in.forward(attention::softmax{mask::causal{}});
    } else {
      in.forward(attention::softmax{mask::full{}});
    }
  };
  bench::duel_result worst{};
  for (auto _ : state) {
    const auto against = [&](auto base) {
      const auto result = bench::duel(
          fused, [&] { base(); }, 0.06);
      if (result.ratio > worst.ratio) worst = result;
    };
    against(unfused<T>(in, len, causal));
    if (causal && len > 64) against(unfused<T>(in, 64, causal));
    if constexpr (!std::is_same_v<T, float>) against(unfused_widened<T>(in, len, causal));
    state.SetIterationTime(worst.seconds);
  }
  state.counters["x_of_unfused"] = worst.ratio;
  const double pairs = causal ? bench::visible_pairs(mask::causal{}, len, len) : static_cast<double>(len * len);
  bench::report_flop<T>(state, bench::forward_flop(dim) * pairs * static_cast<double>(heads), worst.seconds);
}
template <class T> void short_full(benchmark::State& state) { run_short<T>(state, false); }
template <class T> void short_causal(benchmark::State& state) { run_short<T>(state, true); }

/// The same without a duel, for the table of lengths.
template <class T> void unfused_full(benchmark::State& state) {
  const index_t len = state.range(0), dim = state.range(1);
  const bench::attention_inputs<T> in(1, 1, len, len, dim);
  unfused<T> body(in, len, false);
  const double seconds = bench::seconds_per_call(state, [&] { body(); });
  bench::report_flop<T>(state, bench::forward_flop(dim) * static_cast<double>(len) * static_cast<double>(len), seconds);
}

/// One thread against two; what two threads do for chains of fma alone is the most that can be asked for.
template <class T, class Mask> void run_two_threads(benchmark::State& state, const Mask& mask) {
  const index_t len = state.range(0), dim = state.range(1), heads = state.range(2);
  if (thread_count(cpu{}) < 2) return state.SkipWithError("needs two processors and OpenMP");
  bench::attention_inputs<T> in(heads, heads, len, len, dim);
  const attention::softmax op{mask};
  const auto result = bench::run_duel(
      state, "x_of_one_thread", [&] { in.forward(op, 2); }, [&] { in.forward(op, 1); });
  state.counters["speedup"] = 1 / result.ratio;
  bench::report_flop<T>(state,
                        bench::forward_flop(dim) * bench::visible_pairs(mask, len, len) * static_cast<double>(heads),
                        2 * result.seconds);
}
template <class T> void two_threads_full(benchmark::State& state) { run_two_threads<T>(state, mask::full{}); }
template <class T> void two_threads_causal(benchmark::State& state) { run_two_threads<T>(state, mask::causal{}); }

void sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim"})->Unit(benchmark::kMicrosecond);
  for (const int dim : {64, 128})
    for (const int seq : {64, 256, 1024, 4096}) b->Args({seq, dim});
}
void long_sizes(benchmark::internal::Benchmark* b) {
  sizes(b);
  b->Args({4096, 256});
  for (const int seq : {2048, 8192}) b->Args({seq, 128});
}
void window_sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim"})->Unit(benchmark::kMicrosecond);
  for (const int seq : {2048, 8192, 32768}) b->Args({seq, 128});
}
void short_sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim", "heads"})->Apply(bench::duel_settings);
  for (const int heads : {1, 8})
    for (const int dim : {64, 128})
      for (const int seq : {16, 32, 64, 128, 256}) b->Args({seq, dim, heads});
}
template <int Seq> void one_duel(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim"})->Args({Seq, 128})->Apply(bench::duel_settings);
}
void two_thread_sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim", "heads"})->Apply(bench::duel_settings)->Args({4096, 128, 1})->Args({1024, 128, 8});
}

BENCHMARK_TEMPLATE(forward_full, float)->Apply(long_sizes);
BENCHMARK_TEMPLATE(forward_full, bfloat16)->Apply(long_sizes);
BENCHMARK_TEMPLATE(forward_causal, float)->Apply(long_sizes);
BENCHMARK_TEMPLATE(forward_causal, bfloat16)->Apply(long_sizes);
BENCHMARK_TEMPLATE(forward_window, float)->Apply(window_sizes);
BENCHMARK_TEMPLATE(forward_window, bfloat16)->Apply(window_sizes);
BENCHMARK_TEMPLATE(forward_causal_against_full, float)->Apply(one_duel<8192>);
BENCHMARK_TEMPLATE(forward_causal_against_full, bfloat16)->Apply(one_duel<8192>);
BENCHMARK_TEMPLATE(forward_window_growth, float)->Apply(one_duel<32768>);
BENCHMARK_TEMPLATE(forward_window_growth, bfloat16)->Apply(one_duel<32768>);
BENCHMARK_TEMPLATE(unfused_full, float)->Apply(sizes);
BENCHMARK_TEMPLATE(unfused_full, bfloat16)->Apply(sizes);
BENCHMARK_TEMPLATE(short_full, float)->Apply(short_sizes);
BENCHMARK_TEMPLATE(short_full, bfloat16)->Apply(short_sizes);
BENCHMARK_TEMPLATE(short_causal, float)->Apply(short_sizes);
BENCHMARK_TEMPLATE(short_causal, bfloat16)->Apply(short_sizes);
BENCHMARK_TEMPLATE(two_threads_full, float)->Apply(two_thread_sizes);
BENCHMARK_TEMPLATE(two_threads_full, bfloat16)->Apply(two_thread_sizes);
BENCHMARK_TEMPLATE(two_threads_causal, float)->Apply(two_thread_sizes);
BENCHMARK_TEMPLATE(two_threads_causal, bfloat16)->Apply(two_thread_sizes);

}  // namespace

int main(int argc, char** argv) {
  arch::with_supported_isa<arch::native_isa>(
      [](auto granted) { benchmark::AddCustomContext("isa", decltype(granted)::name); });
  benchmark::AddCustomContext("fma_roof_GFLOP/s", std::to_string(bench::fma_roof() * 1e-9));
  benchmark::AddCustomContext("bfloat16_roof_GFLOP/s", std::to_string(bench::bfloat16_roof() * 1e-9));
  benchmark::AddCustomContext("bfloat16_roof_of", bench::bfloat16_roof_name());
  benchmark::AddCustomContext("read_roof_GB/s", std::to_string(bench::read_roof() * 1e-9));
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
