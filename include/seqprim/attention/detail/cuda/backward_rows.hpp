// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cuda/backward_block.hpp>
#include <seqprim/attention/detail/cuda/score_sums.hpp>
#include <seqprim/attention/detail/problem.hpp>

#include <cmath>
#include <type_traits>

/// Backward without tensor cores, one warp per row: for every element type and every dim. Slow. Block algorithms over an engine
/// (arch/cuda), as those on tensor cores.
namespace seqprim::attention::detail {

inline constexpr index_t largest_backward_dim = 512;
inline constexpr int backward_lanes = 32, backward_warps = 8;
inline constexpr int backward_chunks = 16;  ///< channels of a row that one lane owns: largest_backward_dim / 32

/// Operands of one launch. Learned: learned_operands where the score learns.
template <class Mask, class Score, class Q, class K, class V, class Dout, class Dq, class Dk, class Dv,
          class Learned = nothing_learned>
struct backward_rows_operands {
  Mask mask;
  Score score;
  problem sizes;
  float scale;
  tensor_view<const Q, 4> q;
  tensor_view<const K, 4> k;
  tensor_view<const V, 4> v;
  tensor_view<const Dout, 4> dout;
  const row_statistics* statistics;  ///< [batch, heads, q_len]
  tensor_view<Dq, 4> dq;
  tensor_view<Dk, 4> dk;
  tensor_view<Dv, 4> dv;
  Learned learned{};
};

/// One visible pair: its logit before the score, the gradient of that after it, its weight, and the gradient of scale * <q, k>.
struct pair_gradients {
  float raw = 0, of_score = 0, weight = 0, factor = 0;
};
/// From the vectors of one side in shared memory (a: query or key, c: dout or value) and of the other in global memory.
template <class Engine, class Score, class X, class Y>
[[nodiscard]] SEQPRIM_HD pair_gradients pair_gradient(const Engine& engine, const Score& score, float scale,
                                                      row_statistics row, score::site at, const float* a, const X* b,
                                                      index_t head_dim, const float* c, const Y* d, index_t value_dim) {
  float dot = 0, dp = 0;
  for (index_t n = 0; n < head_dim; ++n) dot = fmaf(engine.load(a + n), static_cast<float>(b[n]), dot);
  for (index_t n = 0; n < value_dim; ++n) dp = fmaf(engine.load(c + n), static_cast<float>(d[n]), dp);
  const float raw = scale * dot;
  const float weight = exp2f(static_cast<float>(score(raw, at)) * 1.4426950408889634f - row.lse);
  return {raw, weight * (dp - row.delta), weight,
          weight * static_cast<float>(score.derivative(raw, at)) * (dp - row.delta)};
}

/// dq of backward_warps rows from `first` on: a warp owns a query; each lane computes one key of 32, then owns the channels lane, lane +
/// 32, ... Shared memory: [warps, head_dim + value_dim].
template <class Engine, class Operands, class Sums>
SEQPRIM_HD void backward_query_row(const Engine& engine, const Operands& in, index_t b, index_t h, index_t first,
                                   float* shared, Sums& sums) {
  using Dq = typename decltype(Operands::dq)::value_type;
  const problem& p = in.sizes;
  const int lane = engine.lane();
  const index_t g = p.kv_head(h), i = first + engine.warp();
  const range rows{first, min<index_t>(first + backward_warps, p.q_len)};
  if (i >= rows.end) return;  // whole warps leave; the rest synchronizes within warps only
  const auto mask = mask::bind(in.mask, b, h);
  const auto score = score::bind(in.score, b, h);
  float* const query = shared + engine.warp() * (p.head_dim + p.value_dim);
  float* const gradient = query + p.head_dim;
  engine.sync_warp();  // the row before has been read
  for (index_t d = lane; d < p.head_dim; d += backward_lanes)
    engine.store(query + d, static_cast<float>(in.q(b, h, i, d)));
  for (index_t d = lane; d < p.value_dim; d += backward_lanes)
    engine.store(gradient + d, static_cast<float>(in.dout(b, h, i, d)));
  engine.sync_warp();
  const row_statistics row = in.statistics[(b * p.heads + h) * p.q_len + i];

  float acc[backward_chunks] = {};
  [[maybe_unused]] float of_row = 0;
  [[maybe_unused]] entry_run run;
  const range bounds = row.blank() ? range{} : mask::key_bounds(mask, rows, p.k_len);
  for (index_t j0 = bounds.begin / backward_lanes * backward_lanes; j0 < bounds.end; j0 += backward_lanes) {
    const range keys{j0, min<index_t>(j0 + backward_lanes, p.k_len)};
    const mask::tile_kind kind = mask.classify(rows, keys);
    if (kind == mask::tile_kind::empty) continue;
    const index_t j = j0 + lane;
    const bool visible = j < keys.end && (kind == mask::tile_kind::full || mask(i, j));
    pair_gradients pair;
    if (visible)
      pair = pair_gradient(engine, score, in.scale, row, score::site{i, j}, query, &in.k(b, g, j, 0), p.head_dim,
                           gradient, &in.v(b, g, j, 0), p.value_dim);
    if constexpr (Sums::any) {
      float term = 0;
      if (visible) term = sums.add_pair(score, pair.raw, pair.of_score, score::site{i, j}, of_row);
      sums.end_step();
      if constexpr (Sums::table) sums.add_term(engine, visible ? score.table_index({i, j}) : -1, term, run);
    }
    const std::uint32_t seen = engine.ballot(visible);
    for (int n = 0; n < backward_lanes; ++n) {
      const float ds = engine.shuffle(pair.factor, n);
      if (!(seen >> n & 1u)) continue;  // a hidden key is never read
      SEQPRIM_UNROLL
      for (int c = 0; c < backward_chunks; ++c) {
        const index_t d = lane + c * backward_lanes;
        if (d < p.head_dim) acc[c] = fmaf(ds, static_cast<float>(in.k(b, g, j0 + n, d)), acc[c]);
      }
    }
  }
  SEQPRIM_UNROLL
  for (int c = 0; c < backward_chunks; ++c) {
    const index_t d = lane + c * backward_lanes;
    if (d < p.head_dim) in.dq(b, h, i, d) = static_cast<Dq>(in.scale * acc[c]);
  }
  if constexpr (Sums::any) {
    if constexpr (Sums::table) sums.add_run(engine, run);
    if constexpr (Sums::rows) {
      const double sum = sum_over_lanes(engine, static_cast<double>(of_row));
      if (lane == 0) in.learned.to.drow(b, h, i) = static_cast<float>(sum);
    }
  }
}

/// One block of the pass over the queries. `piece` is the index of backward_warps rows within heads within batch rows; where the score learns, a block owns every
/// `parts`-th of them of a head, and `piece` is the index of the part within heads.
template <class Engine, class Operands>
SEQPRIM_HD void backward_query_rows(const Engine& engine, const Operands& in, index_t piece, float* shared) {
  const problem& p = in.sizes;
  const index_t tiles = ceil_div(p.q_len, index_t{backward_warps});
  if constexpr (decltype(Operands::learned)::any) {
    const index_t parts = in.learned.parts, h = piece / parts, part = piece % parts;
    warp_sums sums(engine, in.learned, h, part * backward_warps + engine.warp());
    for (index_t n = part; n < p.batch * tiles; n += parts)
      backward_query_row(engine, in, n / tiles, h, n % tiles * backward_warps, shared, sums);
    sums.finish(engine);
  } else {
    nothing_learned sums;
    backward_query_row(engine, in, piece / tiles / p.heads, piece / tiles % p.heads, piece % tiles * backward_warps,
                       shared, sums);
  }
}

/// One block of the pass over the keys: dk and dv of backward_warps keys. A warp owns a key; each lane computes one query of 32, then
/// owns the channels lane, lane + 32, ... `piece` is the index of these keys within key heads within batch rows. Shared memory: [warps,
/// head_dim + value_dim].
template <class Engine, class Operands>
SEQPRIM_HD void backward_key_rows(const Engine& engine, const Operands& in, index_t piece, float* shared) {
  using Dk = typename decltype(Operands::dk)::value_type;
  using Dv = typename decltype(Operands::dv)::value_type;
  const problem& p = in.sizes;
  const int lane = engine.lane();
  const index_t tiles = ceil_div(p.k_len, index_t{backward_warps});
  const index_t b = piece / tiles / p.kv_heads, g = piece / tiles % p.kv_heads;
  const index_t first = piece % tiles * backward_warps, j = first + engine.warp();
  const range keys{first, min<index_t>(first + backward_warps, p.k_len)};
  if (j >= keys.end) return;  // whole warps leave; the rest synchronizes within warps only
  float* const key = shared + engine.warp() * (p.head_dim + p.value_dim);
  float* const value = key + p.head_dim;
  for (index_t d = lane; d < p.head_dim; d += backward_lanes)
    engine.store(key + d, static_cast<float>(in.k(b, g, j, d)));
  for (index_t d = lane; d < p.value_dim; d += backward_lanes)
    engine.store(value + d, static_cast<float>(in.v(b, g, j, d)));
  engine.sync_warp();

  float key_sums[backward_chunks] = {}, value_sums[backward_chunks] = {};
  for (index_t m = 0; m < p.group(); ++m) {
    const index_t h = p.query_head(g, m);
    const auto mask = mask::bind(in.mask, b, h);
    const auto score = score::bind(in.score, b, h);
    const row_statistics* const statistics = in.statistics + (b * p.heads + h) * p.q_len;
    const range bounds = mask::query_bounds(mask, keys, p.q_len);
    for (index_t i0 = bounds.begin / backward_lanes * backward_lanes; i0 < bounds.end; i0 += backward_lanes) {
      const range rows{i0, min<index_t>(i0 + backward_lanes, p.q_len)};
      const mask::tile_kind kind = mask.classify(rows, keys);
      if (kind == mask::tile_kind::empty) continue;
      const index_t i = i0 + lane;
      const bool visible = i < rows.end && (kind == mask::tile_kind::full || mask(i, j)) && !statistics[i].blank();
      pair_gradients pair;
      if (visible)
        pair = pair_gradient(engine, score, in.scale, statistics[i], score::site{i, j}, key, &in.q(b, h, i, 0),
                             p.head_dim, value, &in.dout(b, h, i, 0), p.value_dim);
      const std::uint32_t seen = engine.ballot(visible);
      for (int n = 0; n < backward_lanes; ++n) {
        const float weight = engine.shuffle(pair.weight, n), ds = engine.shuffle(pair.factor, n);
        if (!(seen >> n & 1u)) continue;
        SEQPRIM_UNROLL
        for (int c = 0; c < backward_chunks; ++c) {
          const index_t d = lane + c * backward_lanes;
          if (d < p.head_dim) key_sums[c] = fmaf(ds, static_cast<float>(in.q(b, h, i0 + n, d)), key_sums[c]);
          if (d < p.value_dim)
            value_sums[c] = fmaf(weight, static_cast<float>(in.dout(b, h, i0 + n, d)), value_sums[c]);
        }
      }
    }
  }
  SEQPRIM_UNROLL
  for (int c = 0; c < backward_chunks; ++c) {
    const index_t d = lane + c * backward_lanes;
    if (d < p.head_dim) in.dk(b, g, j, d) = static_cast<Dk>(in.scale * key_sums[c]);
    if (d < p.value_dim) in.dv(b, g, j, d) = static_cast<Dv>(value_sums[c]);
  }
}

}  // namespace seqprim::attention::detail
