// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/cuda/fragment.hpp>
#include <seqprim/core/bits.hpp>
#include <seqprim/mask/rule.hpp>

#include <cstdint>

namespace seqprim::attention::detail {

/// One tile of a walk, in one register: twice its number, and 1 where it is full; else it is partial. Behind the last tile the number
/// is that of the tiles.
class tile_step {
 public:
  tile_step() = default;
  SEQPRIM_HD tile_step(int tile, bool full) noexcept : code_(2 * tile + (full ? 1 : 0)) {}
  [[nodiscard]] SEQPRIM_HD int tile() const noexcept { return code_ >> 1; }
  [[nodiscard]] SEQPRIM_HD mask::tile_kind kind() const noexcept {
    return code_ & 1 ? mask::tile_kind::full : mask::tile_kind::partial;
  }

 private:
  int code_;
};

/// A walk over the tiles [0, tiles) that are not empty, in order. A warp classifies 32 of them at a time, one in each lane, and
/// remembers what it found in two words: the cost of a tile that is skipped is that of a bit.
class tile_list {
 public:
  SEQPRIM_HD explicit tile_list(int tiles) noexcept : tiles_(tiles) {}

  /// The next tile that is not empty by classify(tile). All lanes of a warp together, with the same answers.
  template <class Engine, class Classify>
  [[nodiscard]] SEQPRIM_HD tile_step next(const Engine& engine, const Classify& classify) noexcept {
    while (visible_ == 0) {
      if (classified_ >= tiles_) return {tiles_, false};
      const int tile = classified_ + engine.lane();
      const mask::tile_kind kind = tile < tiles_ ? classify(tile) : mask::tile_kind::empty;
      visible_ = engine.ballot(kind != mask::tile_kind::empty);
      full_ = engine.ballot(kind == mask::tile_kind::full);
      classified_ += arch::cuda::warp_lanes;
    }
    const int bit = lowest_bit(visible_);
    visible_ &= visible_ - 1;
    return {classified_ - arch::cuda::warp_lanes + bit, (full_ >> bit & 1) != 0};
  }

 private:
  int tiles_, classified_ = 0;
  std::uint32_t visible_ = 0;  ///< of the tiles classified last: those not empty and not yet visited
  std::uint32_t full_ = 0;
};

}  // namespace seqprim::attention::detail
