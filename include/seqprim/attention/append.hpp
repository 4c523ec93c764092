// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cache.hpp>
#include <seqprim/attention/detail/encoded.hpp>
#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/tensor.hpp>

#include <cmath>
#include <cstdint>
#include <type_traits>

namespace seqprim::attention {

namespace detail {

/// The int8 value of x for a scale: the nearest, ties to even.
[[nodiscard]] SEQPRIM_HD std::int8_t code_of(float x, float scale) noexcept {
  if (!(scale > 0)) return 0;
  const float code = __builtin_rintf(x / scale);
  return static_cast<std::int8_t>(code > 127 ? 127 : code < -127 ? -127 : code);
}

/// The scale of elements that share one: NaN where int8 cannot represent one of them.
template <class X> [[nodiscard]] SEQPRIM_HD float scale_of(const X* x, index_t count) noexcept {
  float largest = 0;
  bool finite = true;
  for (index_t d = 0; d < count; ++d) {
    const float size = std::fabs(static_cast<float>(x[d]));
    finite = finite && size < __builtin_huge_valf();
    largest = size > largest ? size : largest;
  }
  return finite ? largest / 127 : __builtin_nanf("");
}

/// Stores rows of one head: from(i), a row of `dim` elements, goes to row at + i of `store`, rounded to its type.
template <class Isa, class T, class From>
void store_rows(const tensor_view<T, 4>& store, index_t first, index_t head, index_t at, index_t count, index_t dim,
                const From& from) noexcept {
  for (index_t i = 0; i < count; ++i)
    position::detail::convert_row<Isa, float>(from(i), dim, &store(first, head, at + i, 0));
}
template <class Isa, class From>
void store_rows(const quantized<std::int8_t, float>& store, index_t first, index_t head, index_t at, index_t count,
                index_t dim, const From& from) noexcept {
  const index_t block = store.block();
  for (index_t i = 0; i < count; ++i)
    for (index_t begin = 0, n = 0; n < store.scales.extent(3); begin += block, ++n) {
      const auto* const row = from(i);
      const index_t end = min(begin + block, dim);
      const float scale = scale_of(row + begin, end - begin);
      store.scales(first, head, at + i, n) = scale;
      for (index_t d = begin; d < end; ++d)
        store.codes(first, head, at + i, d) = code_of(static_cast<float>(row[d]), scale);
    }
}

/// No two sequences write to one page, and none names a page twice among those it writes to.
/// count(b): new rows of sequence b.
template <class Store, class Count>
void expect_own_pages(const paged_cache<Store>& cache, index_t batch, const Count& count) {
  const index_t page_size = cache.store.extent(2);
  tensor<unsigned char, 1> taken(cache.store.extent(0));
  for (index_t b = 0; b < batch; ++b) {
    const index_t written = min_of(count(b), cache.length(b));
    if (written == 0) continue;
    for (index_t n = (cache.length(b) - written) / page_size; n < ceil_div(cache.length(b), page_size); ++n) {
      unsigned char& page = taken(cache.table.page(b, n));
      SEQPRIM_EXPECTS(page == 0, "attention::append: page ", cache.table.page(b, n),
                      " would be written for two places, one ", "of them in sequence ", b,
                      ". See docs/reference/attention/append.md");
      page = 1;
    }
  }
}

/// Nothing that append writes shares memory with anything else.
template <class K, class V, class Keys, class Values>
void expect_caches_apart(const K& k, const V& v, const Keys& keys, const Values& values) {
  constexpr const char* page = ". See docs/reference/attention/append.md";
  const auto k_rows = rows_of(keys.store);
  const auto v_rows = rows_of(values.store);
  expect_distinct<entry::append>("k_cache", k_rows);
  expect_distinct<entry::append>("v_cache", v_rows);
  SEQPRIM_EXPECTS(!may_overlap(k_rows, v_rows), "attention::append: k_cache overlaps v_cache", page);
  const auto expect_apart_from_new = [&](const auto& cache) {
    SEQPRIM_EXPECTS(!may_overlap(cache, k) && !may_overlap(cache, v),
                    "attention::append: a cache overlaps the new keys or values", page);
  };
  expect_apart_from_new(k_rows);
  expect_apart_from_new(v_rows);
  const auto expect_scales_apart = [&](const auto& mine, const auto& other) {
    if constexpr (is_quantized<std::remove_cvref_t<decltype(mine)>>) {
      expect_distinct<entry::append>("the scales", mine.scales);
      expect_apart_from_new(mine.scales);
      bool apart = !may_overlap(mine.scales, mine.codes) && !may_overlap(mine.scales, rows_of(other));
      if constexpr (is_quantized<std::remove_cvref_t<decltype(other)>>)
        apart = apart && !may_overlap(mine.scales, other.scales);
      SEQPRIM_EXPECTS(apart, "attention::append: scales overlap another part of the caches", page);
    }
  };
  expect_scales_apart(keys.store, values.store);
  expect_scales_apart(values.store, keys.store);
}

/// Everything after validation, given where the rows of each sequence begin.
template <class Isa, class Op, class K, class V, class Keys, class Values>
void append_rows(const cpu& executor, const Op& op, const tensor_view<const K, 4>& k, const tensor_view<const V, 4>& v,
                 const Keys& keys, const Values& values, const row_starts& start) {
  const index_t batch = k.extent(0), heads = k.extent(1), count = k.extent(2);
  const auto store = [&](const auto& from, const auto& cache) {
    parallel_for(executor, batch * heads, [&](index_t piece, int) {
      const index_t b = piece / heads, h = piece % heads, begin = start(b);
      if (begin < 0) return;  // an idle slot
      cache.for_ranges(b, range{begin, begin + count}, [&](index_t first, index_t at, range part) {
        store_rows<Isa>(cache.store, first, h, at, part.size(), from.extent(3),
                        [&](index_t i) { return &from(b, h, part.begin - begin + i, 0); });
      });
    });
  };
  if constexpr (encodes_positions<Op> && !encodes_on_read<Op>) {
    const auto at = position::place(op.position);
    const position::shifted_rows map{at.keys, start};
    if constexpr (is_contiguous<Keys> && !is_quantized<decltype(keys.store)>) {
      const range rows{start.common, start.common + count};
      position::encode<Isa>(executor, at.encoding, map, position::side::key, k, keys.store.slice(2, rows));
    } else {
      tensor<float, 4> encoded(batch, heads, count, rows_of(keys.store).extent(3));
      position::encode<Isa>(executor, at.encoding, map, position::side::key, k, encoded);
      store(tensor_view<const float, 4>(encoded.view()), keys);
    }
  } else {
    store(k, keys);
  }
  store(v, values);
}

/// Operands, arrays and caches of `batch` sequences are where the executor reads them.
template <class Executor, class Op, class K, class V, class Keys, class Values>
void expect_append_memory(const Executor& executor, index_t batch, const Op& op, const K& k, const V& v,
                          const Keys& k_cache, const Values& v_cache) {
  constexpr const subject& self = subject_of<entry::append>;
  expect_arrays(executor, op);
  expect_memory(executor, self, "k_new", k);
  expect_memory(executor, self, "v_new", v);
  const auto expect_cache = [&](const char* name, const char* scales_name, const auto& cache) {
    expect_memory(executor, self, name, rows_of(cache.store));
    if constexpr (is_quantized<std::remove_cvref_t<decltype(cache.store)>>)
      expect_memory(executor, self, scales_name, cache.store.scales);
    if constexpr (std::is_same_v<Executor, cpu>) {
      cache.validate(batch);
    } else {
      if constexpr (!is_contiguous<std::remove_cvref_t<decltype(cache)>>) expect_arrays(executor, cache.table);
      cache.validate_on_device(batch);
    }
  };
  expect_cache("k_cache", "the scales of k_cache", k_cache);
  expect_cache("v_cache", "the scales of v_cache", v_cache);
}

/// The shapes of one call; those of the caches by views of the right shape.
template <class Op, class K, class V, class Keys, class Values>
void expect_new_rows(const Op& op, const K& k, const V& v, const Keys& k_cache, const Values& v_cache) {
  constexpr const subject& self = subject_of<entry::append>;
  self.expects_lengths("k_new", k);
  self.expects_lengths("v_new", v);
  const axis_length batch{k.extent(0), "batch", "k_new"}, heads{k.extent(1), "kv_heads", "k_new"},
      rows{k.extent(2), "new_len", "k_new"}, value_dim{v.extent(3), "value_dim", "v_new"},
      length{k_cache.extent(2), "length", "k_cache"};
  axis_length key_dim{cached_dim<entry::append>(op, k.extent(3)), "head_dim", "k_new"};
  if (key_dim.length != k.extent(3)) key_dim.set_by = "encoded k_new";
  self.expects_shape("v_new", v, {batch, heads, rows, value_dim});
  self.expects_shape("k_cache", k_cache, {batch, heads, length, key_dim});
  self.expects_shape("v_cache", v_cache, {batch, heads, length, value_dim});
}

/// Everything that append to a contiguous cache requires. Returns where the rows of each sequence begin.
template <class Executor, class Op, class K, class V, class Keys, class Values>
[[nodiscard]] row_starts checked_starts(const Executor& executor, const Op& op, const K& k, const V& v,
                                        const Keys& k_cache, const Values& v_cache, index_t start) {
  expect_append_memory(executor, k.extent(0), op, k, v, k_cache, v_cache);
  expect_new_rows(op, k, v, rows_of(k_cache.store), rows_of(v_cache.store));
  const index_t count = k.extent(2), capacity = k_cache.length(0);
  SEQPRIM_EXPECTS(start >= 0 && count <= capacity && start <= capacity - count, "attention::append: ", count,
                  " rows from row ", start, " on do not fit a cache of ", capacity,
                  ". See docs/reference/attention/append.md");
  const row_starts starts{.common = start};
  position::validate_map(position::shifted_rows{position::place(op.position).keys, starts}, k.extent(0), count);
  expect_caches_apart(k, v, k_cache, v_cache);
  return starts;
}

/// The same for pages. What a table says is checked where the host can read it.
template <class Executor, class Op, class K, class V, class StoreK, class StoreV>
[[nodiscard]] row_starts checked_starts(const Executor& executor, const Op& op, const K& k, const V& v,
                                        const paged_cache<StoreK>& k_cache, const paged_cache<StoreV>& v_cache) {
  constexpr const char* page = ". See docs/reference/attention/append.md";
  const index_t batch = k.extent(0), count = k.extent(2);
  expect_append_memory(executor, batch, op, k, v, k_cache, v_cache);
  expect_new_rows(op, k, v, outline(k_cache, batch), outline(v_cache, batch));
  if (k_cache.table.host_readable() && v_cache.table.host_readable()) {
    for (index_t b = 0; b < batch; ++b) {
      SEQPRIM_EXPECTS(k_cache.length(b) == v_cache.length(b), "attention::append: sequence ", b, " has ",
                      k_cache.length(b), " keys and ", v_cache.length(b), " values", page);
      SEQPRIM_EXPECTS(k_cache.length(b) == 0 || k_cache.length(b) >= count, "attention::append: ", count,
                      " rows do not fit sequence ", b, ", whose length with them is ", k_cache.length(b), page);
    }
    const auto new_rows = [count](index_t) { return count; };
    expect_own_pages(k_cache, batch, new_rows);
    expect_own_pages(v_cache, batch, new_rows);
  }
  const row_starts starts{.ends = k_cache.lengths(), .len = count};
  position::validate_map(position::shifted_rows{position::place(op.position).keys, starts}, batch, count);
  expect_caches_apart(k, v, k_cache, v_cache);
  return starts;
}

template <class X> consteval bool require_writable_cache() {
  require_cache<X>();
  using store = decltype(writable(std::declval<X&>()).store);
  using element_type = typename decltype(rows_of(std::declval<store>()))::element_type;
  static_assert(!std::is_const_v<element_type>,
                "seqprim: attention::append writes to the cache: pass tensors or views that are not const");
  return true;
}

}  // namespace detail

/// Writes new keys and values into a contiguous cache, keys with their positions encoded: the cache is then ready for
/// decode.
///
/// Shapes  k_new, v_new [batch, kv_heads, new_len, dim]; k_cache, v_cache [batch, kv_heads, capacity, dim], or
///         quantized views of that shape; row r goes to cache row start + r and is token start + r of its sequence,
///         whose position the key map of op.position gives (itself by default).
/// Types   float, float16, bfloat16 on either side; encoded in float, rounded once to the type of the cache, or to int8
///         as quantized describes.
/// Errors  precondition_error before anything is written: shapes disagree, start < 0, start + new_len > capacity, a
///         cache overlaps itself, its other half or the new rows.
/// Repeat  same bits for any number of threads.
/// Cost    one pass over the new rows; allocates a copy of the new keys if op.position encodes.
/// Page docs/reference/attention/append.md
template <class Isa = arch::native_isa, class Op, class NewK, class NewV, class CacheK, class CacheV>
void append(const cpu& executor, const Op& op, const NewK& new_keys, const NewV& new_values, index_t start,
            CacheK&& key_cache, CacheV&& value_cache) {
  static_assert(require_op<Op>() && detail::require_operand<NewK, 4>() && detail::require_operand<NewV, 4>() &&
                detail::require_writable_cache<CacheK>() && detail::require_writable_cache<CacheV>());
  static_assert(!is_paged<std::remove_cvref_t<CacheK>> && !is_paged<std::remove_cvref_t<CacheV>>,
                "seqprim: attention::append to pages takes no start: the lengths of the page table say where rows go");
  const auto k = tensor_view<const element_of<NewK>, 4>(as_view(new_keys));
  const auto v = tensor_view<const element_of<NewV>, 4>(as_view(new_values));
  const auto k_cache = detail::writable(key_cache);
  const auto v_cache = detail::writable(value_cache);
  executor.validate();
  detail::append_rows<Isa>(executor, op, k, v, k_cache, v_cache,
                           detail::checked_starts(executor, op, k, v, k_cache, v_cache, start));
}

/// The same for a cache in pages: the new rows become the last tokens of each sequence. The lengths of the page table
/// count them already, so that the same table serves append and the decode that follows:
///
///     row r of sequence b is token lengths[b] - new_len + r
///
/// A sequence of length 0 is an idle slot: nothing is written for it, whatever its new rows hold.
///
/// Errors  as above; what page_table rejects; a sequence shorter than new_len but not empty; keys and values of
///         different lengths; a page that two sequences would write to.
/// Cost    as above, and one byte per page.
template <class Isa = arch::native_isa, class Op, class NewK, class NewV, class StoreK, class StoreV>
void append(const cpu& executor, const Op& op, const NewK& new_keys, const NewV& new_values,
            const paged<StoreK>& key_cache, const paged<StoreV>& value_cache) {
  static_assert(require_op<Op>() && detail::require_operand<NewK, 4>() && detail::require_operand<NewV, 4>() &&
                detail::require_writable_cache<const paged<StoreK>>() &&
                detail::require_writable_cache<const paged<StoreV>>());
  const auto k = tensor_view<const element_of<NewK>, 4>(as_view(new_keys));
  const auto v = tensor_view<const element_of<NewV>, 4>(as_view(new_values));
  const auto k_cache = detail::writable(key_cache);
  const auto v_cache = detail::writable(value_cache);
  executor.validate();
  detail::append_rows<Isa>(executor, op, k, v, k_cache, v_cache,
                           detail::checked_starts(executor, op, k, v, k_cache, v_cache));
}

}  // namespace seqprim::attention
