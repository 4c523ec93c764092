// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/cuda/fragment.hpp>
#include <seqprim/attention/detail/cuda/score_sums.hpp>
#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/core/bits.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/mask/rule.hpp>
#include <seqprim/score/rule.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

/// Backward on tensor cores, as block algorithms over an engine (arch/cuda): the same source runs on the device and, lane by lane, in
/// a host test. Two kinds of block, one owner for each part of the results, no sums across blocks:
///
///     key block    owns a tile of keys and walks over the queries that attend to it, head by head of its group: dk, dv
///     query block  owns a tile of queries and walks over the keys they attend to: dq
///
/// A product's result has the register layout of the left operand of the next product, so weights and logit gradients never pass
/// through memory: key blocks compute the transposed tiles [keys, queries], query blocks [queries, keys].
namespace seqprim::attention {

/// Sizes of the blocks of the tensor-core backward. They change speed and rounding order, never meaning.
struct backward_block_policy {
  int key_pairs;        ///< key block: pairs of warps, 16 * key_fragments keys each
  int key_fragments;    ///< key block: 16-row fragments of a warp
  int query_step;       ///< key block: queries of one step, 16 or 32
  int query_warps;      ///< query block: warps, 16 * query_fragments queries each
  int query_fragments;  ///< query block: 16-row fragments of a warp
  int key_step;         ///< query block: keys of one step, 16 or 32
};

/// The default choice, by engine and dims (those of the kernel: 64, 96, 128, 192 x 128 or 256). Pass a type of your own as the
/// second template argument of backward, after the engine, to override it.
///
/// Evidence: none measured yet. Reasons: the results of a warp take fragments * width / 2 of the 255 registers of a lane, the tile
/// of one step fragments * step / 2 or twice that, and none may leave its register (nvcc 13, docs/gpu.md). Two fragments halve the
/// reads of shared memory. Two blocks fit on one multiprocessor of sm_80; sm_86 and sm_89 limit shared memory to 99 KiB per block.
struct default_backward_policy {
  template <class Engine, int HeadDim, int ValueDim> static constexpr backward_block_policy choose() noexcept {
    if (HeadDim > 192) return {2, 1, 16, 4, 1, 16};
    if (HeadDim > 128) return {4, 1, 32, 4, 1, 32};
    if (HeadDim > 96) return {2, 2, 16, 4, 1, 32};
    return {2, 2, 32, 4, 2, 32};
  }
};

}  // namespace seqprim::attention

namespace seqprim::attention::detail {

/// Heads padded to HeadDim and ValueDim, and the tiles that a policy chooses for them.
template <int HeadDim, int ValueDim, class Engine = void, class Policy = default_backward_policy>
struct backward_shape {
  static constexpr int head_dim = HeadDim, value_dim = ValueDim;
  static constexpr backward_block_policy policy = Policy::template choose<Engine, HeadDim, ValueDim>();
  static_assert(policy.key_pairs > 0 && policy.key_fragments > 0 && policy.query_warps > 0 &&
                    policy.query_fragments > 0 && (policy.query_step == 16 || policy.query_step == 32) &&
                    (policy.key_step == 16 || policy.key_step == 32),
                "seqprim: a backward policy has positive numbers of warps and fragments, and steps of 16 or 32");

  static constexpr int key_tile = policy.key_pairs * policy.key_fragments * 16;
  static constexpr int key_threads = policy.key_pairs * 2 * arch::cuda::warp_lanes;
  static constexpr int query_tile = policy.query_warps * policy.query_fragments * 16;
  static constexpr int query_threads = policy.query_warps * arch::cuda::warp_lanes;

  /// Bytes of shared memory: the owned tile, two stages of the other side, and in key blocks what the warps of a pair exchange and
  /// the values of each query.
  static constexpr int key_shared = (key_tile + 2 * policy.query_step) * (HeadDim + ValueDim) * 2 +
                                    key_tile * policy.query_step * 4 + 2 * policy.query_step * 8;
  static constexpr int query_shared = (query_tile + 2 * policy.key_step) * (HeadDim + ValueDim) * 2;

  /// Of query blocks that sum the gradient of a table.
  static constexpr int tabulating_query_shared =
      query_shared + policy.query_warps * staged_floats<policy.key_step> * static_cast<int>(sizeof(float));
  template <class Learned>
  static constexpr int query_shared_for = tabulates<Learned> ? tabulating_query_shared : query_shared;
};

/// The values of a query row that backward needs: lse in units of log 2 (+inf where the row attends to nothing, so that its weights are 0) and
/// <dout, out>.
struct alignas(8) row_statistics {
  float lse;
  float delta;

