// SPDX-License-Identifier: Apache-2.0
// One row of logits to one token, for vocabularies of published models; the limit is one pass over the row.
#include <seqprim/sampling/sampling.hpp>

#include <benchmark/benchmark.h>

#include <string>
#include <support/roof.hpp>
#include <support/stopwatch.hpp>

using namespace seqprim;

namespace {

template <class Chain> void run(benchmark::State& state, const Chain& chain) {
  const index_t vocab = state.range(0);
  tensor<float, 1> logits(vocab);
  random_stream stream{.seed = 1};
  for (index_t i = 0; i < vocab; ++i)
    logits(i) = 8.0f * uniform_open(stream.word(random_domain::caller, static_cast<std::uint32_t>(i)));
  const bench::stopwatch watch;
  for (auto _ : state) {
    benchmark::DoNotOptimize(sampling::sample(cpu{.threads = 1}, chain, logits, stream));
    ++stream.step;
  }
  const double tokens = static_cast<double>(vocab) * static_cast<double>(state.iterations());
  state.counters["logits/s"] = tokens / watch.seconds();
  state.counters["share_of_read_roof"] = 4.0 * tokens / watch.seconds() / bench::read_roof();
}

void greedy(benchmark::State& state) { run(state, sampling::greedy{}); }
void draw(benchmark::State& state) { run(state, sampling::temperature{0.8f} | sampling::draw{}); }
void gumbel_max(benchmark::State& state) { run(state, sampling::temperature{0.8f} | sampling::gumbel_max{}); }
void top_p_draw(benchmark::State& state) {
  run(state, sampling::temperature{0.8f} | sampling::top_p{0.95f} | sampling::draw{});
}
void top_k_top_p_draw(benchmark::State& state) {
  run(state, sampling::temperature{0.8f} | sampling::top_k{50} | sampling::top_p{0.95f} | sampling::draw{});
}

void vocabularies(benchmark::internal::Benchmark* b) {
  b->ArgName("vocab")->Unit(benchmark::kMicrosecond)->Arg(32000)->Arg(128256);
}
BENCHMARK(greedy)->Apply(vocabularies);
BENCHMARK(draw)->Apply(vocabularies);
BENCHMARK(gumbel_max)->Apply(vocabularies);
BENCHMARK(top_p_draw)->Apply(vocabularies);
BENCHMARK(top_k_top_p_draw)->Apply(vocabularies);

}  // namespace

int main(int argc, char** argv) {
  benchmark::AddCustomContext("isa", arch::native_isa::name);
  benchmark::AddCustomContext("read_roof_GB/s", std::to_string(bench::read_roof() * 1e-9));
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
