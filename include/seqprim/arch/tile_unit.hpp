// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/matrix_ref.hpp>
#include <seqprim/arch/simd.hpp>
#include <seqprim/arch/unrolled.hpp>

#include <type_traits>

namespace seqprim::arch {

/// Matrix registers, where the instruction set has them: eight tiles of 16 rows of 64 bytes. The primary template is that of
/// instruction sets without them.
///
/// `otherwise` is the instruction set to fall back to where they are unsupported (runs_here<Isa>() reports it).
///
/// begin() makes them usable in the calling thread, end() releases them; in between: zero<tile>(), load<tile>(rows, row),
/// store<tile>(rows, row) with `row` elements from row to row, and add_products<sum, a, b>(): 16 x 16 floats += 16 rows of 16
/// bfloat16 pairs x 16 pairs of 16 columns. Tests emulate one with the same members.
template <class Isa> struct tile_unit { static constexpr bool available = false; };

/// Calls body(Isa{}), or body with the instruction set to fall back to where the matrix registers of Isa are unsupported.
template <class Isa, class Body> void with_supported_isa(const Body& body) {
  if constexpr (tile_unit<Isa>::available) {
    if (runs_here<Isa>()) {
      body(Isa{});
    } else {
      body(typename tile_unit<Isa>::otherwise{});
    }
  } else {
    body(Isa{});
  }
}

/// Edge of a tile: rows of each, columns of floats or pairs.
inline constexpr index_t tile_edge = 16;

/// Holds the tile registers of the calling thread while it lives: multiply_tiles needs one. Where the instruction set has no tiles
/// it is nothing.
template <class Isa> class tile_session {
 public:
  tile_session() noexcept {
    if constexpr (tile_unit<Isa>::available) tile_unit<Isa>::begin();
  }
  ~tile_session() {
    if constexpr (tile_unit<Isa>::available) tile_unit<Isa>::end();
  }
  tile_session(const tile_session&) = delete;
  tile_session& operator=(const tile_session&) = delete;
};

namespace detail {

/// (Rows x Columns tiles of c) (+)= a b: the sums stay in tile registers over the whole depth.
template <class Isa, bool Zero, int Rows, int Columns>
void multiply_tile_block(matrix_ref<float> c, matrix_ref<const bfloat16_pair> a, matrix_ref<const bfloat16_pair> b,
                         index_t depth) noexcept {
  using unit = tile_unit<Isa>;
  constexpr int first_a = 4, first_b = 6;
  const auto for_tiles = [&](const auto& body) {
    unrolled<Rows>([&](auto i) { unrolled<Columns>([&](auto j) { body(i, j); }); });
  };
  for_tiles([&](auto i, auto j) {
    constexpr int sum = i * Columns + j;
    if constexpr (Zero) {
      unit::template zero<sum>();
    } else {
      unit::template load<sum>(&c(i * tile_edge, j * tile_edge), c.ld);
    }
  });
  for (index_t k = 0; k < depth; k += tile_edge) {
    unrolled<Columns>([&](auto j) {
      constexpr int tile = first_b + j;
      unit::template load<tile>(&b(k, j * tile_edge), b.ld);
    });
    unrolled<Rows>([&](auto i) {
      constexpr int tile = first_a + i;
      unit::template load<tile>(&a(i * tile_edge, k), a.ld);
      unrolled<Columns>([&](auto j) {
        constexpr int sum = i * Columns + j, right = first_b + j;
        unit::template add_products<sum, tile, right>();
      });
    });
  }
  for_tiles([&](auto i, auto j) {
    constexpr int sum = i * Columns + j;
    unit::template store<sum>(&c(i * tile_edge, j * tile_edge), c.ld);
  });
}

}  // namespace detail

/// c = (Zero ? 0 : c) + a b, all of it in tiles: rows, columns and depth (in pairs) are multiples of 16.
///
/// Vector work between the products hides nothing: after each tile instruction 512-bit instructions run at half their rate for
/// some hundred nanoseconds (Xeon, family 6 model 207: 1024 independent fma take 185 ns alone, 310 ns after four tile products).
template <class Isa, bool Zero>
void multiply_tiles(matrix_ref<float> c, matrix_ref<const bfloat16_pair> a, matrix_ref<const bfloat16_pair> b,
                    product_shape shape) noexcept {
  constexpr index_t two = 2 * tile_edge;
  for (index_t i = 0; i < shape.rows; i += two) {
    for (index_t j = 0; j < shape.columns; j += two) {
      const auto block = [&](auto tall, auto wide) {
        detail::multiply_tile_block<Isa, Zero, tall, wide>(c.from(i, j), a.from(i), b.from(0, j), shape.depth);
      };
      constexpr std::integral_constant<int, 1> one_tile;
      constexpr std::integral_constant<int, 2> two_tiles;
      const bool tall = i + two <= shape.rows, wide = j + two <= shape.columns;
      if (tall && wide) {
        block(two_tiles, two_tiles);
      } else if (tall) {
        block(two_tiles, one_tile);
      } else if (wide) {
        block(one_tile, two_tiles);
      } else {
        block(one_tile, one_tile);
      }
    }
  }
}

/// out(j, i) = in(i, j) for 16 x 16 pairs.
template <class Isa> void transpose_pairs(matrix_ref<const bfloat16_pair> in, matrix_ref<bfloat16_pair> out) noexcept {
  using v = simd<Isa, float>;
  static_assert(v::lanes == tile_edge);
  typename v::reg block[v::lanes];
  unrolled<v::lanes>([&](auto i) { block[i] = v::load(reinterpret_cast<const float*>(in.row(i))); });
  v::transpose(block);
  unrolled<v::lanes>([&](auto i) { v::store(reinterpret_cast<float*>(out.row(i)), block[i]); });
}

}  // namespace seqprim::arch

#if SEQPRIM_ISA % 100 >= 4
#  include <seqprim/arch/amx.hpp>
#endif
