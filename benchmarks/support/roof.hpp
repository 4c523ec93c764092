// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/tile.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/tensor.hpp>

#include <chrono>
#include <cstring>

/// The limits of the machine a benchmark runs on, measured in the same process, so that results can be told as shares.
namespace seqprim::bench {

/// Best of a few runs of body(), in seconds.
template <class Body> double fastest(int repetitions, const Body& body) {
  double best = 1e30;
  for (int i = 0; i < repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    body();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = seconds < best ? seconds : best;
  }
  return best;
}

/// Fused multiply-adds per second of one thread, in flop/s: independent chains that never leave the registers.
inline double fma_roof() {
  static const double roof = [] {
    using v = arch::simd<arch::native_isa, float>;
    constexpr int chains = 10;  // latency 4, two units: 8 hide it; fits the 16 registers of AVX2
    constexpr long rounds = 2'000'000;
    const auto a = v::set(0.999999f), b = v::set(1e-6f);
    const double seconds = fastest(7, [a, b] {
      volatile float opaque = 1.0f;  // read anew, so no chain equals another and no run equals the last
      v::reg sum[chains];
      for (auto& x : sum) x = v::set(opaque);
      for (long i = 0; i < rounds; ++i) arch::unrolled<chains>([&](auto j) { sum[j] = v::fma(sum[j], a, b); });
      for (auto& x : sum) {
        float out[v::lanes];
        v::store(out, x);
        asm volatile("" : : "r"(out) : "memory");
      }
    });
    return 2.0 * chains * v::lanes * static_cast<double>(rounds) / seconds;
  }();
  return roof;
}

/// Bytes per second that one thread reads from memory (256 MiB, four streams of registers).
inline double read_roof() {
  static const double roof = [] {
    using v = arch::simd<arch::native_isa, float>;
    tensor<float, 1> data(index_t{64} << 20);
    data.fill(1.0f);
    float sink = 0;
    const double seconds = fastest(5, [&] {
      v::reg sum[4] = {v::zero(), v::zero(), v::zero(), v::zero()};
      for (index_t i = 0; i + 4 * v::lanes <= data.size(); i += 4 * v::lanes)
        arch::unrolled<4>([&](auto j) { sum[j] = v::add(sum[j], v::load(data.data() + i + j * v::lanes)); });
      sink += v::sum(v::add(v::add(sum[0], sum[1]), v::add(sum[2], sum[3])));
    });
    asm volatile("" : : "r"(&sink) : "memory");
    return static_cast<double>(data.size()) * 4 / seconds;
  }();
  return roof;
}

}  // namespace seqprim::bench
