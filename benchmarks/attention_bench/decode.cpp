// SPDX-License-Identifier: Apache-2.0
// Decoding against a long cache: as fast as the cache can be read, as long as the queries are few. The caches are larger than
// the last-level cache of the processor, so that memory is what is measured.
#include <support/attention.hpp>

using namespace seqprim;

namespace {

/// Time, bytes a second and the share of the roof that binds: reading the cache or, with many queries, the arithmetic.
template <class T> void report_decode(benchmark::State& state, double seconds, double bytes, double flop) {
  state.counters["GB/s"] = bytes / seconds * 1e-9;
  state.counters["share_of_roof"] = max(bytes / bench::read_roof(), flop / bench::compute_roof<T>()) / seconds;
}

/// One query of each of 8 heads, each with keys of its own.
template <class T> void decode_one(benchmark::State& state) {
  const index_t len = state.range(0), dim = state.range(1), heads = 8;
  bench::attention_inputs<T> in(heads, heads, 1, len, dim);
  const attention::softmax op{mask::causal{len - 1}};
  const double seconds = bench::seconds_per_call(state, [&] { in.decode(op); });
  const double numbers = 2.0 * static_cast<double>(heads * len * dim);
  report_decode<T>(state, seconds, numbers * sizeof(T), 2 * numbers);
}

/// The last `queries` tokens of each of 32 query heads over 8 key heads: speculative decoding, chunked prefill.
template <class T> void decode_grouped(benchmark::State& state) {
  const index_t len = state.range(0), dim = state.range(1), queries = state.range(2), heads = 32, kv_heads = 8;
  bench::attention_inputs<T> in(heads, kv_heads, queries, len, dim);
  const attention::softmax op{mask::causal{mask::bottom_right(queries, len)}};
  const double seconds = bench::seconds_per_call(state, [&] { in.decode(op); });
  report_decode<T>(state, seconds, 2.0 * static_cast<double>(kv_heads * len * dim) * sizeof(T),
                   bench::forward_flop(dim) * bench::visible_pairs(op.mask, queries, len) * static_cast<double>(heads));
}

/// The same queries through forward, which owns tiles of queries instead of runs of keys.
template <class T> void decode_by_forward(benchmark::State& state) {
  const index_t len = state.range(0), dim = state.range(1), queries = state.range(2), heads = 32, kv_heads = 8;
  bench::attention_inputs<T> in(heads, kv_heads, queries, len, dim);
  const attention::softmax op{mask::causal{mask::bottom_right(queries, len)}};
  const double seconds = bench::seconds_per_call(state, [&] { in.forward(op); });
  report_decode<T>(state, seconds, 2.0 * static_cast<double>(kv_heads * len * dim) * sizeof(T),
                   bench::forward_flop(dim) * bench::visible_pairs(op.mask, queries, len) * static_cast<double>(heads));
}

void cache_sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim"})->Unit(benchmark::kMicrosecond)->Args({4096, 128})->Args({32768, 128})->Args({32768, 64});
}
void query_counts(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim", "queries"})->Unit(benchmark::kMicrosecond);
  for (const int queries : {1, 2, 4, 8, 16, 32, 64}) b->Args({8192, 128, queries});
}
void many_queries(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim", "queries"})->Unit(benchmark::kMicrosecond)->Args({8192, 128, 16})->Args({8192, 128, 64});
}

BENCHMARK_TEMPLATE(decode_one, float)->Apply(cache_sizes);
BENCHMARK_TEMPLATE(decode_one, bfloat16)->Apply(cache_sizes);
BENCHMARK_TEMPLATE(decode_grouped, float)->Apply(query_counts);
BENCHMARK_TEMPLATE(decode_grouped, bfloat16)->Apply(query_counts);
BENCHMARK_TEMPLATE(decode_by_forward, bfloat16)->Apply(many_queries);

}  // namespace
