// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/isa.hpp>
#include <seqprim/core/index.hpp>

namespace seqprim::attention {

/// Tile sizes of the CPU kernels. They change speed and the order of rounding, never meaning.
struct tile_policy {
  int q_tile = 64;         ///< query rows that one task owns; a multiple of 64
  int k_tile = 128;        ///< keys of one step of the online softmax; with AMX rounded up to a multiple of 32
  int split_keys = 1024;   ///< decode: keys of one task, fixed so that bits depend on neither batch nor threads
  int row_block = 16;      ///< forward: rows are computed in blocks of so many
  int tile_cost = 512;     ///< forward: what a tile of rows costs beside its pairs, in pairs
  int backward_keys = 64;  ///< backward: keys that one task owns; a multiple of 64
  int backward_rows = 64;  ///< backward: query rows of one step
};

/// The default choice; pass a type of your own as the second template argument of an entry point to override it.
///
/// Evidence  benchmarks/attention_bench. 64 queries fill one register block of AVX-512 (4 x 16) or four of AVX2; the
///           tile of logits of 128 keys (32 KiB) stays in the first-level cache of current processors (48 KiB).
///           Backward holds several tiles at once, and square ones waste least where a mask cuts them.
struct default_policy {
  template <class Isa> static constexpr tile_policy choose() noexcept { return {}; }
};

}  // namespace seqprim::attention
