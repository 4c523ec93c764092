// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/cuda/fragment.hpp>
#include <seqprim/attention/detail/cuda/code_rows.hpp>
#include <seqprim/attention/detail/cuda/tile_list.hpp>
#include <seqprim/core/element.hpp>
#include <seqprim/core/index.hpp>
#include <seqprim/mask/rule.hpp>
#include <seqprim/score/rule.hpp>

#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <type_traits>

/// Online softmax of one block of CUDA lanes: a tile of query rows against a range of keys. Written over the engine interface of
/// arch/cuda/mma_sync.cuh, so that the host runs the same algorithm on emulated lanes (tests/attention/block_test.cpp).
namespace seqprim::attention::detail {

/// The sizes of a block, as a type. A warp owns 16 query rows; when there are more warps than rows / 16, the warps of one group of
/// rows share the keys of each tile.
template <class Element, int HeadDim, int ValueDim, int QTile, int KTile, int Warps, int Stages> struct block_shape {
  using element = Element;
  static constexpr int head_dim = HeadDim, value_dim = ValueDim;
  static constexpr int q_tile = QTile;  ///< query rows
  static constexpr int k_tile = KTile;  ///< keys of one step
  static constexpr int warps = Warps;
  static constexpr int stages = Stages;  ///< tiles of keys and values in shared memory; all but one are on their way
  static constexpr int lanes = warps * arch::cuda::warp_lanes;
  static constexpr int row_warps = q_tile / arch::cuda::mma_rows;
  static constexpr int key_warps = warps / row_warps;
  static constexpr int warp_keys = k_tile / key_warps;  ///< keys of a tile that one warp works on
  static_assert(
      q_tile % arch::cuda::mma_rows == 0 && row_warps >= 1 && warps % row_warps == 0 &&
          warp_keys % arch::cuda::mma_depth == 0 && warp_keys * key_warps == k_tile && stages >= 2,
      "seqprim: q_tile is a multiple of 16, warps one of q_tile / 16, k_tile one of 16 for each warp that shares "
      "it, and there are at least two stages");
  static_assert(head_dim % 32 == 0 && value_dim % 32 == 0, "seqprim: a block works on dims that are multiples of 32");

  using key_layout = arch::cuda::swizzled<head_dim>;  // of queries too
  using value_layout = arch::cuda::swizzled<value_dim>;
  static constexpr int query_numbers = q_tile * head_dim;
  static constexpr int key_numbers = k_tile * head_dim;
  static constexpr int value_numbers = k_tile * value_dim;
  static constexpr int tile_bytes = 2 * (query_numbers + stages * (key_numbers + value_numbers));
  /// At the end the same memory holds the sums of each row: value_dim + 8 floats apart, so that lanes that write together meet
  /// different banks; then top, sum and weight of each row and warp.
  static constexpr int sum_pitch = value_dim + 8;
  static constexpr int rows_of_warps = warps * arch::cuda::mma_rows;
  static constexpr int sum_bytes = 4 * (q_tile * sum_pitch + 3 * rows_of_warps);
  static constexpr int shared_bytes = tile_bytes > sum_bytes ? tile_bytes : sum_bytes;

  /// With pages, where the keys and the values of each tile in memory and of the next one are: behind the tiles.
  static constexpr int place_bytes = stages * 2 * k_tile * 8;
  static constexpr int paged_bytes = tile_bytes + place_bytes > sum_bytes ? tile_bytes + place_bytes : sum_bytes;
};

/// Rows of one (batch, head) in global memory, `step` elements apart.
template <class T> struct dense_rows {
  const T* data;
  index_t step;
  [[nodiscard]] SEQPRIM_HD constexpr const T* row(index_t j) const noexcept { return data + j * step; }
};

/// Where a row of a paged cache is.
struct page_place {
  std::uint32_t page, row;  ///< of the page
};

/// Rows that are found in two steps: place_of(j) asks the page table, at(place) computes an address. A tile asks for its places one
/// step ahead, so that no copy waits for a number.
template <class Source> concept placed_in_pages = requires(const Source& s, index_t j, page_place at) {
  { s.place_of(j) } -> std::same_as<page_place>;
  s.at(at);
};

/// The rows of one tile of such a source: row `first` + n is at places[n].
template <class Source> struct rows_at_places {
  const Source& source;
  const page_place* places;
  index_t first;
  [[nodiscard]] SEQPRIM_HD constexpr auto row(index_t j) const noexcept { return source.at(places[j - first]); }
};

/// True when every row of a view starts at a multiple of 16 bytes.
template <class View> [[nodiscard]] bool rows_are_aligned(const View& view) noexcept {
  constexpr int numbers = 16 / sizeof(typename View::value_type);
  bool aligned = reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0;
  for (int axis = 0; axis < View::rank - 1; ++axis)
    aligned = aligned && (view.extent(axis) <= 1 || view.stride(axis) % numbers == 0);
  return aligned;
}

/// Begins to copy rows [first, first + Rows) into a swizzled tile. Rows from `end` on and channels from `dim` on become zero and
/// are not read.
template <class Shape, int Rows, class Layout, class Engine, class T, class Source>
SEQPRIM_HD void copy_numbers(const Engine& engine, T* tile, const Source& source, index_t first, index_t end, int dim,
                             bool aligned) noexcept {
  // `across` lanes read neighboring chunks of a row; a lane keeps its chunk of the row, so that its addresses differ by constants.
  constexpr int chunks = Layout::chunks, across = (chunks & -chunks) < Shape::lanes ? (chunks & -chunks) : Shape::lanes;
  constexpr int down = Shape::lanes / across, repeats = chunks / across, steps = (Rows + down - 1) / down;
  const int thread = engine.warp() * arch::cuda::warp_lanes + engine.lane();
  const int row = thread / across, chunk = thread % across;
  const int left = static_cast<int>(min<index_t>(max<index_t>(end - first, 0), Rows));  // rows that exist
  if (aligned) {
    const auto to = engine.address_of(tile);
    int bytes[repeats];
    SEQPRIM_UNROLL
    for (int m = 0; m < repeats; ++m) bytes[m] = 2 * min(max(dim - (chunk + m * across) * 8, 0), 8);
    SEQPRIM_UNROLL
    for (int n = 0; n < steps; ++n) {
      const int r = row + n * down;
      if (Rows % down != 0 && r >= Rows) break;
      const T* const from = source.row(first + min(r, left - 1));
      SEQPRIM_UNROLL
      for (int m = 0; m < repeats; ++m) {
        const int c = (chunk + m * across) * 8;
        engine.copy_async(to + 2 * Layout::offset(r, c), from + c, r < left ? bytes[m] : 0);
      }
    }
  } else {
    // Element by element, and not unrolled: the exception must not cost the common case registers.
    SEQPRIM_ROLLED
    for (int id = thread; id < Rows * Layout::width; id += Shape::lanes) {
      const int r = id / Layout::width, d = id % Layout::width;
      engine.store(tile + Layout::offset(r, d), r < left && d < dim ? source.row(first + r)[d] : T::from_bits(0));
    }
  }
}

/// The same from any source: rows of T, or of int8 values, which are converted.
template <class Shape, int Rows, class Layout, class Engine, class T, class Source>
SEQPRIM_HD void copy_rows(const Engine& engine, T* tile, const Source& source, index_t first, index_t end, int dim,
                          bool aligned) noexcept {
  if constexpr (holds_codes<Source>) {
    copy_codes<Shape, Rows, Layout>(engine, tile, source, first, end, dim, aligned);
  } else {
    copy_numbers<Shape, Rows, Layout>(engine, tile, source, first, end, dim, aligned);
  }
}

/// Mask and score of one query head.
template <class Mask, class Score> struct head_rule {
  Mask mask;
  Score score;
};

/// The rules of the two rows of a lane, when they are those of one head (`Same`) or may differ.
template <class Rule, bool Same> struct lane_rules {
  Rule both;
  SEQPRIM_HD lane_rules(const Rule& first, const Rule&) noexcept : both(first) {}
  [[nodiscard]] SEQPRIM_HD const Rule& of(int) const noexcept { return both; }
};
template <class Rule> struct lane_rules<Rule, false> {
  Rule upper, lower;
  SEQPRIM_HD lane_rules(const Rule& first, const Rule& second) noexcept : upper(first), lower(second) {}
  [[nodiscard]] SEQPRIM_HD const Rule& of(int half) const noexcept { return half == 0 ? upper : lower; }
};

/// The rows of a block that belong to one query head: row r is query `first` + r.
template <class Mask, class Score> struct rows_of_head {
  using rule = head_rule<Mask, Score>;
  static constexpr bool same_rule = true;
  rule head;
  index_t first, q_len;

  [[nodiscard]] SEQPRIM_HD constexpr const rule& rule_of(int) const noexcept { return head; }
  /// Rows past the end are copies of the last one: they are computed and dropped.
  [[nodiscard]] SEQPRIM_HD constexpr index_t position(int row) const noexcept { return min(first + row, q_len - 1); }
  [[nodiscard]] SEQPRIM_HD constexpr int count(int limit) const noexcept {
    return static_cast<int>(min<index_t>(limit, max<index_t>(q_len - first, 0)));
  }
  [[nodiscard]] SEQPRIM_HD constexpr mask::tile_kind classify(int begin, int end, range keys) const noexcept {
    return head.mask.classify({first + begin, first + end}, keys);
  }
  [[nodiscard]] SEQPRIM_HD constexpr range key_bounds(int end, index_t k_len) const noexcept {
    return mask::key_bounds(head.mask, {first, first + end}, k_len);
  }
};

/// The sign bits of the 16-bit elements in a word that are not finite: their exponent of ones overflows into it.
template <class T> [[nodiscard]] SEQPRIM_HD constexpr std::uint32_t non_finite(std::uint32_t word) noexcept {
  constexpr std::uint32_t exponent = std::is_same_v<T, bfloat16> ? 0x7f807f80u : 0x7c007c00u;
  constexpr std::uint32_t one = std::is_same_v<T, bfloat16> ? 0x00800080u : 0x04000400u;
  return ((word & exponent) + one) & 0x80008000u;
}

/// What one lane of the block holds: running maximum (in units of log 2), sum and weighted values of two query rows.
template <class Shape, class Engine, class Rows> class block_softmax {
  using T = typename Shape::element;
  using rule = typename Rows::rule;
  using mask_type = decltype(rule::mask);
  using score_type = decltype(rule::score);
  static constexpr int key_blocks = Shape::warp_keys / 8;    // accumulators of logits
  static constexpr int value_blocks = Shape::value_dim / 8;  // accumulators of out
  static constexpr int depth_steps = Shape::head_dim / arch::cuda::mma_depth;
  static constexpr bool plain = std::is_same_v<score_type, score::identity>;
  static constexpr float infinity = __builtin_huge_valf();

 public:
  /// The queries are in registers; else they are read again for each tile. A score needs registers of its own.
  static constexpr bool queries_stay = Shape::head_dim <= (plain ? 96 : 64);
  static constexpr float log2_e = 1.44269504088896340736f, ln_2 = 0.69314718055994530942f;

  SEQPRIM_HD block_softmax(const Engine& engine, const Rows& rows, T* shared, float scale) noexcept
      : engine_(engine),
        rows_(rows),
        shared_(shared),
        scale_(scale),
        first_row_(engine.warp() / Shape::key_warps * arch::cuda::mma_rows),
        first_key_(engine.warp() % Shape::key_warps * Shape::warp_keys),
        rules_(rows.rule_of(row_of(0)), rows.rule_of(row_of(1))) {
    SEQPRIM_UNROLL
    for (int half = 0; half < 2; ++half) {
      top_[half] = -infinity;
      sum_[half] = 0;
      position_[half] = rows.position(row_of(half));
    }
    SEQPRIM_UNROLL
    for (int n = 0; n < value_blocks; ++n) {
      SEQPRIM_UNROLL
      for (int e = 0; e < 4; ++e) out_[n][e] = 0;
    }

    // Without a score the scale is applied in the exponential, where it is free; a negative one would reverse the order of logits
    // around, so its sign goes into the queries, where it is exact.
    factor_ = plain ? (scale < 0 ? -scale : scale) * log2_e : log2_e;
    sign_ = plain && scale < 0 ? 0x80008000u : 0u;
  }

  /// The whole loop of the block: all visible tiles of the keys [run.begin, run.end), run.begin a multiple of k_tile.
  template <class Queries, class Keys, class Values>
  SEQPRIM_HD void run(const Queries& queries, const Keys& keys, const Values& values, range run, int rows, int head_dim,
                      int value_dim, bool q_aligned, bool k_aligned, bool v_aligned) noexcept {
    constexpr int stages = Shape::stages;
    // Tiles are counted from the begin of the range, in 32 bits.
    const auto tiles = static_cast<int>((run.size() + Shape::k_tile - 1) / Shape::k_tile);
    const auto begin_of = [&](int tile) { return run.begin + index_t{tile} * Shape::k_tile; };
    const auto classify = [&](int tile) {
      const index_t begin = begin_of(tile);
      return rows_.classify(0, rows, {begin, min<index_t>(begin + Shape::k_tile, run.end)});
    };
    const auto fetch = [&](int stage, int tile) {
      const index_t begin = begin_of(tile);
      copy_rows<Shape, Shape::k_tile, typename Shape::key_layout>(
          engine_, key_tile(stage), rows_of_tile(keys, places_of(stage), begin), begin, run.end, head_dim, k_aligned);
      copy_rows<Shape, Shape::k_tile, typename Shape::value_layout>(
          engine_, value_tile(stage), rows_of_tile(values, places_of(stage) + Shape::k_tile, begin), begin, run.end,
          value_dim, v_aligned);
    };
    // Places in pages: lanes look up one row each, of keys and then of values, and keep it until the memory is free.
    constexpr bool paged = placed_in_pages<Keys>;
    constexpr int look_ups = (2 * Shape::k_tile + Shape::lanes - 1) / Shape::lanes;
    const int thread = engine_.warp() * arch::cuda::warp_lanes + engine_.lane();
    const auto look_up = [&](int tile, page_place(&found)[look_ups]) {
      if constexpr (paged) {
        if (tile >= tiles) return;
        SEQPRIM_UNROLL
        for (int n = 0; n < look_ups; ++n) {
          const int id = thread + n * Shape::lanes;
          const index_t row = min(begin_of(tile) + id % Shape::k_tile, run.end - 1);
          if (id < 2 * Shape::k_tile) found[n] = id < Shape::k_tile ? keys.place_of(row) : values.place_of(row);
        }
      }
    };
    const auto publish = [&](int stage, const page_place(&found)[look_ups]) {
      SEQPRIM_UNROLL
      for (int n = 0; n < look_ups; ++n)
        if (thread + n * Shape::lanes < 2 * Shape::k_tile)
          engine_.store(places_of(stage) + thread + n * Shape::lanes, found[n]);
    };

    copy_rows<Shape, Shape::q_tile, typename Shape::key_layout>(engine_, shared_, queries, 0, rows, head_dim,
                                                                q_aligned);
    engine_.commit_copies();
    tile_list list(tiles);
    tile_step open[stages - 1];  // fetched and not yet used, oldest first
    SEQPRIM_UNROLL
    for (int s = 0; s < stages - 1; ++s) open[s] = list.next(engine_, classify);
    tile_step next = list.next(engine_, classify);
    if constexpr (paged) {
      page_place found[stages][look_ups]{};
      SEQPRIM_UNROLL
      for (int s = 0; s < stages; ++s) look_up(s < stages - 1 ? open[s].tile() : next.tile(), found[s]);
      SEQPRIM_UNROLL
      for (int s = 0; s < stages; ++s) publish(s, found[s]);
      engine_.sync_block();
    }
    SEQPRIM_UNROLL
    for (int s = 0; s < stages - 1; ++s) {
      if (open[s].tile() < tiles) fetch(s, open[s].tile());
      engine_.commit_copies();
    }
    engine_.template wait_copies<stages - 1>();
    engine_.sync_block();
    if constexpr (queries_stay) {
      SEQPRIM_UNROLL
      for (int d = 0; d < depth_steps; ++d) load_queries(d, queries_[d]);
    }
    for (int stage = 0; open[0].tile() < tiles; stage = stage + 1 == stages ? 0 : stage + 1) {
      engine_.template wait_copies<stages - 2>();
      engine_.sync_block();  // the oldest tile is there for all, and all are done with the one before it
      if (next.tile() < tiles) fetch(stage == 0 ? stages - 1 : stage - 1, next.tile());
      engine_.commit_copies();
      const auto add = [&] { add_tile(stage, begin_of(open[0].tile()), open[0].kind(), run.end, rows); };
      tile_step after;
      if constexpr (paged) {
        page_place found[look_ups]{};
        after = list.next(engine_, classify);
        look_up(after.tile(), found);
        add();
        publish(stage, found);  // the tile there now was fetched before the last barrier
      } else {
        add();
        after = list.next(engine_, classify);
      }
      SEQPRIM_UNROLL
      for (int s = 0; s + 1 < stages - 1; ++s) open[s] = open[s + 1];
      open[stages - 2] = next;
      next = after;
    }
    // Nothing is on its way: every tile that was fetched has been waited for and used.
    engine_.sync_block();
  }

  /// Ends the loop. Merges the warps that shared keys, in order, adds the sink (natural units, -inf: none) and passes the
  /// finished rows to `store(row, first column, values[8], lse)`, eight values at a time; rows without key: 0, lse -inf.
  template <class SinkOf, class Store>
  SEQPRIM_HD void finish(int rows, int value_dim, const SinkOf& sink_of, const Store& store) noexcept {
    using arch::cuda::accumulator_coordinates;
    const int lane = engine_.lane(), warp = engine_.warp(), thread = warp * arch::cuda::warp_lanes + lane;
    float* const sums = reinterpret_cast<float*>(shared_);  // [q_tile, sum_pitch]
    float* const tops = sums + Shape::q_tile * Shape::sum_pitch;
    float* const totals = tops + Shape::rows_of_warps;
    float* const weights = totals + Shape::rows_of_warps;
    SEQPRIM_UNROLL
    for (int half = 0; half < 2; ++half) {
      float sum = sum_[half] + engine_.shuffle_xor(sum_[half], 1);
      sum += engine_.shuffle_xor(sum, 2);
      if (lane % 4 == 0) {
        const int row = warp * arch::cuda::mma_rows + accumulator_coordinates(lane, half * 2).row;
        engine_.store(tops + row, top_[half]);
        engine_.store(totals + row, sum);
      }
    }
    engine_.sync_block();
    // Part `w` of row r is what warp part(r, w) / 16 holds of it.
    const auto part = [](int r, int w) {
      return (r / arch::cuda::mma_rows * Shape::key_warps + w) * arch::cuda::mma_rows + r % arch::cuda::mma_rows;
    };
    if (thread < rows) {
      const float sink = sink_of(thread) * log2_e;
      float top = sink;
      for (int w = 0; w < Shape::key_warps; ++w) top = ::fmaxf(top, tops[part(thread, w)]);
      const float safe = top == -infinity ? 0.0f : top;
      float total = 0, weight[Shape::key_warps];
      SEQPRIM_UNROLL
      for (int w = 0; w < Shape::key_warps; ++w) {
        weight[w] = engine_.exp2(tops[part(thread, w)] - safe);
        total += weight[w] * totals[part(thread, w)];
      }
      // All keys may be hidden, or their logits -inf; a sink alone has out = 0 by its weights.
      total += engine_.exp2(sink - safe);
      const float inverse = total == 0 ? 0.0f : 1.0f / total;
      SEQPRIM_UNROLL
      for (int w = 0; w < Shape::key_warps; ++w) engine_.store(weights + part(thread, w), weight[w] * inverse);
      engine_.store(tops + part(thread, 0), total == 0 ? -infinity : top * ln_2 + ::logf(total));
    }
    // The warps that shared keys add their sums one after the other, so that the memory is that of the rows and not of the warps.
    SEQPRIM_ROLLED
    for (int w = 0; w < Shape::key_warps; ++w) {
      engine_.sync_block();
      if (warp % Shape::key_warps != w) continue;
      SEQPRIM_UNROLL
      for (int half = 0; half < 2; ++half) {
        const coordinates at = accumulator_coordinates(lane, half * 2);
        const float weight = weights[warp * arch::cuda::mma_rows + at.row];
        float* const to = sums + (first_row_ + at.row) * Shape::sum_pitch + at.column;
        SEQPRIM_UNROLL
        for (int n = 0; n < value_blocks; ++n) {
          SEQPRIM_UNROLL
          for (int e = 0; e < 2; ++e)
            engine_.store(to + n * 8 + e, ::fmaf(weight, out_[n][half * 2 + e], w == 0 ? 0.0f : to[n * 8 + e]));
        }
      }
    }
    engine_.sync_block();
    constexpr int chunks = Shape::value_dim / 8;
    for (int id = thread; id < rows * chunks; id += Shape::lanes) {
      const int row = id / chunks, column = id % chunks * 8;
      if (column >= value_dim) continue;
      const float lse = tops[part(row, 0)];
      float numbers[8] = {};
      if (lse != -infinity) {
        SEQPRIM_UNROLL
        for (int d = 0; d < 8; ++d) numbers[d] = sums[row * Shape::sum_pitch + column + d];
      }
      store(row, column, numbers, lse);
    }
    if (value_dim == 0 && thread < rows) {
      const float numbers[8] = {};
      store(thread, 0, numbers, tops[part(thread, 0)]);
    }
  }

 private:
  using coordinates = arch::cuda::coordinates;

  SEQPRIM_HD T* key_tile(int stage) const noexcept {
    return shared_ + Shape::query_numbers + stage * (Shape::key_numbers + Shape::value_numbers);
  }
  SEQPRIM_HD T* value_tile(int stage) const noexcept { return key_tile(stage) + Shape::key_numbers; }
  SEQPRIM_HD page_place* places_of(int stage) const noexcept {
    return reinterpret_cast<page_place*>(shared_ + Shape::tile_bytes / 2) + stage * 2 * Shape::k_tile;
  }

  /// The rows of a tile: with pages, at the places that were looked up.
  template <class Source>
  [[nodiscard]] SEQPRIM_HD static auto rows_of_tile(const Source& source, const page_place* places,
                                                    index_t first) noexcept {
    if constexpr (placed_in_pages<Source>) {
      return rows_at_places<Source>{source, places, first};
    } else {
      return source;
    }
  }

  SEQPRIM_HD void load_queries(int d, std::uint32_t (&a)[4]) const noexcept {
    const coordinates at = arch::cuda::left_address(engine_.lane());
    const int start = Shape::key_layout::offset(at.row, at.column);
    engine_.load_matrices(a, engine_.address_of(shared_ + first_row_ * Shape::head_dim) +
                                 2 * Shape::key_layout::moved(start, 0, d * arch::cuda::mma_depth));
    if constexpr (plain) {
      SEQPRIM_UNROLL
      for (int r = 0; r < 4; ++r) a[r] ^= sign_;
    }
  }

  SEQPRIM_HD void add_tile(int stage, index_t begin, mask::tile_kind kind, index_t end, int rows) noexcept {
    // The part of a partial tile that belongs to a warp may be empty or full.
    const range keys{begin + first_key_, min<index_t>(begin + first_key_ + Shape::warp_keys, end)};
    if (first_row_ >= rows || keys.empty()) return;
    if (kind == mask::tile_kind::partial)
      kind = rows_.classify(first_row_, min(first_row_ + arch::cuda::mma_rows, rows), keys);
    if (kind == mask::tile_kind::empty) return;
    if (kind == mask::tile_kind::full && keys.size() == Shape::warp_keys) {
      add<false>(stage, keys);
    } else {
      add<true>(stage, keys);
    }
  }

  /// Adds the warp's keys of one tile.
  template <bool Partial> SEQPRIM_HD void add(int stage, range keys) noexcept {
    using arch::cuda::accumulator_of_left_register, arch::cuda::mma_depth;
    const int lane = engine_.lane();
    const auto k = engine_.address_of(key_tile(stage) + first_key_ * Shape::head_dim);
    const auto v = engine_.address_of(value_tile(stage) + first_key_ * Shape::value_dim);

    float logits[key_blocks][4];
    SEQPRIM_UNROLL
    for (int n = 0; n < key_blocks; ++n) {
      SEQPRIM_UNROLL
      for (int e = 0; e < 4; ++e) logits[n][e] = 0;
    }

    const coordinates right = arch::cuda::right_address(lane), below = arch::cuda::right_transposed_address(lane);
    const int right_start = Shape::key_layout::offset(right.row, right.column);
    const int below_start = Shape::value_layout::offset(below.row, below.column);
    SEQPRIM_UNROLL
    for (int d = 0; d < depth_steps; ++d) {
      std::uint32_t a[4];
      if constexpr (queries_stay) {
        SEQPRIM_UNROLL
        for (int r = 0; r < 4; ++r) a[r] = queries_[d][r];
      } else {
        load_queries(d, a);
      }
      SEQPRIM_UNROLL
      for (int n = 0; n < key_blocks; n += 2) {
        std::uint32_t b[4];
        engine_.load_matrices(b, k + 2 * Shape::key_layout::moved(right_start, n * 8, d * mma_depth));
        engine_.template multiply<T>(logits[n], a, b[0], b[1]);
        engine_.template multiply<T>(logits[n + 1], a, b[2], b[3]);
      }
    }

    if constexpr (Partial || !plain) modify<Partial>(keys, logits);

    // Logits become weights 2^(factor logit - top).
    float rescale[2];
    SEQPRIM_UNROLL
    for (int half = 0; half < 2; ++half) {
      float largest = -infinity;
      SEQPRIM_UNROLL
      for (int n = 0; n < key_blocks; ++n) {
        SEQPRIM_UNROLL
        for (int e = 0; e < 2; ++e) largest = ::fmaxf(largest, logits[n][half * 2 + e]);
      }

      largest = ::fmaxf(largest, engine_.shuffle_xor(largest, 1));
      largest = ::fmaxf(largest, engine_.shuffle_xor(largest, 2));
      const float top = ::fmaxf(top_[half], largest * factor_);
      // Where nothing is visible yet, top is -inf; a finite substitute keeps -inf - top from becoming NaN.
      const float safe = top == -infinity ? 0.0f : top;
      rescale[half] = engine_.exp2(top_[half] - safe);
      top_[half] = top;
      float sum = 0;
      SEQPRIM_UNROLL
      for (int n = 0; n < key_blocks; ++n) {
        SEQPRIM_UNROLL
        for (int e = 0; e < 2; ++e) {
          float& x = logits[n][half * 2 + e];
          x = engine_.exp2(::fmaf(x, factor_, -safe));
          sum += x;
        }
      }

      sum_[half] = ::fmaf(sum_[half], rescale[half], sum);
    }
    if (engine_.any(rescale[0] != 1 || rescale[1] != 1)) {
      SEQPRIM_UNROLL
      for (int n = 0; n < value_blocks; ++n) {
        SEQPRIM_UNROLL
        for (int e = 0; e < 4; ++e) out_[n][e] *= rescale[e / 2];
      }
    }

    std::uint32_t cleared = 0;
    SEQPRIM_UNROLL
    for (int n = 0; n < key_blocks; n += 2) {
      std::uint32_t a[4];
      SEQPRIM_UNROLL
      for (int r = 0; r < 4; ++r) {
        const coordinates from = accumulator_of_left_register(r);
        a[r] = engine_.template pack<T>(logits[n + from.row][from.column], logits[n + from.row][from.column + 1]);
      }
      SEQPRIM_UNROLL
      for (int m = 0; m < value_blocks; m += 2) {
        std::uint32_t b[4];
        engine_.load_matrices_transposed(b, v + 2 * Shape::value_layout::moved(below_start, n * 8, m * 8));
        if constexpr (Partial) {
          // A weight of 0 does not silence a hidden NaN or infinity.
          SEQPRIM_UNROLL
          for (int r = 0; r < 4; ++r) {
            const std::uint32_t marks = non_finite<T>(b[r]);
            b[r] &= ~((marks >> 15) * 0xffffu);
            cleared |= marks;
          }
        }
        engine_.template multiply<T>(out_[m], a, b[0], b[1]);
        engine_.template multiply<T>(out_[m + 1], a, b[2], b[3]);
      }
    }
    if constexpr (Partial) {
      if (engine_.any(cleared != 0)) add_non_finite(value_tile(stage), keys);
    }
  }

  /// Logits -> score(scale logit), and -inf where the pair is hidden.
  template <bool Partial> SEQPRIM_HD void modify(range keys, float (&logits)[key_blocks][4]) const noexcept {
    SEQPRIM_UNROLL
    for (int half = 0; half < 2; ++half) {
      const run_of_row seen = visible_run(half, keys);
      SEQPRIM_UNROLL
      for (int n = 0; n < key_blocks; ++n) {
        SEQPRIM_UNROLL
        for (int e = 0; e < 2; ++e) {
          const int key = n * 8 + arch::cuda::accumulator_coordinates(engine_.lane(), half * 2 + e).column;
          float& x = logits[n][half * 2 + e];
          const bool visible = !Partial || sees(half, seen, keys, key);
          if constexpr (plain) {
            x = visible ? x : -infinity;
          } else {
            // Rules are evaluated for pairs that exist; hidden ones may be outside of their arrays.
            x = visible ? rules_.of(half).score(scale_ * x, score::site{position_[half], keys.begin + key}) : -infinity;
          }
        }
      }
    }
  }

  /// The keys of a tile that a row attends to, relative to the warp's first one, where the mask has one range per row.
  struct run_of_row {
    int begin, end;
  };
  SEQPRIM_HD run_of_row visible_run(int half, range keys) const noexcept {
    const auto size = static_cast<index_t>(keys.size());
    if constexpr (mask::one_range_per_row<mask_type>) {
      const range seen = rules_.of(half).mask.visible_keys(position_[half]);
      const auto relative = [&](index_t j) { return static_cast<int>(min(max<index_t>(j - keys.begin, 0), size)); };
      return {relative(seen.begin), relative(seen.end)};
    } else {
      return {0, static_cast<int>(size)};
    }
  }
  SEQPRIM_HD bool sees(int half, run_of_row seen, range keys, int key) const noexcept {
    const bool inside = seen.begin <= key && key < seen.end;
    if constexpr (mask::one_range_per_row<mask_type>) {
      return inside;
    } else {
      return inside && rules_.of(half).mask(position_[half], keys.begin + key);
    }
  }
  SEQPRIM_HD int row_of(int half) const noexcept {
    return first_row_ + arch::cuda::accumulator_coordinates(engine_.lane(), half * 2).row;
  }

  /// Values that are not finite, pair by pair where they are visible. Rare: not unrolled over keys.
  SEQPRIM_HD void add_non_finite(const T* v, range keys) noexcept {
    const run_of_row seen[2] = {visible_run(0, keys), visible_run(1, keys)};
    const int column = arch::cuda::accumulator_coordinates(engine_.lane(), 0).column;
    SEQPRIM_ROLLED
    for (int key = 0; key < static_cast<int>(keys.size()); ++key) {
      const bool visible[2] = {sees(0, seen[0], keys, key), sees(1, seen[1], keys, key)};
      SEQPRIM_UNROLL
      for (int n = 0; n < value_blocks; ++n) {
        SEQPRIM_UNROLL
        for (int e = 0; e < 2; ++e) {
          const float x = static_cast<float>(v[Shape::value_layout::offset(first_key_ + key, n * 8 + column + e)]);
          if (x - x == 0) continue;
          if (visible[0]) out_[n][e] += x;
          if (visible[1]) out_[n][2 + e] += x;
        }
      }
    }
  }

  const Engine& engine_;
  const Rows& rows_;
  T* shared_;
  float scale_, factor_;
  std::uint32_t sign_;
  int first_row_, first_key_;
  lane_rules<rule, Rows::same_rule> rules_;
  index_t position_[2];
  float top_[2], sum_[2];
  float out_[value_blocks][4];
  std::uint32_t queries_[queries_stay ? depth_steps : 1][4];
};

}  // namespace seqprim::attention::detail