  /// Such a row takes no part, whatever else it holds.
  [[nodiscard]] SEQPRIM_HD constexpr bool blank() const noexcept { return lse == __builtin_huge_valf(); }
};
/// From what forward left: lse in natural units.
[[nodiscard]] SEQPRIM_HD constexpr row_statistics row_statistics_of(float lse, float delta) noexcept {
  constexpr float infinity = __builtin_huge_valf();
  return lse == -infinity ? row_statistics{infinity, 0} : row_statistics{lse * 1.4426950408889634f, delta};
}

/// Operands of one launch. Dq, Dk, Dv: T or float. Learned: learned_operands where the score learns.
template <class Mask, class Score, class T, class Dq, class Dk, class Dv, class Learned = nothing_learned>
struct backward_operands {
  Mask mask;
  Score score;
  problem sizes;
  float scale;
  bool wide;  ///< rows of q, k, v and dout begin at multiples of 16 bytes
  tensor_view<const T, 4> q, k, v, dout;
  const row_statistics* statistics;  ///< [batch, heads, q_len]
  tensor_view<Dq, 4> dq;
  tensor_view<Dk, 4> dk;
  tensor_view<Dv, 4> dv;
  Learned learned{};
};

/// Pairs that a lane holds of a tile of products, one bit each: bit (fragment * Columns / 8 + n) * 4 + element.
using pair_bits = std::uint32_t;

/// Begins to copy rows [rows.begin, rows.end) of a matrix [len, dim] into a tile [Rows, Width] of shared memory, with zeros beyond
/// the rows and the dim. All threads of the block together.
template <int Rows, int Width, int Threads, class Engine, class T>
SEQPRIM_HD void copy_tile(const Engine& engine, const T* data, index_t stride, int dim, bool wide, range rows,
                          T* tile) {
  using layout = arch::cuda::swizzled<Width>;
  const int thread = engine.warp() * arch::cuda::warp_lanes + engine.lane();
  constexpr int chunks = Rows * layout::chunks;
  SEQPRIM_ROLLED
  for (int n = thread; n < chunks; n += Threads) {
    const int row = n / layout::chunks, column = n % layout::chunks * 8;
    const int live = rows.begin + row < rows.end ? max(0, min(8, dim - column)) : 0;
    const T* const from = live > 0 ? data + (rows.begin + row) * stride + column : data;
    T* const to = tile + layout::offset(row, column);
    if (wide) {
      engine.copy_async(to, from, live * 2);
    } else {
      SEQPRIM_UNROLL
      for (int e = 0; e < 8; ++e) engine.store(to + e, e < live ? from[e] : T::from_bits(0));
    }
  }
}

/// A position in a tile from which steps along a row, of multiples of 16 elements, and down the rows, of multiples of 16, are cheap.
template <int Width, class T> struct tile_cursor {
  const T* row;
  int start;  ///< offset within the row

  SEQPRIM_HD tile_cursor(const T* tile, int at_row, int at_column)
      : row(tile + at_row * Width), start(arch::cuda::swizzled<Width>::chunk(at_row, at_column / 8) * 8) {}
  /// at_column is 0 or 8, so that a step only flips bits of the chunk above its lowest.
  [[nodiscard]] SEQPRIM_HD const T* at(int rows, int columns) const { return row + rows * Width + (start ^ columns); }
};

/// c[16 * Fragments, Columns] += left[first_row + .., depth] right[.., depth]^T, both tiles in shared memory.
template <int Fragments, int Columns, int Depth, class T, class Engine>
SEQPRIM_HD void multiply_tiles(const Engine& engine, const T* left, int first_row, const T* right,
                               float (&c)[Fragments][Columns / 8][4]) {
  const auto a_at = arch::cuda::left_address(engine.lane()), b_at = arch::cuda::right_address(engine.lane());
  const tile_cursor<Depth, T> from_left(left, first_row + a_at.row, a_at.column),
      from_right(right, b_at.row, b_at.column);
  SEQPRIM_ROLLED
  for (int first = 0; first < Depth; first += 32) SEQPRIM_UNROLL
  for (int depth = first; depth < first + 32; depth += 16) {
    std::uint32_t a[Fragments][4];
    SEQPRIM_UNROLL
    for (int m = 0; m < Fragments; ++m) engine.load_matrices(a[m], from_left.at(m * 16, depth));
    SEQPRIM_UNROLL
    for (int n = 0; n < Columns / 16; ++n) {
      std::uint32_t b[4];
      engine.load_matrices(b, from_right.at(n * 16, depth));
      SEQPRIM_UNROLL
      for (int m = 0; m < Fragments; ++m) {
        engine.template multiply<T>(c[m][2 * n], a[m], b[0], b[1]);
        engine.template multiply<T>(c[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

/// Infinity or NaN among two elements of 16 bits: 0xffff for each that is.
template <class T> [[nodiscard]] SEQPRIM_HD constexpr std::uint32_t not_finite(std::uint32_t two) noexcept {
  constexpr std::uint32_t exponent = std::is_same_v<T, float16> ? 0x7c00u : 0x7f80u;
  return ((two & exponent) == exponent ? 0xffffu : 0u) | ((two >> 16 & exponent) == exponent ? 0xffff0000u : 0u);
}

/// acc[16 * Fragments, Width] += left right[Steps * 16, Width], the right tile in shared memory. acc may have room for more.
template <int Width, bool FiniteOnly = false, int Fragments, int Steps, int Places, class T, class Engine>
SEQPRIM_HD void add_products(const Engine& engine, const std::uint32_t (&left)[Fragments][Steps][4], const T* right,
                             float (&acc)[Fragments][Places][4]) {
  const auto at = arch::cuda::right_transposed_address(engine.lane());
  const tile_cursor<Width, T> from(right, at.row, at.column);
  SEQPRIM_UNROLL
  for (int step = 0; step < Steps; ++step) {
    SEQPRIM_UNROLL
    for (int n = 0; n < Width / 16; ++n) {
      std::uint32_t b[4];
      engine.load_matrices_transposed(b, from.at(step * 16, n * 16));
      if constexpr (FiniteOnly) {
        SEQPRIM_UNROLL
        for (int r = 0; r < 4; ++r) b[r] &= ~not_finite<T>(b[r]);
      }
      SEQPRIM_UNROLL
      for (int m = 0; m < Fragments; ++m) {
        engine.template multiply<T>(acc[m][2 * n], left[m][step], b[0], b[1]);
        engine.template multiply<T>(acc[m][2 * n + 1], left[m][step], b[2], b[3]);
      }
    }
  }
}

/// add_products for a tile where some pairs are hidden. Their weights are 0, and 0 times infinity or NaN would leak out of padding
/// into rows that do not attend to it. Where a row of the right tile holds an element that is not finite, it is left out, and a
/// visible pair with that row turns its sum into NaN, all of it. All lanes of a warp together.
template <int Width, int Fragments, int Steps, int Places, class T, class Engine>
SEQPRIM_HD void add_visible_products(const Engine& engine, std::uint32_t (&left)[Fragments][Steps][4],
                                     pair_bits visible, const T* right, float (&acc)[Fragments][Places][4]) {
  constexpr int rows = Steps * 16, row_words = Width / 2, share = row_words * rows / arch::cuda::warp_lanes;
  static_assert(rows <= arch::cuda::warp_lanes);
  const auto* const words = reinterpret_cast<const std::uint32_t*>(right) + engine.lane() % rows * row_words;
  bool dirty = false;
  SEQPRIM_ROLLED
  for (int n = 0; n < share; ++n)  // each lane begins elsewhere in its row, so that they do not meet in one bank
    dirty = dirty || not_finite<T>(words[engine.lane() / rows * share + (n + engine.lane()) % share]) != 0;
  if (!engine.any(dirty)) return add_products<Width>(engine, left, right, acc);

  std::uint32_t dirty_rows = dirty ? 1u << engine.lane() % rows : 0u;
  SEQPRIM_UNROLL
  for (int mask = 1; mask < arch::cuda::warp_lanes; mask *= 2)
    dirty_rows |= bit_cast<std::uint32_t>(engine.shuffle_xor(bit_cast<float>(dirty_rows), mask));
  SEQPRIM_UNROLL
  for (int m = 0; m < Fragments; ++m) SEQPRIM_UNROLL
  for (int step = 0; step < Steps; ++step) SEQPRIM_UNROLL
  for (int r = 0; r < 4; ++r) {
    const auto from = arch::cuda::accumulator_of_left_register(r);
    const std::uint32_t seen = visible >> ((m * Steps * 2 + step * 2 + from.row) * 4 + from.column);
    const std::uint32_t dirt = dirty_rows >> (step * 16 + arch::cuda::left_coordinates(engine.lane(), r * 2).column);
    left[m][step][r] |= (seen & dirt & 1u ? 0x7fffu : 0u) | (seen & dirt & 2u ? 0x7fff0000u : 0u);
  }
  add_products<Width, true>(engine, left, right, acc);
}

/// Numbers of a tile, rounded, as left operand of the next product.
template <class T, int Fragments, int Places, int Steps, class Engine>
SEQPRIM_HD void round_tile(const Engine& engine, const float (&c)[Fragments][Places][4],
                           std::uint32_t (&a)[Fragments][Steps][4]) {
  static_assert(Places == 2 * Steps);
  SEQPRIM_UNROLL
  for (int m = 0; m < Fragments; ++m) SEQPRIM_UNROLL
  for (int step = 0; step < Steps; ++step) SEQPRIM_UNROLL
  for (int r = 0; r < 4; ++r) {
    const auto from = arch::cuda::accumulator_of_left_register(r);
    const float(&pair)[4] = c[m][2 * step + from.row];
    a[m][step][r] = engine.template pack<T>(pair[from.column], pair[from.column + 1]);
  }
}

/// Which pairs of a lane are inside the problem and visible. Rows of the tile run from rows.begin, columns from columns.begin;
/// what is beyond their ends is hidden and the mask is not evaluated there; queries that are blank are hidden, too. KeysAreRows: rows are
/// keys and columns queries, `blank` has one bit for each column; else one for each row that the lane has pairs of, two for a fragment.
template <bool KeysAreRows, int Fragments, int Columns, class Engine, class Mask>
[[nodiscard]] SEQPRIM_HD pair_bits visible_pairs(const Engine& engine, const Mask& mask, bool partial, range rows,
                                                 range columns, std::uint32_t blank) {
  static_assert(Fragments * Columns / 8 * 4 <= 32, "seqprim: one word holds the visible pairs of a lane");
  if (!partial) return ~pair_bits{0};
  pair_bits bits = 0;
  SEQPRIM_ROLLED
  for (int n = 0; n < Fragments * Columns / 8 * 4; ++n) {
    const auto at = arch::cuda::accumulator_coordinates(engine.lane(), n % 4);
    const int fragment = n / (Columns / 2), in_tile = n / 4 % (Columns / 8) * 8 + at.column;
    const index_t row = rows.begin + fragment * 16 + at.row, column = columns.begin + in_tile;
    const bool inside = row < rows.end && column < columns.end;
    bool seen = inside && !(blank >> (KeysAreRows ? in_tile : fragment * 2 + n % 4 / 2) & 1u);
    if (seen) seen = KeysAreRows ? mask(column, row) : mask(row, column);
    bits |= seen ? pair_bits{1} << n : 0u;
  }
  return bits;
}

/// The weight of one pair from its raw product, and the factor that turns dp - delta into the gradient of scale * <q, k>: the
/// weight times the derivative of the score. Both 0 for a hidden pair; the score, which may read arrays, is not evaluated for it.
struct pair_weight {
  float weight, factor;
};
template <class Engine, class Score>
[[nodiscard]] SEQPRIM_HD pair_weight weigh_pair(const Engine& engine, const Score& score, bool seen, float product,
                                                float scale, float lse, score::site at) {
  constexpr float log2_of_e = 1.4426950408889634f;
  if constexpr (std::is_same_v<Score, score::identity>) {
    const float weight = seen ? engine.exp2(product * (scale * log2_of_e) - lse) : 0.0f;
    return {weight, weight};
  } else {
    if (!seen) return {0, 0};
    const float raw = scale * product;
    const float weight = engine.exp2(static_cast<float>(score(raw, at)) * log2_of_e - lse);
    return {weight, weight * static_cast<float>(score.derivative(raw, at))};
  }
}

/// Writes factor * acc to rows [first_row, rows.end) of a matrix [len, dim].
template <int Width, int Fragments, int Places, class Engine, class Out>
SEQPRIM_HD void store_rows(const Engine& engine, const float (&acc)[Fragments][Places][4], float factor,
                           index_t first_row, index_t end_row, int dim, Out* data, index_t stride) {
  SEQPRIM_UNROLL
  for (int m = 0; m < Fragments; ++m) SEQPRIM_UNROLL
  for (int e = 0; e < 4; ++e) {
    const auto at = arch::cuda::accumulator_coordinates(engine.lane(), e);
    const index_t row = first_row + m * 16 + at.row;
    if (row >= end_row) continue;
    SEQPRIM_UNROLL
    for (int n = 0; n < Width / 8; ++n) {
      const int column = n * 8 + at.column;
      if (column < dim) data[row * stride + column] = static_cast<Out>(acc[m][n][e] * factor);
    }
  }
}

/// A walk over the tiles of `step` indices, within a bounds, that are not empty.
template <class Classify> struct visible_walk {
  const Classify& classify;
  index_t next, end, step, length;

  /// The next tile, cut at the length; empty when there is none. Sets `partial`: some pair of it may be hidden.
  [[nodiscard]] SEQPRIM_HD range advance(bool& partial) {
    while (next < end) {
      const range tile{next, min(next + step, length)};
      next += step;
      const mask::tile_kind kind = classify(tile);
      if (kind == mask::tile_kind::empty) continue;
      partial = kind == mask::tile_kind::partial || tile.size() < step;
      return tile;
    }
    return {};
  }
};
template <class Classify>
[[nodiscard]] SEQPRIM_HD visible_walk<Classify> walk_visible(range bounds, int step, index_t length,
                                                             const Classify& classify) {
  return {classify, bounds.empty() ? 0 : bounds.begin / step * step, bounds.empty() ? 0 : bounds.end, step, length};
}

/// One key block: dk and dv of a tile of keys. `piece` is the index of the tile within key heads within batch rows.
///
/// The warps of a pair share their keys. The even one computes the products with the queries, the weights p and dv += p^T dout; the
/// odd one computes dp = v dout^T, the logit gradients ds and dk += ds^T q. p times the score's derivative goes from one to the
/// other through shared memory.
template <class Shape, class Engine, class Operands>
SEQPRIM_HD void backward_key_block(const Engine& engine, const Operands& in, index_t piece, std::byte* shared) {
  using T = typename decltype(Operands::q)::value_type;
  constexpr int head_dim = Shape::head_dim, value_dim = Shape::value_dim, step = Shape::policy.query_step,
                fragments = Shape::policy.key_fragments, threads = Shape::key_threads, tile = Shape::key_tile;
  auto* const keys = reinterpret_cast<T*>(shared);
  T* const values = keys + tile * head_dim;
  T* const queries = values + tile * value_dim;    // two stages
  T* const douts = queries + 2 * step * head_dim;  // two stages
  auto* const exchange = reinterpret_cast<float*>(douts + 2 * step * value_dim);
  auto* const statistics = reinterpret_cast<row_statistics*>(exchange + tile * step);  // two stages

  const problem& p = in.sizes;
  const index_t tiles = ceil_div(p.k_len, tile);
  const index_t b = piece / tiles / p.kv_heads, g = piece / tiles % p.kv_heads;
  const range block{piece % tiles * tile, min(piece % tiles * tile + tile, p.k_len)};
  const int pair = engine.warp() / 2, first_key = pair * fragments * 16;
  const bool weighs = engine.warp() % 2 == 0;
  const int thread = engine.warp() * arch::cuda::warp_lanes + engine.lane();
  const range own{block.begin + first_key, block.end};

  // dk for odd warps, dv for even ones.
  constexpr int widest = head_dim > value_dim ? head_dim : value_dim;
  float acc[fragments][widest / 8][4] = {};

  copy_tile<tile, head_dim, threads>(engine, &in.k(b, g, 0, 0), in.k.stride(2), static_cast<int>(p.head_dim), in.wide,
                                     block, keys);
  copy_tile<tile, value_dim, threads>(engine, &in.v(b, g, 0, 0), in.v.stride(2), static_cast<int>(p.value_dim), in.wide,
                                      block, values);
  for (index_t n = 0; n < p.group(); ++n) {
    const index_t h = p.query_head(g, n);
    const auto mask = mask::bind(in.mask, b, h);
    const auto score = score::bind(in.score, b, h);
    const T* const q = &in.q(b, h, 0, 0);
    const T* const dout = &in.dout(b, h, 0, 0);
    const row_statistics* const rows_statistics = in.statistics + (b * p.heads + h) * p.q_len;
    const auto begin_copy = [&](range rows, int stage) {
      copy_tile<step, head_dim, threads>(engine, q, in.q.stride(2), static_cast<int>(p.head_dim), in.wide, rows,
                                         queries + stage * step * head_dim);
      copy_tile<step, value_dim, threads>(engine, dout, in.dout.stride(2), static_cast<int>(p.value_dim), in.wide, rows,
                                          douts + stage * step * value_dim);
      engine.commit_copies();
      if (thread < step)
        engine.store(statistics + stage * step + thread,
                     rows.begin + thread < rows.end ? rows_statistics[rows.begin + thread] : row_statistics{0, 0});
    };

    const auto classify = [&](range rows) { return mask.classify(rows, block); };
    auto walk = walk_visible(mask::query_bounds(mask, block, p.q_len), step, p.q_len, classify);
    bool partial = false, next_partial = false;
    range rows = walk.advance(partial);
    if (rows.empty()) continue;
    engine.sync_block();  // the last head is done with its stages
    begin_copy(rows, 0);
    for (int stage = 0; !rows.empty(); stage ^= 1) {
      engine.template wait_copies<0>();
      engine.sync_block();  // this stage has arrived; no lane reads the other one any more
      const range next = walk.advance(next_partial);
      if (!next.empty()) begin_copy(next, stage ^ 1);

      const T* const query = queries + stage * step * head_dim;
      const T* const gradient = douts + stage * step * value_dim;
      const row_statistics* const row = statistics + stage * step;
      const std::uint32_t blank = engine.ballot(engine.lane() < step && row[engine.lane() % step].blank());
      const bool cut = partial || block.size() < tile || blank != 0;
      const pair_bits visible = visible_pairs<true, fragments, step>(engine, mask, cut, own, rows, blank);
      float c[fragments][step / 8][4] = {};
      float* const exchanged = exchange + (pair * arch::cuda::warp_lanes + engine.lane()) * 4;
      constexpr int exchange_step = Shape::policy.key_pairs * arch::cuda::warp_lanes * 4;  // one 16-byte slot a lane
      std::uint32_t rounded[fragments][step / 16][4];
      if (weighs) {
        multiply_tiles<fragments, step, head_dim, T>(engine, keys, first_key, query, c);
        SEQPRIM_UNROLL
        for (int m = 0; m < fragments; ++m) SEQPRIM_UNROLL
        for (int k = 0; k < step / 8; ++k) {
          float factors[4];
          SEQPRIM_UNROLL
          for (int e = 0; e < 4; ++e) {
            const auto at = arch::cuda::accumulator_coordinates(engine.lane(), e);
            const bool seen = visible >> ((m * (step / 8) + k) * 4 + e) & 1u;
            const auto w = weigh_pair(engine, score, seen, c[m][k][e], in.scale, row[k * 8 + at.column].lse,
                                      score::site{rows.begin + k * 8 + at.column, own.begin + m * 16 + at.row});
            c[m][k][e] = w.weight;
            factors[e] = w.factor;
          }
          float* const slot = exchanged + (m * (step / 8) + k) * exchange_step;
          SEQPRIM_UNROLL
          for (int e = 0; e < 4; ++e) engine.store(slot + e, factors[e]);
        }
        round_tile<T>(engine, c, rounded);
      } else {
        multiply_tiles<fragments, step, value_dim, T>(engine, values, first_key, gradient, c);
      }
      engine.sync_block();
      if (weighs) {
        if (cut) {
          add_visible_products<value_dim>(engine, rounded, visible, gradient, acc);
        } else {
          add_products<value_dim>(engine, rounded, gradient, acc);
        }
      } else {
        SEQPRIM_UNROLL
        for (int m = 0; m < fragments; ++m) SEQPRIM_UNROLL
        for (int k = 0; k < step / 8; ++k) {
          const float* const slot = exchanged + (m * (step / 8) + k) * exchange_step;
          SEQPRIM_UNROLL
          for (int e = 0; e < 4; ++e) {
            const auto at = arch::cuda::accumulator_coordinates(engine.lane(), e);
            const bool seen = visible >> ((m * (step / 8) + k) * 4 + e) & 1u;
            c[m][k][e] = seen ? slot[e] * (c[m][k][e] - row[k * 8 + at.column].delta) : 0.0f;
          }
        }
        round_tile<T>(engine, c, rounded);
        if (cut) {
          add_visible_products<head_dim>(engine, rounded, visible, query, acc);
        } else {
          add_products<head_dim>(engine, rounded, query, acc);
        }
      }
      rows = next;
      partial = next_partial;
    }
  }
  engine.commit_copies();
  engine.template wait_copies<0>();  // keys that no query attends to are still on their way
  if (weighs) {
    store_rows<value_dim>(engine, acc, 1.0f, own.begin, own.end, static_cast<int>(p.value_dim), &in.dv(b, g, 0, 0),
                          in.dv.stride(2));
  } else {
    store_rows<head_dim>(engine, acc, in.scale, own.begin, own.end, static_cast<int>(p.head_dim), &in.dk(b, g, 0, 0),
                         in.dk.stride(2));
  }
}

/// dq of one tile of queries, and what the warps sum of it for what the score learns.
template <class Shape, class Engine, class Operands, class Sums>
SEQPRIM_HD void backward_query_tile(const Engine& engine, const Operands& in, index_t b, index_t h, index_t begin,
                                    std::byte* shared, Sums& sums) {
  using T = typename decltype(Operands::q)::value_type;
  constexpr int head_dim = Shape::head_dim, value_dim = Shape::value_dim, step = Shape::policy.key_step,
                fragments = Shape::policy.query_fragments, threads = Shape::query_threads, tile = Shape::query_tile;
  auto* const queries = reinterpret_cast<T*>(shared);
  T* const douts = queries + tile * head_dim;
  T* const keys = douts + tile * value_dim;      // two stages
  T* const values = keys + 2 * step * head_dim;  // two stages
  [[maybe_unused]] float* staged = nullptr;      // of this warp
  if constexpr (Sums::any) {
    static_assert(!Sums::table || fragments <= 2,
                  "seqprim: a policy whose blocks add up the gradient of a table has at most two query fragments");
    if constexpr (Sums::table)
      staged = reinterpret_cast<float*>(values + 2 * step * value_dim) + engine.warp() * staged_floats<step>;
  }

  const problem& p = in.sizes;
  const index_t g = p.kv_head(h);
  const range block{begin, min(begin + tile, p.q_len)};
  const int first_query = engine.warp() * fragments * 16;
  const range own{block.begin + first_query, block.end};
  const auto mask = mask::bind(in.mask, b, h);
  const auto score = score::bind(in.score, b, h);

  copy_tile<tile, head_dim, threads>(engine, &in.q(b, h, 0, 0), in.q.stride(2), static_cast<int>(p.head_dim), in.wide,
                                     block, queries);
  copy_tile<tile, value_dim, threads>(engine, &in.dout(b, h, 0, 0), in.dout.stride(2), static_cast<int>(p.value_dim),
                                      in.wide, block, douts);
  const T* const k = p.k_len > 0 ? &in.k(b, g, 0, 0) : nullptr;
  const T* const v = p.k_len > 0 ? &in.v(b, g, 0, 0) : nullptr;
  const auto begin_copy = [&](range part, int stage) {
    copy_tile<step, head_dim, threads>(engine, k, in.k.stride(2), static_cast<int>(p.head_dim), in.wide, part,
                                       keys + stage * step * head_dim);
    copy_tile<step, value_dim, threads>(engine, v, in.v.stride(2), static_cast<int>(p.value_dim), in.wide, part,
                                        values + stage * step * value_dim);
    engine.commit_copies();
  };

  float acc[fragments][head_dim / 8][4] = {};
  [[maybe_unused]] float of_row[fragments][2] = {};
  row_statistics row[fragments][2];
  std::uint32_t blank = 0;
  SEQPRIM_UNROLL
  for (int m = 0; m < fragments; ++m) SEQPRIM_UNROLL
  for (int r = 0; r < 2; ++r) {
    const index_t i = own.begin + m * 16 + arch::cuda::accumulator_coordinates(engine.lane(), r * 2).row;
    row[m][r] = i < own.end ? in.statistics[(b * p.heads + h) * p.q_len + i] : row_statistics{0, 0};
    blank |= row[m][r].blank() ? 1u << (m * 2 + r) : 0u;
  }
  const bool blanks = engine.any(blank != 0);

  const auto classify = [&](range part) { return mask.classify(block, part); };
  auto walk = walk_visible(mask::key_bounds(mask, block, p.k_len), step, p.k_len, classify);
  bool partial = false, next_partial = false;
  range part = walk.advance(partial);
  if (!part.empty()) begin_copy(part, 0);
  for (int stage = 0; !part.empty(); stage ^= 1) {
    engine.template wait_copies<0>();
    engine.sync_block();  // this stage has arrived; no lane reads the other one any more
    const range next = walk.advance(next_partial);
    if (!next.empty()) begin_copy(next, stage ^ 1);

    const T* const key = keys + stage * step * head_dim;
    const T* const value = values + stage * step * value_dim;
    const bool cut = partial || block.size() < tile || blanks;
    const pair_bits visible = visible_pairs<false, fragments, step>(engine, mask, cut, own, part, blank);
    float c[fragments][step / 8][4] = {}, dp[fragments][step / 8][4] = {};
    multiply_tiles<fragments, step, head_dim, T>(engine, queries, first_query, key, c);
    multiply_tiles<fragments, step, value_dim, T>(engine, douts, first_query, value, dp);
    SEQPRIM_UNROLL
    for (int m = 0; m < fragments; ++m) SEQPRIM_UNROLL
    for (int n = 0; n < step / 8; ++n) SEQPRIM_UNROLL
    for (int e = 0; e < 4; ++e) {
      const auto at = arch::cuda::accumulator_coordinates(engine.lane(), e);
      const bool seen = visible >> ((m * (step / 8) + n) * 4 + e) & 1u;
      const score::site pair{own.begin + m * 16 + at.row, part.begin + n * 8 + at.column};
      const auto w = weigh_pair(engine, score, seen, c[m][n][e], in.scale, row[m][e / 2].lse, pair);
      [[maybe_unused]] float of_entry = 0;
      if constexpr (Sums::any) {
        if (seen)
          of_entry = sums.add_pair(score, in.scale * c[m][n][e], w.weight * (dp[m][n][e] - row[m][e / 2].delta), pair,
                                   of_row[m][e / 2]);
      }
      c[m][n][e] = seen ? w.factor * (dp[m][n][e] - row[m][e / 2].delta) : 0.0f;
      if constexpr (Sums::any) dp[m][n][e] = of_entry;
    }
    if constexpr (Sums::any) {
      sums.end_step();
      if constexpr (Sums::table)
        sums.template add_tile<fragments, step>(engine, score, dp, visible, own.begin, part.begin, staged);
    }
    std::uint32_t rounded[fragments][step / 16][4];
    round_tile<T>(engine, c, rounded);
    if (cut) {
      add_visible_products<head_dim>(engine, rounded, visible, key, acc);
    } else {
      add_products<head_dim>(engine, rounded, key, acc);
    }
    part = next;
    partial = next_partial;
  }
  engine.commit_copies();
  engine.template wait_copies<0>();  // queries that attend to nothing are still on their way
  store_rows<head_dim>(engine, acc, in.scale, own.begin, own.end, static_cast<int>(p.head_dim), &in.dq(b, h, 0, 0),
                       in.dq.stride(2));
  if constexpr (Sums::any) {
    if constexpr (Sums::rows) {
      SEQPRIM_UNROLL
      for (int m = 0; m < fragments; ++m) SEQPRIM_UNROLL
      for (int r = 0; r < 2; ++r) {
        float sum = of_row[m][r];
        sum += engine.shuffle_xor(sum, 1);
        sum += engine.shuffle_xor(sum, 2);  // four lanes share a row
        const auto at = arch::cuda::accumulator_coordinates(engine.lane(), r * 2);
        const index_t i = own.begin + m * 16 + at.row;
        if (i < own.end && at.column == 0) in.learned.to.drow(b, h, i) = sum;
      }
    }
  }
}

/// One query block: dq of a tile of queries. `piece` is the index of the tile, the last ones first, within heads within batch rows.
/// Where the score learns, a block owns every `parts`-th tile of a head, in all batch rows, and `piece` is the index of the part
/// within heads.
template <class Shape, class Engine, class Operands>
SEQPRIM_HD void backward_query_block(const Engine& engine, const Operands& in, index_t piece, std::byte* shared) {
  const problem& p = in.sizes;
  const index_t tiles = ceil_div(p.q_len, Shape::query_tile);
  if constexpr (decltype(Operands::learned)::any) {
    static_assert(Shape::policy.query_warps <= most_summing_warps,
                  "seqprim: blocks that sum gradients of a score have at most 16 warps");
    const index_t parts = in.learned.parts, h = piece / parts, part = piece % parts;
    warp_sums sums(engine, in.learned, h, part * Shape::policy.query_warps + engine.warp());
    for (index_t n = part; n < p.batch * tiles; n += parts) {
      if (n != part) engine.sync_block();  // the tile before has been read
      backward_query_tile<Shape>(engine, in, n / tiles, h, (tiles - 1 - n % tiles) * Shape::query_tile, shared, sums);
    }
    sums.finish(engine);
  } else {
    nothing_learned sums;
    backward_query_tile<Shape>(engine, in, piece / tiles / p.heads, piece / tiles % p.heads,
                               (tiles - 1 - piece % tiles) * Shape::query_tile, shared, sums);
  }
}

}  // namespace seqprim::attention::detail
