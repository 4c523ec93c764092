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
      typename v::reg sum[chains];
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

/// Flop per second of one thread in products of tiles, from tile registers that never leave the unit.
template <class Isa> double tile_roof() {
  static const double roof = [] {
    using unit = arch::tile_unit<Isa>;
    constexpr long rounds = 1'000'000;
    alignas(64) static float ones[16 * 16];
    for (float& x : ones) x = bit_cast<float>(0x3f803f80u);  // two bfloat16 ones
    const double seconds = fastest(7, [] {
      const arch::tile_session<Isa> session;
      arch::unrolled<4>([](auto i) { unit::template zero<i>(); });
      arch::unrolled<4>([](auto i) {
        constexpr int tile = 4 + i;
        unit::template load<tile>(ones, 16);
      });
      for (long i = 0; i < rounds; ++i) {
        unit::template add_products<0, 4, 6>();
        unit::template add_products<1, 4, 7>();
        unit::template add_products<2, 5, 6>();
        unit::template add_products<3, 5, 7>();
      }
    });
    return 4.0 * (2 * 16 * 16 * 32) * static_cast<double>(rounds) / seconds;
  }();
  return roof;
}

/// Flop per second of one thread in bfloat16: products of tiles where they are granted, else of pairs; the fma roof where the
/// processor has neither.
template <class Isa = arch::native_isa> double bfloat16_roof() {
  if constexpr (arch::tile_unit<Isa>::available) {
    if (arch::runs_here<Isa>()) return tile_roof<Isa>();
  }
  if constexpr (arch::pair_products<Isa>::available) {
    static const double roof = [] {
      using v = arch::simd<Isa, float>;
      using product = arch::pair_products<Isa>;
      constexpr int chains = 20;
      constexpr long rounds = 1'000'000;
      const double seconds = fastest(7, [] {
        volatile float opaque = 1.0f;
        volatile std::uint32_t bits = 0x00003f80u;
        const auto a = product::set({bits}), b = product::set({bits});
        typename v::reg sum[chains];
        for (auto& x : sum) x = v::set(opaque);
        for (long i = 0; i < rounds; ++i)
          arch::unrolled<chains>([&](auto j) { sum[j] = product::add_products(a, b, sum[j]); });
        for (auto& x : sum) {
          float out[v::lanes];
          v::store(out, x);
          asm volatile("" : : "r"(out) : "memory");
        }
      });
      return 4.0 * chains * v::lanes * static_cast<double>(rounds) / seconds;
    }();
    return roof;
  } else {
    return fma_roof();
  }
}

/// What bfloat16_roof() is the roof of, in words.
template <class Isa = arch::native_isa> [[nodiscard]] const char* bfloat16_roof_name() noexcept {
  if (arch::tile_unit<Isa>::available && arch::runs_here<Isa>()) return "AMX tiles";
  return arch::pair_products<Isa>::available ? "products of bfloat16 pairs, no AMX here" : "fma in float, no AMX here";
}

/// Bytes per second that one thread reads from memory: the best of one and four streams through 256 MiB.
inline double read_roof() {
  static const double roof = [] {
    using v = arch::simd<arch::native_isa, float>;
    tensor<float, 1> data(index_t{64} << 20);
    data.fill(1.0f);
    const auto seconds = [&](index_t streams) {
      const index_t length = data.size() / streams;
      return fastest(5, [&] {
        v::reg sum[4] = {v::zero(), v::zero(), v::zero(), v::zero()};
        for (index_t i = 0; i + 4 * v::lanes <= length; i += 4 * v::lanes)
          for (index_t s = 0; s < streams; ++s) {
            const float* const from = data.data() + s * length + i;
            arch::unrolled<4>([&](auto j) { sum[j] = v::add(sum[j], v::load(from + j * v::lanes)); });
          }
        float out[v::lanes];
        v::store(out, v::add(v::add(sum[0], sum[1]), v::add(sum[2], sum[3])));
        asm volatile("" : : "r"(out) : "memory");
      });
    };
    return static_cast<double>(data.size()) * 4 / min(seconds(1), seconds(4));
  }();
  return roof;
}

}  // namespace seqprim::bench
