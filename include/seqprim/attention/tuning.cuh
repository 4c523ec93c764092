// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index.hpp>

namespace seqprim::attention {

/// Sizes of one block of a tensor-core kernel. They change speed and the order of rounding, never meaning.
struct block_policy {
  int q_tile = 128;  ///< query rows, 16 for each warp or group of warps that share keys
  int k_tile = 64;   ///< keys of one step of the online softmax
  int warps = 8;     ///< a multiple of q_tile / 16; more than that share the keys of each tile
  int stages = 2;    ///< tiles of keys and values in shared memory
};

/// The default choice, by engine, element type and dims (those of the kernel: 64, 96, 128, 192 x 128 or 256). Pass a type of your
/// own as the second template argument of an entry point, after the engine, to override it.
///
/// Evidence: none measured yet. Reasons: 128 rows halve the traffic of keys and values from the second-level cache against 64; the
/// rows, the sums and two stages fit 99 KiB, the limit per block of sm_86 and sm_89; no variable leaves its
/// register (nvcc 13, docs/gpu.md). A decoding block has 16 rows, so its four warps share the keys.
struct default_block_policy {
  template <class Engine, class T, int HeadDim, int ValueDim> static constexpr block_policy forward() noexcept {
    if (HeadDim > 192) return {.q_tile = 64, .k_tile = 32, .warps = 8};
    if (HeadDim > 128) return {.k_tile = 32};
    return {};
  }
  /// Decode, up to 16 rows (query heads that share a key head times queries).
  template <class Engine, class T, int HeadDim, int ValueDim> static constexpr block_policy decode() noexcept {
    return {.q_tile = 16, .k_tile = HeadDim > 192 ? 32 : 64, .warps = HeadDim > 192 ? 2 : 4};
  }
  /// Decode, more rows.
  template <class Engine, class T, int HeadDim, int ValueDim> static constexpr block_policy decode_rows() noexcept {
    return {.q_tile = 64, .k_tile = HeadDim > 128 ? 32 : 64, .warps = HeadDim > 192 ? 8 : 4};
  }
  /// Decode: keys of one block, of a sequence whose queries attend to keys [0, k_len). A multiple of k_tile, and not smaller for a
  /// longer sequence; it depends on nothing else, so that bits depend on neither batch, size of the page table nor device.
  /// Reason: short sequences are cut finely, so that a few of them fill a device; long ones coarsely, so that the merge stays cheap.
  SEQPRIM_HD static constexpr int split_keys(index_t k_len) noexcept {
    return k_len <= 4096 ? 128 : k_len <= 16384 ? 256 : 512;
  }
};

}  // namespace seqprim::attention
