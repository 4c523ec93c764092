// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/simd.hpp>
#include <seqprim/arch/tile_unit.hpp>

namespace seqprim::arch {

/// What amx_bf16 falls back to where the tile registers are unsupported: avx512_bf16 under a name of its own, because it is compiled
/// with other flags.
struct amx_bf16_unsupported {
  static constexpr const char* name = "avx512_bf16";
  static constexpr int registers = 32;
};

template <> inline constexpr bool compiled_for<amx_bf16_unsupported> = compiled_for<amx_bf16>;

template <> struct simd<amx_bf16, float> : simd<avx512, float> {};
template <> struct simd<amx_bf16_unsupported, float> : simd<avx512, float> {};
template <> struct pair_products<amx_bf16> : avx512_pair_products<amx_bf16> {};
template <> struct pair_products<amx_bf16_unsupported> : avx512_pair_products<amx_bf16_unsupported> {};
template <class X> struct woven_load<amx_bf16, X> : woven_load<avx512, X> {};
template <class X> struct woven_load<amx_bf16_unsupported, X> : woven_load<avx512, X> {};

/// The tile registers of AMX. Written as assembly with a memory clobber: the intrinsics of GCC 12 let stores to an operand
/// sink below the load of its tile.
template <> struct tile_unit<amx_bf16> {
  static constexpr bool available = true;
  using otherwise = amx_bf16_unsupported;

  [[gnu::always_inline]] static void begin() noexcept {
    // Palette 1; eight tiles of 16 rows of 64 bytes.
    struct alignas(64) {
      unsigned char palette = 1, start_row = 0, reserved[14] = {};
      unsigned short row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      unsigned char rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } const config;
    static_assert(sizeof(config) == 64);
    asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
  }
  [[gnu::always_inline]] static void end() noexcept { asm volatile("tilerelease" ::: "memory"); }

  template <int Tile> [[gnu::always_inline]] static void zero() noexcept {
    asm volatile("tilezero %%tmm%c0" ::"i"(Tile) : "memory");
  }
  template <int Tile, class X> [[gnu::always_inline]] static void load(const X* rows, index_t row) noexcept {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(row * index_t{sizeof(X)}), "i"(Tile) : "memory");
  }
  template <int Tile> [[gnu::always_inline]] static void store(float* rows, index_t row) noexcept {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(row * index_t{sizeof(float)}), "i"(Tile) : "memory");
  }
  /// sum += a b: 16 x 16 sums of 16 products of pairs.
  template <int Sum, int A, int B> [[gnu::always_inline]] static void add_products() noexcept {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(A), "i"(B) : "memory");
  }
};

}  // namespace seqprim::arch
