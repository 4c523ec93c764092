// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cuda/forward_block.hpp>
#include <seqprim/attention/merge.hpp>
#include <seqprim/attention/paged.hpp>
#include <seqprim/attention/quantized.hpp>

namespace seqprim::attention::detail {

/// Rows of one head in pages.
template <class T> struct page_rows {
  const T* data;
  index_t page_step, step;
  [[nodiscard]] SEQPRIM_HD const T* at(page_place place) const noexcept {
    return data + place.page * page_step + place.row * step;
  }
};

/// What holds the rows of a cache, [batch or pages, kv_heads, rows, dim]: a view of numbers, or of int8 values with scales.
template <class T> using number_store = tensor_view<const T, 4>;
struct code_store {
  quantized<const std::int8_t, const float> rows;
  std::uint32_t block;  ///< channels that share a scale

  [[nodiscard]] SEQPRIM_HD index_t extent(int axis) const noexcept { return rows.extent(axis); }
};

/// The rows of one (sequence, head) of a contiguous cache.
template <class T>
[[nodiscard]] SEQPRIM_HD dense_rows<T> dense_rows_of(const number_store<T>& store, index_t b, index_t g) noexcept {
  return {store.data + b * store.stride(0) + g * store.stride(1), store.stride(2)};
}
struct dense_codes {
  dense_rows<std::int8_t> codes;
  dense_rows<float> scales;
  std::uint32_t block;
  index_t scale_step;
  [[nodiscard]] SEQPRIM_HD code_row row(index_t j) const noexcept {
    return {codes.row(j), scales.row(j), block, scale_step};
  }
};
[[nodiscard]] SEQPRIM_HD dense_codes dense_rows_of(const code_store& store, index_t b, index_t g) noexcept {
  return {dense_rows_of(store.rows.codes, b, g), dense_rows_of(store.rows.scales, b, g), store.block,
          store.rows.scales.stride(3)};
}

/// The rows of one head in all pages.
template <class T>
[[nodiscard]] SEQPRIM_HD page_rows<T> page_rows_of(const number_store<T>& store, index_t g) noexcept {
  return {store.data + g * store.stride(1), store.stride(0), store.stride(2)};
}
struct page_codes {
  page_rows<std::int8_t> codes;
  page_rows<float> scales;
  std::uint32_t block;
  index_t scale_step;
  [[nodiscard]] SEQPRIM_HD code_row at(page_place place) const noexcept {
    return {codes.at(place), scales.at(place), block, scale_step};
  }
};
[[nodiscard]] SEQPRIM_HD page_codes page_rows_of(const code_store& store, index_t g) noexcept {
  return {page_rows_of(store.rows.codes, g), page_rows_of(store.rows.scales, g), store.block,
          store.rows.scales.stride(3)};
}

/// A contiguous cache, as blocks read it.
template <class Store> struct cache_of_rows {
  static constexpr bool paged = false;
  Store store;  // [batch, kv_heads, k_len, dim]

  [[nodiscard]] SEQPRIM_HD index_t length(index_t) const noexcept { return store.extent(2); }
  [[nodiscard]] SEQPRIM_HD auto of(index_t b, index_t g) const noexcept { return dense_rows_of(store, b, g); }
};

/// Rows of one (sequence, head) in pages.
template <class Rows> struct paged_rows {
  Rows rows;
  const page_table* table;
  index_t b;
  std::uint32_t page_size;
  [[nodiscard]] SEQPRIM_HD page_place place_of(index_t j) const noexcept {
    const auto token = static_cast<std::uint32_t>(j);
    return {static_cast<std::uint32_t>(table->page(b, token / page_size)), token % page_size};
  }
  [[nodiscard]] SEQPRIM_HD auto at(page_place place) const noexcept { return rows.at(place); }
};
template <class Store> struct cache_of_pages {
  static constexpr bool paged = true;
  Store store;  // [pages, kv_heads, page_size, dim]
  page_table table;

  [[nodiscard]] SEQPRIM_HD index_t length(index_t b) const noexcept { return table.length(b); }
  [[nodiscard]] SEQPRIM_HD auto of(index_t b, index_t g) const noexcept {
    const auto rows = page_rows_of(store, g);
    return paged_rows<std::remove_const_t<decltype(rows)>>{rows, &table, b,
                                                           static_cast<std::uint32_t>(store.extent(2))};
  }
};

/// A cache given to decode, as blocks read it.
template <class T> [[nodiscard]] number_store<T> block_store(const tensor_view<T, 4>& view) noexcept { return view; }
template <class T, index_t Last> [[nodiscard]] auto block_store(const tensor_view<T, 4, Last>& view) noexcept {
  return number_store<std::remove_const_t<T>>(view);
}
template <class Code, class Scale> [[nodiscard]] code_store block_store(const quantized<Code, Scale>& cache) noexcept {
  return {cache, static_cast<std::uint32_t>(cache.block())};
}
template <class Cache> [[nodiscard]] auto block_cache(const Cache& cache) noexcept {
  if constexpr (is_paged<Cache>) {
    const auto store = block_store(as_view(cache.pages));
    return cache_of_pages<std::remove_const_t<decltype(store)>>{store, cache.table};
  } else {
    const auto store = block_store(as_view(cache));
    return cache_of_rows<std::remove_const_t<decltype(store)>>{store};
  }
}

/// The view of the rows of a cache.
template <class T> [[nodiscard]] const tensor_view<const T, 4>& rows_of_store(const number_store<T>& store) noexcept {
  return store;
}
[[nodiscard]] inline const tensor_view<const std::int8_t, 4>& rows_of_store(const code_store& store) noexcept {
  return store.rows.codes;
}

/// True when blocks may load 16 bytes of a row at once.
template <class T> [[nodiscard]] bool loads_are_wide(const number_store<T>& store) noexcept {
  return rows_are_aligned(store);
}
[[nodiscard]] inline bool loads_are_wide(const code_store& store) noexcept {
  return rows_are_aligned(store.rows.codes) && store.extent(3) % 16 == 0;
}

/// Shared memory of a block of the decode kernel.
template <class Shape, class Cache>
inline constexpr int decode_shared_bytes = Cache::paged ? Shape::paged_bytes : Shape::shared_bytes;

/// Rows of one key head, keys of a sequence, blocks: kernels count them in 32 bits.
inline constexpr index_t most_decode_items = 0x7fffffff;

/// The splits of a sequence whose queries attend to keys [0, k_len). It depends on nothing else, so neither do the bits of a result.
template <class Policy> [[nodiscard]] SEQPRIM_HD constexpr std::uint32_t decode_splits(index_t k_len) noexcept {
  const auto keys = static_cast<std::uint32_t>(Policy::split_keys(k_len));
  return max<std::uint32_t>((static_cast<std::uint32_t>(k_len) + keys - 1) / keys, 1);
}

/// Calls body(keys, longest) for each size of a split among sequences of up to k_len keys, and the longest of them that is cut so.
template <class Policy, class Body> constexpr void for_split_sizes(index_t k_len, const Body& body) {
  while (k_len > 0) {
    const int keys = Policy::split_keys(k_len);
    body(keys, k_len);
    index_t low = 1, high = k_len;  // the shortest of that size, by bisection
    while (low < high) {
      const index_t middle = low + (high - low) / 2;
      if (Policy::split_keys(middle) < keys)
        low = middle + 1;
      else
        high = middle;
    }
    k_len = low - 1;
  }
}

/// The most splits of a sequence of up to k_len keys: a longer one may have fewer, because its splits are larger.
template <class Policy> [[nodiscard]] constexpr std::uint32_t most_decode_splits(index_t k_len) noexcept {
  std::uint32_t most = 1;
  for_split_sizes<Policy>(k_len, [&](int, index_t longest) { most = max(most, decode_splits<Policy>(longest)); });
  return most;
}

/// Named requirement: every split is a multiple of k_tile.
template <class Policy, int KTile> consteval bool require_split_keys() {
  bool fits = true;
  for_split_sizes<Policy>(most_decode_items, [&](int keys, index_t) { fits = fits && keys > 0 && keys % KTile == 0; });
  return fits;
}

template <class Shape> [[nodiscard]] SEQPRIM_HD constexpr index_t decode_row_tiles(const problem& p) noexcept {
  return p.kv_heads == 0 ? 0 : (p.group() * p.q_len + Shape::q_tile - 1) / Shape::q_tile;
}

/// Rejects rows and keys that kernels cannot count.
inline void expect_decode_counts(const problem& p) {
  constexpr const subject& self = subject_of<entry::decode>;
  self.expects(p.q_len <= most_decode_items / max<index_t>(p.group(), 1), "the ", p.group(),
               " query heads of a key head times q_len (", p.q_len, ") exceed 2^31 - 1 rows");
  self.expects(p.k_len <= most_decode_items, "k_len (", p.k_len, ") exceeds 2^31 - 1");
}

/// What a block of the decode kernel owns: rows of one key head and a range of keys.
struct decode_task {
  std::uint32_t batch, kv_head, first_row, split;
};
template <class Shape>
[[nodiscard]] SEQPRIM_HD constexpr decode_task decode_task_of(std::uint32_t kv_heads, std::uint32_t row_tiles,
                                                              std::uint32_t splits, std::uint32_t block) noexcept {
  const std::uint32_t split = block % splits, above = block / splits;
  const std::uint32_t tile = above % row_tiles, head = above / row_tiles;
  return {head / kv_heads, head % kv_heads, tile * Shape::q_tile, split};
}

/// The queries of one sequence: rows [first, first + count) of batch row `batch` of q, out and lse.
struct query_rows {
  index_t batch, first, count;
};
/// A row of a call: its sequence, and where it is in q, out and lse.
struct query_row {
  std::uint32_t sequence, batch, head, row;
};

/// The queries of a call where every sequence has as many: q [batch, heads, q_len, dim].
struct even_queries {
  static constexpr bool idle_blocks = false;

