// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/attention.hpp>
#include <seqprim/mask/mask.hpp>

#include <benchmark/benchmark.h>

#include <cstdint>
#include <support/duel.hpp>
#include <support/roof.hpp>
#include <support/stopwatch.hpp>
#include <type_traits>

/// What the attention benchmarks share: operands, how work is counted, which roof a kernel is measured against.
namespace seqprim::bench {

/// Fills with numbers in (-1, 1), the same in every run.
template <class Tensor> void fill_random(Tensor& x, std::uint32_t seed) {
  using element = std::remove_cvref_t<decltype(*x.begin())>;
  for (auto& value : x) {
    seed = seed * 1664525u + 1013904223u;  // a linear congruence: caches of gigabytes are filled in no time
    value = static_cast<element>(static_cast<float>(static_cast<std::int32_t>(seed)) * 0x1p-31f);
  }
}

/// The operands of one call, forward and backward.
template <class T> struct attention_inputs {
  tensor<T, 4> q, k, v, out;
  tensor<float, 3> lse;

  attention_inputs(index_t heads, index_t kv_heads, index_t q_len, index_t k_len, index_t dim)
      : q(1, heads, q_len, dim),
        k(1, kv_heads, k_len, dim),
        v(1, kv_heads, k_len, dim),
        out(1, heads, q_len, dim),
        lse(1, heads, q_len) {
    fill_random(q, 1);
    fill_random(k, 2);
    fill_random(v, 3);
  }

  template <class Op> void forward(const Op& op, int threads = 1) {
    attention::forward(cpu{.threads = threads}, op, q, k, v, out, lse);
  }
  template <class Op> void decode(const Op& op, int threads = 1) {
    attention::decode(cpu{.threads = threads}, op, q, k, v, out, lse);
  }
};

template <class T> struct attention_gradients : attention_inputs<T> {
  tensor<T, 4> dout, dq, dk, dv;

  template <class Op>
  attention_gradients(const Op& op, index_t heads, index_t len, index_t dim)
      : attention_inputs<T>(heads, heads, len, len, dim),
        dout(1, heads, len, dim),
        dq(1, heads, len, dim),
        dk(1, heads, len, dim),
        dv(1, heads, len, dim) {
    fill_random(dout, 4);
    this->forward(op);
  }

  template <class Op> void backward(const Op& op, int threads = 1) {
    attention::backward(cpu{.threads = threads}, op, this->q, this->k, this->v, this->out, this->lse, dout,
                        attention::gradients{}.dq(dq).dk(dk).dv(dv));
  }
};

/// Pairs that a mask lets see each other, in one head.
template <class Mask> double visible_pairs(const Mask& mask, index_t q_len, index_t k_len) {
  const auto bound = mask::bind(mask, 0, 0);
  double pairs = 0;
  for (index_t i = 0; i < q_len; ++i) {
    if constexpr (mask::one_range_per_row<decltype(bound)>) {
      pairs += static_cast<double>(intersect(bound.visible_keys(i), range{0, k_len}).size());
    } else {
      for (index_t j = 0; j < k_len; ++j) pairs += bound(i, j) ? 1 : 0;
    }
  }
  return pairs;
}

/// How the tiles of a forward pass are classified.
template <class Mask> mask::tile_counts tiles_of(const Mask& mask, index_t q_len, index_t k_len) {
  constexpr auto policy = attention::default_policy::choose<arch::native_isa>();
  return mask::count_tiles(mask::bind(mask, 0, 0), q_len, k_len, policy.q_tile, policy.k_tile);
}

/// Flop of one pair and head: two products forward, five backward (the logits are made again).
inline double forward_flop(index_t dim) { return 4.0 * static_cast<double>(dim); }
inline double backward_flop(index_t dim) { return 10.0 * static_cast<double>(dim); }

/// The arithmetic roof of an element type, one thread.
template <class T> double compute_roof() { return std::is_same_v<T, bfloat16> ? bfloat16_roof() : fma_roof(); }

/// Counters of a benchmark whose call does `flop` operations in `seconds`.
template <class T> void report_flop(benchmark::State& state, double flop, double seconds) {
  state.counters["GFLOP/s"] = flop / seconds * 1e-9;
  state.counters["share_of_roof"] = flop / seconds / compute_roof<T>();
}

/// The loop of a benchmark; seconds of one call.
template <class Body> double seconds_per_call(benchmark::State& state, const Body& body) {
  body();  // warm up: first touch of scratch and outputs
  const stopwatch watch;
  for (auto _ : state) body();
  return watch.seconds() / static_cast<double>(state.iterations());
}

/// A benchmark that is one duel: its time is the median of the body, `counter` the ratio to the base. Such a benchmark is
/// registered with duel_settings, which gives it one iteration.
template <class Body, class Base>
duel_result run_duel(benchmark::State& state, const char* counter, const Body& body, const Base& base) {
  duel_result result{};
  for (auto _ : state) {
    result = duel(body, base);
    state.SetIterationTime(result.seconds);
  }
  state.counters[counter] = result.ratio;
  return result;
}
inline void duel_settings(benchmark::internal::Benchmark* b) {
  b->Unit(benchmark::kMicrosecond)->UseManualTime()->Iterations(1);
}

}  // namespace seqprim::bench
