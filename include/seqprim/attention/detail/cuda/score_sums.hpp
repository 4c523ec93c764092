// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/cuda/fragment.hpp>
#include <seqprim/attention/detail/score_gradients.hpp>
#include <seqprim/core/bits.hpp>
#include <seqprim/core/index.hpp>
#include <seqprim/score/rule.hpp>

#include <cstdint>

/// Gradients of what a score learns, on CUDA. They are sums over pairs of which many warps compute a part:
///
///     dscore, dtable   every warp of the pass over the queries has sums in double of its own, in the workspace; a second kernel adds
///                      those of a head in the order of the warps
///     drow             the warp that owns the row of dq owns this one too
///
/// No sum depends on which warp runs first. The rows of a head are dealt to a number of blocks that follows from the sizes of the
/// call alone, so that memory is bounded and results repeat.
namespace seqprim::attention::detail {

/// Kernels without such gradients.
struct nothing_learned {
  static constexpr bool any = false;
};

/// What kernels with such gradients are given.
template <int Parameters, bool Table, bool Rows> struct learned_operands {
  static constexpr int parameters = Parameters;
  static constexpr bool table = Table, rows = Rows, any = true;

  score_gradients<float, Parameters, Table, Rows> to;
  double* sums;   ///< [heads, warps, width]
  index_t parts;  ///< blocks that share the rows of one head
  index_t warps;  ///< of these blocks
  index_t width;  ///< parameters, then entries of the table
};

/// Whether a pass has the gradient of a table to sum.
template <class Learned> inline constexpr bool tabulates = false;
template <int Parameters, bool Rows> inline constexpr bool tabulates<learned_operands<Parameters, true, Rows>> = true;

/// The largest number of warps in a block that sums.
inline constexpr int most_summing_warps = 16;

/// How many warps sum for one head at most: enough to fill a device, in 64 MiB unless the heads and their tables alone take more. `rows`
/// counts all batch rows.
[[nodiscard]] constexpr index_t summing_warps(index_t heads, index_t rows, index_t width) noexcept {
  constexpr index_t warps = 4096, doubles = index_t{1} << 23;
  if (heads == 0) return 0;
  const index_t fitting = width > 0 ? doubles / width / heads : warps;
  return max(index_t{most_summing_warps}, min(min(warps / heads, fitting), ceil_div(rows, index_t{16})));
}

/// What learned_in makes for gradients of type To.
template <class To> struct learned_type { using type = nothing_learned; };
template <int Parameters, bool Table, bool Rows>
requires(Parameters > 0 || Table || Rows) struct learned_type<score_gradients<float, Parameters, Table, Rows>> {
  using type = learned_operands<Parameters, Table, Rows>;
};
template <class To> using learned_by = typename learned_type<To>::type;

/// Operands of a pass whose blocks have `block_warps` warps and own tiles of `tile` rows.
template <class To>
[[nodiscard]] learned_by<To> learned_in(const To& to, double* sums, const problem& p, int block_warps, index_t tile) {
  if constexpr (To::any) {
    const index_t width = To::parameters + to.dtable.extent(1);
    const index_t parts = min(p.batch * ceil_div(p.q_len, tile),
                              max(index_t{1}, summing_warps(p.heads, p.batch * p.q_len, width) / block_warps));
    return {to, sums, parts, parts * block_warps, width};
  } else {
    return {};
  }
}

/// Blocks of the pass over the queries.
template <class Learned>
[[nodiscard]] index_t query_blocks(const problem& p, const Learned& learned, index_t tile) noexcept {
  if constexpr (Learned::any) {
    return p.heads * learned.parts;
  } else {
    return p.batch * p.heads * ceil_div(p.q_len, tile);
  }
}

/// The sum over a warp, in a fixed order, in every lane.
template <class Engine> [[nodiscard]] SEQPRIM_HD double sum_over_lanes(const Engine& engine, double x) {
  struct halves {
    float low, high;
  };
  SEQPRIM_UNROLL
  for (int mask = 1; mask < arch::cuda::warp_lanes; mask *= 2) {
    const auto mine = bit_cast<halves>(x);
    x += bit_cast<double>(halves{engine.shuffle_xor(mine.low, mask), engine.shuffle_xor(mine.high, mask)});
  }
  return x;
}

/// Sums of terms for one entry of a table that come one after the other.
struct entry_run {
  int entry = -1;
  float sum = 0;
};

/// Room in shared memory for the terms of eight rows of `Step` keys, and for which pairs each lane has.
template <int Step> inline constexpr int staged_floats = 8 * Step + arch::cuda::warp_lanes;

/// What one warp sums for its head.
template <class Learned> class warp_sums {
 public:
  static constexpr bool any = true, table = Learned::table, rows = Learned::rows;

  /// `warp` counts those of the head. All lanes together; a barrier of the warp or the block follows before the first term.
  template <class Engine>
  SEQPRIM_HD warp_sums(const Engine& engine, const Learned& in, index_t head, index_t warp)
      : sums_(in.sums + (head * in.warps + warp) * in.width) {
    SEQPRIM_ROLLED
    for (index_t i = engine.lane(); i < in.width; i += arch::cuda::warp_lanes) engine.store_global(sums_ + i, 0.0);
  }

  /// One visible pair: `raw` is its logit before the score, `gradient` that of the logit after it. Returns what it adds to its entry of
  /// the table.
  template <class Score>
  [[nodiscard]] SEQPRIM_HD float add_pair(const Score& score, float raw, float gradient, score::site at,
                                          float& of_row) {
    add_parameters<0>(score, raw, gradient, at);
    if constexpr (rows) of_row += gradient * static_cast<float>(score.row_derivative(raw, at));
    if constexpr (table) {
      return gradient * static_cast<float>(score.table_derivative(raw, at));
    } else {
      return 0;
    }
  }
  /// Between few pairs and the next few: sums over these are float, sums of sums double.
  SEQPRIM_HD void end_step() {
    SEQPRIM_UNROLL
    for (int n = 0; n < Learned::parameters; ++n) {
      of_parameter_[n] += static_cast<double>(of_step_[n]);
      of_step_[n] = 0;
    }
  }

  /// Terms of a tile [16 * Fragments, Step] in the registers of a product, of pairs that `visible` names; `staged` is room for
  /// staged_floats<Step> of this warp alone.
  ///
  /// Eight rows at a time pass through shared memory, so that a lane can go down a column, or a diagonal where the entries follow the
  /// distance of key and query: there it meets one entry after the other, most often the same.
  template <int Fragments, int Step, class Engine, class Score>
  SEQPRIM_HD void add_tile(const Engine& engine, const Score& score, const float (&terms)[Fragments][Step / 8][4],
                           std::uint32_t visible, index_t first_row, index_t first_column, float* staged) {
    const int lane = engine.lane();
    auto* const seen = reinterpret_cast<std::uint32_t*>(staged + 8 * Step);
    engine.store(seen + lane, visible);
    const auto at = arch::cuda::accumulator_coordinates(lane, 0);
    const score::site corner{first_row + at.row, first_column + at.column};
    const bool both =
        (visible & 1u) != 0 && (visible >> 6 & 1u) != 0;  // this pair, and that 8 below and 8 to the right
    const bool alike = both && score.table_index(corner) == score.table_index({corner.q + 8, corner.k + 8});
    const bool slanted = engine.any(both) && !engine.any(both && !alike);
    entry_run runs[2];
    SEQPRIM_UNROLL
    for (int m = 0; m < Fragments; ++m) SEQPRIM_UNROLL
    for (int half = 0; half < 2; ++half) {
      SEQPRIM_UNROLL
      for (int n = 0; n < Step / 8; ++n) SEQPRIM_UNROLL
      for (int e = 0; e < 2; ++e)
        engine.store(staged + at.row * Step + n * 8 + at.column + e, terms[m][n][half * 2 + e]);
      engine.sync_warp();
      const int row = m * 16 + half * 8, bit = m * (Step / 2) + half * 2;
      const score::site first{first_row + row, first_column};
      walk_rows<Step>(engine, score, first, lane + (slanted ? row : 0), slanted, staged, seen, bit, runs[0]);
      if (slanted)
        walk_rows<Step>(engine, score, first, lane + row - arch::cuda::warp_lanes, true, staged, seen, bit, runs[1]);
      engine.sync_warp();
    }
    add_run(engine, runs[0]);
    if (slanted) add_run(engine, runs[1]);
  }

  /// A term for an entry of each lane's choice, < 0 for none. All lanes together.
  template <class Engine>
  SEQPRIM_HD void add_term(const Engine& engine, index_t entry_index, float term, entry_run& run) {
    const int entry = static_cast<int>(entry_index);
    const bool moves = entry >= 0 && entry != run.entry;
    if (engine.any(moves && run.entry >= 0)) add_run(engine, moves ? run : entry_run{});
    if (moves) run = {entry, 0};
    if (entry >= 0) run.sum += term;
  }
  /// The run of each lane goes to its entry; lanes with one entry add in their order. All lanes together.
  template <class Engine> SEQPRIM_HD void add_run(const Engine& engine, const entry_run& run) {
    const std::uint32_t peers = engine.matching(static_cast<std::uint32_t>(run.entry));
    double sum = static_cast<double>(run.sum);
    if (engine.any(run.entry >= 0 && (peers & (peers - 1)) != 0)) {
      sum = 0;
      SEQPRIM_ROLLED
      for (int n = 0; n < arch::cuda::warp_lanes; ++n) {
        const float other = engine.shuffle(run.sum, n);
        if (peers >> n & 1u) sum += static_cast<double>(other);
      }
    }
    const bool first = (peers & ((1u << engine.lane()) - 1)) == 0;
    if (run.entry >= 0 && first) {
      double* const to = sums_ + Learned::parameters + run.entry;
      engine.store_global(to, *to + sum);
    }
    engine.sync_warp();
  }

  /// All lanes together, once.
  template <class Engine> SEQPRIM_HD void finish(const Engine& engine) const {
    SEQPRIM_UNROLL
    for (int n = 0; n < Learned::parameters; ++n) {
      const double sum = sum_over_lanes(engine, of_parameter_[n]);
      if (engine.lane() == 0) engine.store_global(sums_ + n, sum);
    }
  }

 private:
  static constexpr int slots = Learned::parameters > 0 ? Learned::parameters : 1;

  template <int N, class Score>
  SEQPRIM_HD void add_parameters(const Score& score, float raw, float gradient, score::site at) {
    if constexpr (N < Learned::parameters) {
      of_step_[N] += gradient * static_cast<float>(score.template parameter_derivative<N>(raw, at));
      add_parameters<N + 1>(score, raw, gradient, at);
    }
  }

  template <int Step, class Engine, class Score>
  SEQPRIM_HD void walk_rows(const Engine& engine, const Score& score, score::site first, int column, bool slanted,
                            const float* staged, const std::uint32_t* seen, int bit, entry_run& run) {
    SEQPRIM_ROLLED
    for (int row = 0; row < 8; ++row, column += slanted ? 1 : 0) {
      index_t entry = -1;
      float term = 0;
      if (0 <= column && column < Step &&
          (engine.load(seen + row * 4 + column % 8 / 2) >> (bit + column / 8 * 4 + column % 2) & 1u)) {
        entry = score.table_index({first.q + row, first.k + column});
        term = engine.load(staged + row * Step + column);
      }
      add_term(engine, entry, term, run);
    }
  }

  double* sums_;
  float of_step_[slots] = {};
  double of_parameter_[slots] = {};
};

/// The second kernel: element `n` of [heads, width].
template <class Learned> SEQPRIM_HD void join_score_sums(const Learned& in, index_t n) {
  const index_t h = n / in.width, i = n % in.width;
  double sum = 0;
  for (index_t warp = 0; warp < in.warps; ++warp) sum += in.sums[(h * in.warps + warp) * in.width + i];
  if constexpr (Learned::parameters > 0)
    if (i < Learned::parameters) in.to.dscore(h, i) = static_cast<float>(sum);
  if constexpr (Learned::table)
    if (i >= Learned::parameters) in.to.dtable(h, i - Learned::parameters) = static_cast<float>(sum);
}

}  // namespace seqprim::attention::detail