  [[nodiscard]] SEQPRIM_HD query_rows of(const problem& p, std::uint32_t b) const noexcept { return {b, 0, p.q_len}; }
  /// The sequence of row `row` of [batch, heads, q_len].
  [[nodiscard]] SEQPRIM_HD query_row row_of(const problem& p, std::uint32_t row) const noexcept {
    const auto q_len = static_cast<std::uint32_t>(p.q_len), heads = static_cast<std::uint32_t>(p.heads);
    return {row / q_len / heads, row / q_len / heads, row / q_len % heads, row % q_len};
  }
  template <class Shape>
  [[nodiscard]] SEQPRIM_HD decode_task task_of(const problem& p, std::uint32_t splits,
                                               std::uint32_t block) const noexcept {
    const auto kv_heads = static_cast<std::uint32_t>(p.kv_heads);
    const std::uint32_t rows = static_cast<std::uint32_t>(p.heads) / kv_heads * static_cast<std::uint32_t>(p.q_len);
    return decode_task_of<Shape>(kv_heads, (rows + Shape::q_tile - 1) / Shape::q_tile, splits, block);
  }
};

/// Concatenated queries of sequences of unequal length: q [1, heads, q_len, dim], of which sequence b has the rows [offsets[b],
/// offsets[b + 1]). Only sequences with least_rows to most_rows rows per key head take part.
struct ragged_queries {
  static constexpr bool idle_blocks = true;
  static constexpr std::uint32_t idle = 0xffffffffu;  ///< the split of a block that owns nothing

