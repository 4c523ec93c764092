// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/config.hpp>

/// Coordinates of matrix elements in the registers of a warp and in shared memory: the arithmetic of mma.sync.m16n8k16, ldmatrix
/// and swizzled tiles, as constant expressions that a host test can check. Page: docs/reference/arch/cuda.md
namespace seqprim::arch::cuda {

inline constexpr int warp_lanes = 32;

/// Coordinates of one element inside a fragment or tile.
struct coordinates {
  int row = 0;
  int column = 0;
  friend constexpr bool operator==(const coordinates&, const coordinates&) = default;
};

/// One mma.sync: c[16, 8] += a[16, 16] b[16, 8].
inline constexpr int mma_rows = 16, mma_columns = 8, mma_depth = 16;

/// c: element `element` (0..3) of lane `lane` is c[row, column]. A lane holds two neighbors of row lane / 4 and two of the row 8
/// below: four lanes (a quad) share a row.
[[nodiscard]] SEQPRIM_HD constexpr coordinates accumulator_coordinates(int lane, int element) noexcept {
  return {lane / 4 + element / 2 * 8, lane % 4 * 2 + element % 2};
}
/// a: element `element` (0..7; register element / 2, lower half first) of lane `lane` is a[row, column].
[[nodiscard]] SEQPRIM_HD constexpr coordinates left_coordinates(int lane, int element) noexcept {
  return {lane / 4 + element / 2 % 2 * 8, lane % 4 * 2 + element % 2 + element / 4 * 8};
}
/// b: element `element` (0..3) of lane `lane` is b[row, column].
[[nodiscard]] SEQPRIM_HD constexpr coordinates right_coordinates(int lane, int element) noexcept {
  return {lane % 4 * 2 + element % 2 + element / 2 * 8, lane / 4};
}
/// Two accumulators side by side, rounded to 16 bits, are the left operand of the next product: register `r` of a[16, 16] holds
/// elements 2 (r % 2) and 2 (r % 2) + 1 of accumulator r / 2. So weights never leave their registers.
[[nodiscard]] SEQPRIM_HD constexpr coordinates accumulator_of_left_register(int r) noexcept {
  return {r / 2, r % 2 * 2};
}

/// One ldmatrix.x4 reads four 8 x 8 matrices; lane `lane` addresses row lane % 8 of matrix lane / 8 and receives in register m the
/// elements (lane / 4, lane % 4 * 2) and the next one of matrix m; .trans exchanges row and column there. Below: the row and first
/// column that a lane addresses, so that the registers are operands.
///
/// a[16, 16] from memory [row, depth].
[[nodiscard]] SEQPRIM_HD constexpr coordinates left_address(int lane) noexcept { return {lane % 16, lane / 16 * 8}; }
/// Two b[16, 8] side by side from memory [column, depth] (keys as rows): registers 0, 1 and 2, 3.
[[nodiscard]] SEQPRIM_HD constexpr coordinates right_address(int lane) noexcept {
  return {lane % 8 + lane / 16 * 8, lane / 8 % 2 * 8};
}
/// Two b[16, 8] side by side from memory [depth, column] (values as rows), with .trans: registers 0, 1 and 2, 3.
[[nodiscard]] SEQPRIM_HD constexpr coordinates right_transposed_address(int lane) noexcept {
  return {lane % 16, lane / 16 * 8};
}
/// a[16, 16] from memory [depth, row], with .trans.
[[nodiscard]] SEQPRIM_HD constexpr coordinates left_transposed_address(int lane) noexcept {
  return {lane % 8 + lane / 16 * 8, lane / 8 % 2 * 8};
}

/// A tile [rows, Width] of 16-bit elements in shared memory, dense, in chunks of 8 elements (16 bytes). Chunks of a row are
/// permuted so that the eight rows of an 8 x 8 matrix are in eight different groups of four banks: neither ldmatrix nor 16-byte
/// copies conflict. Rows of a multiple of 128 bytes all start in one bank: eight orders. Rows of an odd multiple of 64 bytes start
/// in two: four orders. Width is a multiple of 32.
template <int Width> struct swizzled {
  static_assert(Width % 32 == 0, "seqprim: a tile in shared memory has rows of a multiple of 32 elements");
  static constexpr int width = Width;
  static constexpr int chunks = Width / 8;  ///< of a row

  /// Offset of element (row, column), in elements.
  [[nodiscard]] SEQPRIM_HD static constexpr int offset(int row, int column) noexcept {
    return (row * chunks + chunk(row, column / 8)) * 8 + column % 8;
  }
  /// The position of chunk `c` in its row.
  [[nodiscard]] SEQPRIM_HD static constexpr int chunk(int row, int c) noexcept {
    return chunks % 8 == 0 ? c ^ (row & 7) : c ^ (row >> 1 & 3);
  }
  /// offset(row + rows, column + columns) from start = offset(row, column), for column < 16, rows a multiple of 8 and columns of
  /// 16. With constants for both, a lane needs few different addresses; the rest goes into the instructions.
  [[nodiscard]] SEQPRIM_HD static constexpr int moved(int start, int rows, int columns) noexcept {
    constexpr int period = chunks % 8 == 0 ? 64 : 32;  // elements that the order permutes
    return (start ^ columns % period) + (columns / period * period + rows * width);
  }
};

}  // namespace seqprim::arch::cuda
