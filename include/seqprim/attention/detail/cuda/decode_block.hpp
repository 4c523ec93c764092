// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cuda/forward_block.hpp>
#include <seqprim/attention/merge.hpp>
#include <seqprim/attention/paged.hpp>

namespace seqprim::attention::detail {

/// A contiguous cache, as blocks read it.
template <class T> struct cache_of_rows {
  tensor_view<const T, 4> rows;  // [batch, kv_heads, k_len, dim]

  [[nodiscard]] SEQPRIM_HD index_t length(index_t) const noexcept { return rows.extent(2); }
  [[nodiscard]] SEQPRIM_HD dense_rows<T> of(index_t b, index_t g) const noexcept {
    return {rows.data + b * rows.stride(0) + g * rows.stride(1), rows.stride(2)};
  }
};

/// Rows of one (sequence, head) in pages.
template <class T> struct paged_rows {
  const T* data;
  index_t page_step, step;
  const page_table* table;
  index_t b;
  std::uint32_t page_size;
  [[nodiscard]] SEQPRIM_HD const T* row(index_t j) const noexcept {
    const auto token = static_cast<std::uint32_t>(j);
    return data + table->page(b, token / page_size) * page_step + token % page_size * step;
  }
};
template <class T> struct cache_of_pages {
  tensor_view<const T, 4> pages;  // [pages, kv_heads, page_size, dim]
  page_table table;

  [[nodiscard]] SEQPRIM_HD index_t length(index_t b) const noexcept { return table.length(b); }
  [[nodiscard]] SEQPRIM_HD paged_rows<T> of(index_t b, index_t g) const noexcept {
    return {pages.data + g * pages.stride(1),           pages.stride(0), pages.stride(2), &table, b,
            static_cast<std::uint32_t>(pages.extent(2))};
  }
};

/// Everything a block of the decode kernel reads and writes. The query heads that share a key head are rows of one tile:
/// row n * q_len + i is query i of the n-th of them.
template <class Op, class T, class Out, class Cache> struct decode_call {
  Op op;
  problem p;
  float scale;
  tensor_view<const T, 4> q;
  Cache k, v;
  tensor_view<Out, 4> out;
  tensor_view<float, 3> lse;
  float* parts;      ///< [batch, heads, q_len, splits, value_dim] when there is more than one split
  float* part_lses;  ///< [batch, heads, q_len, splits]
  std::uint32_t splits;
  bool q_aligned, k_aligned, v_aligned, out_aligned;
};

/// Keys are cut at the same tokens for every batch and device.
[[nodiscard]] SEQPRIM_HD constexpr index_t decode_splits_of(index_t k_len, index_t split_keys) noexcept {
  return max<index_t>((k_len + split_keys - 1) / split_keys, 1);
}
template <class Shape> [[nodiscard]] SEQPRIM_HD constexpr index_t decode_row_tiles(const problem& p) noexcept {
  return p.kv_heads == 0 ? 0 : (p.group() * p.q_len + Shape::q_tile - 1) / Shape::q_tile;
}
template <class Shape>
[[nodiscard]] SEQPRIM_HD constexpr index_t decode_blocks(const problem& p, index_t splits) noexcept {
  return p.batch * p.kv_heads * decode_row_tiles<Shape>(p) * splits;
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
    const range rows = queries(0, end);
    if constexpr (same_mask) {
      return mask::key_bounds(mask::bind(op.mask, index_t{batch}, 0), rows, k_len);
    } else {
      range result{};
      for (std::uint32_t n = at(0) / q_len; n <= at(end - 1) / q_len; ++n)
        result = bounding_range(
            result, mask::key_bounds(mask::bind(op.mask, index_t{batch}, index_t{query_head(n)}), rows, k_len));
      return result;
    }
  }
};

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