  index_array offsets;
  std::uint32_t least_rows, most_rows;

  [[nodiscard]] SEQPRIM_HD query_rows of(const problem&, std::uint32_t b) const noexcept {
    return {0, offsets[b], offsets[b + 1] - offsets[b]};
  }
  [[nodiscard]] SEQPRIM_HD query_row row_of(const problem& p, std::uint32_t row) const noexcept {
    const auto q_len = static_cast<std::uint32_t>(p.q_len), token = row % q_len;
    return {static_cast<std::uint32_t>(find_segment(offsets, token)), 0, row / q_len, token};
  }
  /// Tiles of rows of one key head. Those of sequence b begin with tile first_tile(b): as many as its rows may need, however they
  /// are distributed, so that nobody needs to read the offsets before a launch.
  template <class Shape> [[nodiscard]] SEQPRIM_HD static index_t tiles(const problem& p) noexcept {
    return p.group() * p.q_len / Shape::q_tile + p.batch;
  }
  template <class Shape>
  [[nodiscard]] SEQPRIM_HD decode_task task_of(const problem& p, std::uint32_t splits,
                                               std::uint32_t block) const noexcept {
    const auto kv_heads = static_cast<std::uint32_t>(p.kv_heads), batch = static_cast<std::uint32_t>(p.batch);
    const std::uint32_t group = static_cast<std::uint32_t>(p.heads) / kv_heads;
    const std::uint32_t all = group * static_cast<std::uint32_t>(p.q_len) / Shape::q_tile + batch;
    const std::uint32_t above = block / splits, tile = above % all;
    const auto first_tile = [&](std::uint32_t b) {
      return group * static_cast<std::uint32_t>(offsets[b]) / Shape::q_tile + b;
    };
    std::uint32_t low = 0, high = batch;
    while (high - low > 1) {
      const std::uint32_t middle = low + (high - low) / 2;
      (first_tile(middle) <= tile ? low : high) = middle;
    }
    const std::uint32_t rows = group * static_cast<std::uint32_t>(offsets[low + 1] - offsets[low]),
                        first_row = (tile - first_tile(low)) * Shape::q_tile;
    const bool owns = first_row < rows && least_rows <= rows && rows <= most_rows;
    return {low, above / all, first_row, owns ? block % splits : idle};
  }
};

/// The product of the numbers that make up the blocks of a call.
template <std::size_t N> [[nodiscard]] index_t expect_blocks(const index_t (&factors)[N]) {
  index_t blocks = 1;
  for (const index_t n : factors) {
    subject_of<entry::decode>.expects(n == 0 || blocks <= most_decode_items / n, "batch, kv_heads (", factors[0],
                                      "), tiles of rows and splits (", factors[1], ") exceed 2^31 - 1 blocks");
    blocks *= n;
  }
  return blocks;
}
/// Blocks of one call: for each key head, tile of its rows and split of its keys.
template <class Shape> [[nodiscard]] index_t decode_blocks(const problem& p, index_t splits, const even_queries& = {}) {
  return expect_blocks({p.kv_heads, splits, p.batch, decode_row_tiles<Shape>(p)});
}
template <class Shape> [[nodiscard]] index_t decode_blocks(const problem& p, index_t splits, const ragged_queries&) {
  return expect_blocks({p.kv_heads, splits, ragged_queries::tiles<Shape>(p)});
}

/// Everything a block of the decode kernel reads and writes. The query heads that share a key head are rows of one tile:
/// row n * q_len + i is query i of the n-th of them.
template <class Op, class T, class Out, class Keys, class Values, class Queries = even_queries> struct decode_call {
  Op op;
  problem p;
  float scale;
  tensor_view<const T, 4> q;
  Keys k;
  Values v;
  tensor_view<Out, 4> out;
  tensor_view<float, 3> lse;
  float* parts;      ///< [rows, splits, value_dim] when there is more than one split; rows: [batch, heads, q_len] of q
  float* part_lses;  ///< [rows, splits]
  std::uint32_t splits;
  bool q_aligned, k_aligned, v_aligned, out_aligned;  ///< 16 bytes of a row may be read or written at once
  Queries queries = {};
};

/// The rows of a block that belong to the query heads of one key head.
template <class Op> struct rows_of_group {
  using rule = head_rule<mask::bound<decltype(Op::mask)>,
                         decltype(score::bind(std::declval<const Op&>().score, index_t{}, index_t{}))>;
  static constexpr bool same_mask = same_for_all_heads<decltype(Op::mask)>;
  static constexpr bool same_rule = same_mask && same_for_all_heads<decltype(Op::score)>;

  const Op& op;
  head_order order;
  std::uint32_t batch, kv_head, kv_heads, group, q_len, first;

  [[nodiscard]] SEQPRIM_HD std::uint32_t last() const noexcept { return group * q_len - 1; }
  [[nodiscard]] SEQPRIM_HD std::uint32_t at(int row) const noexcept {
    return min(first + static_cast<std::uint32_t>(row), last());
  }
  [[nodiscard]] SEQPRIM_HD std::uint32_t query_head(std::uint32_t n) const noexcept {
    return order == head_order::tiled ? n * kv_heads + kv_head : kv_head * group + n;
  }
  [[nodiscard]] SEQPRIM_HD std::uint32_t head_of(int row) const noexcept { return query_head(at(row) / q_len); }
  [[nodiscard]] SEQPRIM_HD index_t position(int row) const noexcept { return at(row) % q_len; }
  [[nodiscard]] SEQPRIM_HD int count(int limit) const noexcept {
    return static_cast<int>(min(static_cast<std::uint32_t>(limit), group * q_len - first));
  }
  [[nodiscard]] SEQPRIM_HD rule rule_of(int row) const noexcept {
    const index_t h = head_of(row);
    return {mask::bind(op.mask, index_t{batch}, h), score::bind(op.score, index_t{batch}, h)};
  }
  /// The queries of rows [begin, end): exact within one head, all of them across heads.
  [[nodiscard]] SEQPRIM_HD range queries(int begin, int end) const noexcept {
    const std::uint32_t low = at(begin), high = at(end - 1);
    if (low / q_len != high / q_len) return {0, q_len};
    return {low % q_len, index_t{high % q_len} + 1};
  }
  [[nodiscard]] SEQPRIM_HD mask::tile_kind classify(int begin, int end, range keys) const noexcept {
    const range rows = queries(begin, end);
    if constexpr (same_mask) {
      return mask::bind(op.mask, index_t{batch}, 0).classify(rows, keys);
    } else {
      const std::uint32_t low = at(begin) / q_len, high = at(end - 1) / q_len;
      const auto of = [&](std::uint32_t n) {
        return mask::bind(op.mask, index_t{batch}, index_t{query_head(n)}).classify(rows, keys);
      };
      const mask::tile_kind kind = of(low);
      for (std::uint32_t n = low + 1; n <= high; ++n)
        if (of(n) != kind) return mask::tile_kind::partial;
      return kind;
    }
  }
  [[nodiscard]] SEQPRIM_HD range key_bounds(int end, index_t k_len) const noexcept {
    return key_bounds_of_heads(at(0) / q_len, at(end - 1) / q_len, queries(0, end), k_len);
  }
  /// Behind the last key that a row of the key head may attend to, whether it is one of this block or not.
  [[nodiscard]] SEQPRIM_HD index_t key_end(index_t k_len) const noexcept {
    const range bounds = key_bounds_of_heads(0, group - 1, {0, q_len}, k_len);
    return bounds.empty() ? 0 : bounds.end;
  }

 private:
  [[nodiscard]] SEQPRIM_HD range key_bounds_of_heads(std::uint32_t low, std::uint32_t high, range rows,
                                                     index_t k_len) const noexcept {
    if constexpr (same_mask) {
      return mask::key_bounds(mask::bind(op.mask, index_t{batch}, 0), rows, k_len);
    } else {
      range result{};
      for (std::uint32_t n = low; n <= high; ++n)
        result = bounding_range(
            result, mask::key_bounds(mask::bind(op.mask, index_t{batch}, index_t{query_head(n)}), rows, k_len));
      return result;
    }
  }
};

/// The rows of a key head from `first` on.
template <class Call>
[[nodiscard]] SEQPRIM_HD auto rows_of_call(const Call& call, std::uint32_t batch, std::uint32_t kv_head,
                                           std::uint32_t first) noexcept {
  const auto kv_heads = static_cast<std::uint32_t>(call.p.kv_heads);
  const index_t count = call.queries.of(call.p, batch).count;
  return rows_of_group<std::remove_cvref_t<decltype(call.op)>>{call.op,
                                                               call.p.order,
                                                               batch,
                                                               kv_head,
                                                               kv_heads,
                                                               static_cast<std::uint32_t>(call.p.heads) / kv_heads,
                                                               static_cast<std::uint32_t>(count),
                                                               first};
}

/// How the keys of one key head are cut.
struct decode_cut {
  index_t length;        ///< keys of the sequence
  index_t split_keys;    ///< of each split
  std::uint32_t splits;  ///< with 1, the block writes the result itself
};
template <class Policy, class Call, class Rows>
[[nodiscard]] SEQPRIM_HD decode_cut cut_of(const Call& call, const Rows& rows) noexcept {
  const index_t length = min(call.k.length(rows.batch), call.p.k_len), end = rows.key_end(length);
  return {length, Policy::split_keys(end), decode_splits<Policy>(end)};
}

/// The queries of a block in global memory.
template <class T, class Rows> struct group_queries {
  const T* data;
  index_t head_step, step;
  const Rows& rows;
  [[nodiscard]] SEQPRIM_HD const T* row(index_t r) const noexcept {
    const auto local = static_cast<int>(r);
    return data + rows.head_of(local) * head_step + rows.position(local) * step;
  }
};

/// One block of decode_blocks(p, splits): some rows of one key head against one split of its keys. Splits beyond those of the
/// sequence, and those in which no row attends to a key, leave at once.
template <class Shape, class Policy, class Engine, class Call>
SEQPRIM_HD void decode_block(const Engine& engine, const Call& call, void* shared) noexcept {
  static_assert(require_split_keys<Policy, Shape::k_tile>(),
                "seqprim: split_keys of a block policy is a positive multiple of k_tile for every length");
  using T = typename Shape::element;
  const problem& p = call.p;
  const auto task_now = [&] { return call.queries.template task_of<Shape>(p, call.splits, engine.block()); };
  const auto part_of = [&](const decode_task& task, const query_rows& in, index_t h, index_t i) {
    return ((in.batch * p.heads + h) * p.q_len + in.first + i) * call.splits + task.split;
  };
  const decode_task task = task_now();
  if constexpr (std::remove_cvref_t<decltype(call.queries)>::idle_blocks) {
    if (task.split == ragged_queries::idle) return;
  }
  const query_rows in = call.queries.of(p, task.batch);
  const auto rows = rows_of_call(call, task.batch, task.kv_head, task.first_row);
  using rows_type = std::remove_const_t<decltype(rows)>;
  const int count = rows.count(Shape::q_tile);
  const decode_cut cut = cut_of<Policy>(call, rows);
  if (task.split >= cut.splits) return;
  const range keys = intersect(rows.key_bounds(count, cut.length),
                               {task.split * cut.split_keys, (task.split + index_t{1}) * cut.split_keys});
  if (keys.empty() && cut.splits > 1) {
    const int row = engine.warp() * arch::cuda::warp_lanes + engine.lane();
    if (row < count) call.part_lses[part_of(task, in, rows.head_of(row), rows.position(row))] = -__builtin_huge_valf();
    return;
  }
  const group_queries<T, rows_type> queries{call.q.data + in.batch * call.q.stride(0) + in.first * call.q.stride(2),
                                            call.q.stride(1), call.q.stride(2), rows};
  block_softmax<Shape, Engine, rows_type> state(engine, rows, static_cast<T*>(shared), call.scale);
  state.run(queries, call.k.of(task.batch, task.kv_head), call.v.of(task.batch, task.kv_head),
            {keys.begin / Shape::k_tile * Shape::k_tile, keys.end}, count, static_cast<int>(p.head_dim),
            static_cast<int>(p.value_dim), call.q_aligned, call.k_aligned, call.v_aligned);

  const decode_task end = task_now();
  const query_rows to = call.queries.of(p, end.batch);
  const auto owned = rows_of_call(call, end.batch, end.kv_head, end.first_row);
  const auto value_dim = static_cast<int>(p.value_dim);
  const bool alone = cut_of<Policy>(call, owned).splits == 1;
  state.finish(
      owned.count(Shape::q_tile), value_dim,
      // The sink joins once: here, or where the parts are merged.
      [&](int row) { return alone ? call.op.sink_of(owned.head_of(row)) : -__builtin_huge_valf(); },
      [&](int row, int column, const float(&numbers)[8], float lse) {
        const index_t h = owned.head_of(row), i = owned.position(row);
        const int left = min(value_dim - column, 8);
        if (alone) {
          if (column == 0 && call.lse.data != nullptr) call.lse(to.batch, h, to.first + i) = lse;
          if (left > 0)
            store_elements(engine, &call.out(to.batch, h, to.first + i, column), numbers, left, call.out_aligned);
        } else {
          const index_t part = part_of(end, to, h, i);
          if (column == 0) call.part_lses[part] = lse;
          if (left > 0)
            store_elements(engine, call.parts + part * value_dim + column, numbers, left, value_dim % 4 == 0);
        }
      });
}

/// The block that merges the parts of one row.
struct merge_shape {
  static constexpr int warps = 4, lanes = warps * arch::cuda::warp_lanes;
  static constexpr int weights = 1024;  ///< of parts, in shared memory at once
  static constexpr int shared_bytes = 4 * (weights + warps);
};

/// One block for each row: merges its parts in order, and the sink. Lanes share the exponentials, then each owns channels.
template <class Policy, class Engine, class Call>
SEQPRIM_HD void merge_parts(const Engine& engine, const Call& call, void* shared) noexcept {
  constexpr float infinity = __builtin_huge_valf();
  const problem& p = call.p;
  const std::uint32_t row = engine.block();
  const query_row to = call.queries.row_of(p, row);
  const std::uint32_t splits = cut_of<Policy>(call, rows_of_call(call, to.sequence, kv_head_of(p, to.head), 0)).splits;
  if (splits == 1) return;  // its block wrote the result
  const float* const lses = call.part_lses + index_t{row} * call.splits;
  const float* const parts = call.parts + index_t{row} * call.splits * p.value_dim;
  float* const weights = static_cast<float*>(shared);
  float* const tops = weights + merge_shape::weights;
  const int lane = engine.lane(), warp = engine.warp();
  const auto thread = static_cast<std::uint32_t>(warp * arch::cuda::warp_lanes + lane);
  const float sink = call.op.sink_of(to.head);

  float top = sink;
  for (std::uint32_t s = thread; s < splits; s += merge_shape::lanes) top = ::fmaxf(top, lses[s]);
  for (int step = arch::cuda::warp_lanes / 2; step > 0; step /= 2) top = ::fmaxf(top, engine.shuffle_xor(top, step));
  if (lane == 0) engine.store(tops + warp, top);
  engine.sync_block();
  for (int w = 0; w < merge_shape::warps; ++w) top = ::fmaxf(top, tops[w]);
  const float safe = top == -infinity ? 0.0f : top;

  index_t d = thread;
  do {
    float sum = 0, total = 0;
    for (std::uint32_t first = 0; first < splits; first += merge_shape::weights) {
      const std::uint32_t count = min<std::uint32_t>(splits - first, merge_shape::weights);
      engine.sync_block();  // all are done with the weights before
      for (std::uint32_t n = thread; n < count; n += merge_shape::lanes)
        engine.store(weights + n, lses[first + n] == -infinity ? -1.0f : ::expf(lses[first + n] - safe));
      engine.sync_block();
      for (std::uint32_t n = 0; n < count; ++n) {
        // An empty part counts for nothing and was not written; a NaN counts.
        if (weights[n] == -1) continue;
        total += weights[n];
        if (d < p.value_dim) sum = ::fmaf(weights[n], parts[(first + n) * p.value_dim + d], sum);
      }
    }
    total += ::expf(sink - safe);
    if (d == 0 && call.lse.data != nullptr)
      call.lse(to.batch, to.head, to.row) = total == 0 ? -infinity : top + ::logf(total);
    using element = std::remove_cvref_t<decltype(call.out(to.batch, to.head, to.row, d))>;
    if (d < p.value_dim)
      call.out(to.batch, to.head, to.row, d) = static_cast<element>(sum * (total == 0 ? 0.0f : 1.0f / total));
    d += merge_shape::lanes;
  } while (d - thread < p.value_dim);
}

}  // namespace seqprim::attention::detail
