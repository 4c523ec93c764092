// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/tile_unit.hpp>

#include <cstring>
#include <stdexcept>

namespace seqprim::test {

/// avx512_bf16 with matrix registers made of memory: shows that the code around tile products is right on processors that have
/// none, and can be refused like the real ones.
struct emulated_tiles {
  static constexpr const char* name = "emulated_tiles";
  static constexpr int registers = 32;
};
inline bool tiles_are_refused = false;

}  // namespace seqprim::test

namespace seqprim::arch {

template <> inline constexpr bool compiled_for<test::emulated_tiles> = true;
template <> inline const char* unsupported_reason<test::emulated_tiles>() noexcept {
  return test::tiles_are_refused ? "the test refuses" : nullptr;
}
template <> struct simd<test::emulated_tiles, float> : simd<avx512, float> {};
template <> struct pair_products<test::emulated_tiles> : avx512_pair_products<test::emulated_tiles> {};

template <> struct tile_unit<test::emulated_tiles> {
  static constexpr bool available = true;
  using otherwise = avx512_bf16;

  static inline thread_local bool on = false;
  static inline thread_local unsigned char tiles[8][16][64];
  static inline thread_local long products = 0;

  static void begin() noexcept { on = true; }
  static void end() noexcept { on = false; }
  static void require_on() noexcept {
    if (!on) std::terminate();  // a tile instruction without configuration is a fault on the processor too
  }
  template <int Tile> static void zero() noexcept {
    static_assert(0 <= Tile && Tile < 8);
    require_on();
    std::memset(tiles[Tile], 0, sizeof tiles[Tile]);
  }
  template <int Tile, class X> static void load(const X* rows, index_t row) noexcept {
    require_on();
    for (index_t i = 0; i < 16; ++i)
      std::memcpy(tiles[Tile][i], reinterpret_cast<const unsigned char*>(rows) + i * row * index_t{sizeof(X)}, 64);
  }
  template <int Tile> static void store(float* rows, index_t row) noexcept {
    require_on();
    for (index_t i = 0; i < 16; ++i) std::memcpy(rows + i * row, tiles[Tile][i], 64);
  }
  template <int Sum, int A, int B> static void add_products() noexcept {
    static_assert(Sum != A && Sum != B && A != B);
    require_on();
    ++products;
    const auto number = [](const unsigned char* at) {
      std::uint16_t bits;
      std::memcpy(&bits, at, 2);
      return static_cast<float>(bfloat16::from_bits(bits));
    };
    for (int m = 0; m < 16; ++m)
      for (int n = 0; n < 16; ++n) {
        float sum;
        std::memcpy(&sum, tiles[Sum][m] + 4 * n, 4);
        for (int k = 0; k < 16; ++k) {
          sum += number(tiles[A][m] + 4 * k) * number(tiles[B][k] + 4 * n);
          sum += number(tiles[A][m] + 4 * k + 2) * number(tiles[B][k] + 4 * n + 2);
        }
        std::memcpy(tiles[Sum][m] + 4 * n, &sum, 4);
      }
  }
};

}  // namespace seqprim::arch