/// One block of decode_blocks(p, splits): some rows of one key head against SplitKeys of its keys.
template <class Shape, int SplitKeys, class Engine, class Call>
SEQPRIM_HD void decode_block(const Engine& engine, const Call& call, void* shared) noexcept {
  static_assert(SplitKeys % Shape::k_tile == 0, "seqprim: split_keys is a multiple of k_tile");
  using T = typename Shape::element;
  using rows_type = rows_of_group<std::remove_cvref_t<decltype(call.op)>>;
  const problem& p = call.p;
  const auto rows_at = [&](const decode_task& task) {
    const auto kv_heads = static_cast<std::uint32_t>(p.kv_heads);
    return rows_type{call.op,
                     p.order,
                     task.batch,
                     task.kv_head,
                     kv_heads,
                     static_cast<std::uint32_t>(p.heads) / kv_heads,
                     static_cast<std::uint32_t>(p.q_len),
                     task.first_row};
  };
  const auto task_now = [&] {
    const auto kv_heads = static_cast<std::uint32_t>(p.kv_heads);
    const std::uint32_t rows = static_cast<std::uint32_t>(p.heads) / kv_heads * static_cast<std::uint32_t>(p.q_len);
    return decode_task_of<Shape>(kv_heads, (rows + Shape::q_tile - 1) / Shape::q_tile, call.splits, engine.block());
  };
  const decode_task task = task_now();
  const rows_type rows = rows_at(task);
  const int count = rows.count(Shape::q_tile);
  const range keys = intersect(rows.key_bounds(count, min(call.k.length(task.batch), p.k_len)),
                               {index_t{task.split} * SplitKeys, index_t{task.split + 1} * SplitKeys});
  const group_queries<T, rows_type> queries{call.q.data + task.batch * call.q.stride(0), call.q.stride(1),
                                            call.q.stride(2), rows};
  block_softmax<Shape, Engine, rows_type> state(engine, rows, static_cast<T*>(shared), call.scale);
  state.run(queries, call.k.of(task.batch, task.kv_head), call.v.of(task.batch, task.kv_head),
            {keys.begin / Shape::k_tile * Shape::k_tile, keys.end}, count, static_cast<int>(p.head_dim),
            static_cast<int>(p.value_dim), call.q_aligned, call.k_aligned, call.v_aligned);

  const decode_task end = task_now();
  const rows_type owned = rows_at(end);
  const auto value_dim = static_cast<int>(p.value_dim);
  const bool alone = call.splits == 1;
  state.finish(
      owned.count(Shape::q_tile), value_dim,
      // The sink joins once: here, or where the parts are merged.
      [&](int row) { return alone ? call.op.sink_of(owned.head_of(row)) : -__builtin_huge_valf(); },
      [&](int row, int column, const float(&numbers)[8], float lse) {
        const index_t h = owned.head_of(row), i = owned.position(row);
        const int left = min(value_dim - column, 8);
        if (alone) {
          if (column == 0 && call.lse.data != nullptr) call.lse(end.batch, h, i) = lse;
          if (left > 0) store_elements(engine, &call.out(end.batch, h, i, column), numbers, left, call.out_aligned);
        } else {
          const index_t part = ((end.batch * p.heads + h) * p.q_len + i) * call.splits + end.split;
          if (column == 0) call.part_lses[part] = lse;
          if (left > 0)
            store_elements(engine, call.parts + part * value_dim + column, numbers, left, value_dim % 4 == 0);
        }
      });
}

/// Merges the parts of one row, in order, and the sink: channels are distributed over the lanes.
template <class Call> SEQPRIM_HD void merge_parts(const Call& call, index_t row, index_t lane, index_t lanes) noexcept {
  constexpr float infinity = __builtin_huge_valf();
  const problem& p = call.p;
  const index_t i = row % p.q_len, h = row / p.q_len % p.heads, b = row / p.q_len / p.heads;
  const float* const lses = call.part_lses + row * call.splits;
  const float* const parts = call.parts + row * call.splits * p.value_dim;
  const float sink = call.op.sink_of(h);
  float top = sink, total = 0;
  for (std::uint32_t s = 0; s < call.splits; ++s) top = ::fmaxf(top, lses[s]);
  const float safe = top == -infinity ? 0.0f : top;
  for (std::uint32_t s = 0; s < call.splits; ++s) total += ::expf(lses[s] - safe);
  total += ::expf(sink - safe);
  const float inverse = total == 0 ? 0.0f : 1.0f / total;
  if (lane == 0 && call.lse.data != nullptr) call.lse(b, h, i) = total == 0 ? -infinity : top + ::logf(total);
  for (index_t d = lane; d < p.value_dim; d += lanes) {
    float sum = 0;
    for (std::uint32_t s = 0; s < call.splits; ++s) {
      // An empty part counts for nothing; a NaN counts.
      if (lses[s] != -infinity) sum = ::fmaf(::expf(lses[s] - safe), parts[s * p.value_dim + d], sum);
    }
    using element = std::remove_cvref_t<decltype(call.out(b, h, i, d))>;
    call.out(b, h, i, d) = static_cast<element>(sum * inverse);
  }
}

}  // namespace seqprim::attention::detail
