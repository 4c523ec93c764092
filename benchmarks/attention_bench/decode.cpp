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
  const auto op = attention::softmax{mask::causal{}}.starting_at(len - 1);
  const double seconds = bench::seconds_per_call(state, [&] { in.decode(op); });
  const double numbers = 2.0 * static_cast<double>(heads * len * dim);
  report_decode<T>(state, seconds, numbers * sizeof(T), 2 * numbers);
}

/// The last `queries` tokens of each of 32 query heads over 8 key heads: speculative decoding, chunked prefill.
template <class T> void decode_grouped(benchmark::State& state) {
  const index_t len = state.range(0), dim = state.range(1), queries = state.range(2), heads = 32, kv_heads = 8;
  bench::attention_inputs<T> in(heads, kv_heads, queries, len, dim);
  const auto op = attention::softmax{mask::causal{}}.starting_at(len - queries);
  const double seconds = bench::seconds_per_call(state, [&] { in.decode(op); });
  report_decode<T>(state, seconds, 2.0 * static_cast<double>(kv_heads * len * dim) * sizeof(T),
                   bench::forward_flop(dim) * bench::visible_pairs(op.mask, queries, len) * static_cast<double>(heads));
}

/// The same queries through forward, which owns tiles of queries instead of runs of keys.
template <class T> void decode_by_forward(benchmark::State& state) {
  const index_t len = state.range(0), dim = state.range(1), queries = state.range(2), heads = 32, kv_heads = 8;
  bench::attention_inputs<T> in(heads, kv_heads, queries, len, dim);
  const auto op = attention::softmax{mask::causal{}}.starting_at(len - queries);
  const double seconds = bench::seconds_per_call(state, [&] { in.forward(op); });
  report_decode<T>(state, seconds, 2.0 * static_cast<double>(kv_heads * len * dim) * sizeof(T),
                   bench::forward_flop(dim) * bench::visible_pairs(op.mask, queries, len) * static_cast<double>(heads));
}

/// The cache in 8 bits, a scale for each token, against the same cache in bfloat16.
template <class T> void decode_int8(benchmark::State& state) {
  const index_t len = state.range(0), dim = state.range(1), heads = 8;
  bench::attention_inputs<T> in(heads, heads, 1, len, dim);
  tensor<std::int8_t, 4> k_codes(1, heads, len, dim), v_codes(1, heads, len, dim);
  tensor<float, 4> k_scales(1, heads, len, 1), v_scales(1, heads, len, 1);
  const auto op = attention::softmax{mask::causal{}}.starting_at(len - 1);
  const attention::quantized k(k_codes, k_scales), v(v_codes, v_scales);
  attention::append(cpu{.threads = 1}, op, in.k, in.v, 0, k, v);
  const auto result = bench::run_duel(
      state, "x_of_bfloat16", [&] { attention::decode(cpu{.threads = 1}, op, in.q, k, v, in.out, in.lse); },
      [&] { in.decode(op); });
  const double rows = 2.0 * static_cast<double>(heads * len);
  report_decode<float>(state, result.seconds, rows * static_cast<double>(dim + 4), 2 * rows * static_cast<double>(dim));
}

/// The cache in pages that lie in no order, against the same cache in one piece.
template <class T> void decode_paged(benchmark::State& state) {
  const index_t len = state.range(0), dim = state.range(1), page_size = state.range(2), heads = 8;
  const index_t pages = ceil_div(len, page_size);
  bench::attention_inputs<T> in(heads, heads, 1, len, dim);
  tensor<T, 4> k_pages(pages, heads, page_size, dim), v_pages(pages, heads, page_size, dim);
  tensor<std::int32_t, 2> entries(1, pages);
  for (index_t n = 0; n < pages; ++n)
    entries(0, n) = static_cast<std::int32_t>(n * 37 % pages);  // pages is a power of 2
  const std::int64_t lengths[] = {len};
  const attention::page_table table(entries, {lengths, 1});
  const auto op = attention::softmax{mask::causal{}}.starting_at(len - 1);
  const attention::paged k(k_pages, table), v(v_pages, table);
  for (index_t h = 0; h < heads; ++h)
    for (index_t j = 0; j < len; ++j)
      for (index_t d = 0; d < dim; ++d) {
        k_pages(k.page_of(0, j), h, k.row_of(j), d) = in.k(0, h, j, d);
        v_pages(v.page_of(0, j), h, v.row_of(j), d) = in.v(0, h, j, d);
      }
  const auto result = bench::run_duel(
      state, "x_of_contiguous", [&] { attention::decode(cpu{.threads = 1}, op, in.q, k, v, in.out, in.lse); },
      [&] { in.decode(op); });
  const double numbers = 2.0 * static_cast<double>(heads * len * dim);
  report_decode<T>(state, result.seconds, numbers * sizeof(T), 2 * numbers);
}

void cache_sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim"})->Unit(benchmark::kMicrosecond)->Args({4096, 128})->Args({32768, 128})->Args({32768, 64});
}
void query_counts(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim", "queries"})->Unit(benchmark::kMicrosecond);
  for (const int queries : {1, 2, 4, 8, 16, 32, 64}) b->Args({8192, 128, queries});
}
void int8_sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim"})->Apply(bench::duel_settings)->Args({4096, 128})->Args({32768, 128});
}
void page_sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim", "page"})->Apply(bench::duel_settings)->Args({32768, 128, 16})->Args({32768, 128, 64});
}
void many_queries(benchmark::internal::Benchmark* b) {
  b->ArgNames({"seq", "dim", "queries"})->Unit(benchmark::kMicrosecond)->Args({8192, 128, 16})->Args({8192, 128, 64});
}

BENCHMARK_TEMPLATE(decode_one, float)->Apply(cache_sizes);
BENCHMARK_TEMPLATE(decode_one, bfloat16)->Apply(cache_sizes);
BENCHMARK_TEMPLATE(decode_grouped, float)->Apply(query_counts);
BENCHMARK_TEMPLATE(decode_grouped, bfloat16)->Apply(query_counts);
BENCHMARK_TEMPLATE(decode_int8, bfloat16)->Apply(int8_sizes);
BENCHMARK_TEMPLATE(decode_paged, bfloat16)->Apply(page_sizes);
BENCHMARK_TEMPLATE(decode_by_forward, bfloat16)->Apply(many_queries);

}  // namespace
