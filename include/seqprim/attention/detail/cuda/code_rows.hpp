// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/cuda/fragment.hpp>
#include <seqprim/core/index.hpp>

#include <concepts>
#include <cstdint>

/// Rows of a quantized cache on their way to a tile in shared memory.
namespace seqprim::attention::detail {

/// One row: int8 values and their scales, one for each `block` channels.
struct code_row {
  const std::int8_t* codes;
  const float* scales;
  std::uint32_t block;
  index_t scale_step;  ///< from one scale to the next
};

template <class Source> concept holds_codes = requires(const Source& s, index_t j) {
  { s.row(j) } -> std::same_as<code_row>;
};

/// Writes rows [first, first + Rows) to a swizzled tile as code * scale, rounded to T. Rows from `end` on and channels from `dim` on
/// become zero and are not read. `aligned`: rows start at multiples of 16 bytes, and dim is a multiple of 16. Visible to the block
/// after its next barrier; all lanes together.
template <class Shape, int Rows, class Layout, class Engine, class T, class Source>
SEQPRIM_HD void copy_codes(const Engine& engine, T* tile, const Source& source, index_t first, index_t end, int dim,
                           bool aligned) noexcept {
  struct alignas(16) words {
    std::uint32_t word[4];
  };
  // A lane converts 16 channels at once, which have one scale, and has the loads of up to four such units on their way.
  constexpr int units = Layout::width / 16, count = Rows * units;
  constexpr int per_lane = (count + Shape::lanes - 1) / Shape::lanes, batch = per_lane < 4 ? per_lane : 4;
  const int thread = engine.warp() * arch::cuda::warp_lanes + engine.lane();
  const int left = static_cast<int>(min<index_t>(max<index_t>(end - first, 0), Rows));  // rows that exist
  SEQPRIM_ROLLED
  for (int begin = thread; begin < count; begin += batch * Shape::lanes) {
    words codes[batch];
    float scale[batch];
    SEQPRIM_UNROLL
    for (int n = 0; n < batch; ++n) {
      const int id = begin + n * Shape::lanes, r = id / units, c = id % units * 16;
      codes[n] = {};
      scale[n] = 0;
      if (id >= count || r >= left || c >= dim) continue;
      const code_row from = source.row(first + r);
      scale[n] = from.scales[static_cast<std::uint32_t>(c) / from.block * from.scale_step];
      if (aligned) {
        codes[n] = *reinterpret_cast<const words*>(from.codes + c);
      } else {
        SEQPRIM_UNROLL
        for (int d = 0; d < 16; ++d)
          if (c + d < dim)
            codes[n].word[d / 4] |= std::uint32_t{static_cast<std::uint8_t>(from.codes[c + d])} << d % 4 * 8;
      }
    }
    SEQPRIM_UNROLL
    for (int n = 0; n < batch; ++n) {
      const int id = begin + n * Shape::lanes, r = id / units, c = id % units * 16;
      if (id >= count) continue;
      // Zero where there is no channel, whatever the scale.
      const auto value = [&](int d) {
        const auto code = static_cast<std::int8_t>(codes[n].word[d / 4] >> d % 4 * 8);
        return c + d < dim ? static_cast<float>(code) * scale[n] : 0.0f;
      };
      SEQPRIM_UNROLL
      for (int half = 0; half < 2; ++half) {
        words packed;
        SEQPRIM_UNROLL
        for (int w = 0; w < 4; ++w)
          packed.word[w] = engine.template pack<T>(value(half * 8 + 2 * w), value(half * 8 + 2 * w + 1));
        engine.store(reinterpret_cast<words*>(tile + Layout::offset(r, c + half * 8)), packed);
      }
    }
  }
}

}  // namespace seqprim::attention::detail
