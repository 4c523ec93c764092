// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/append.hpp>
#include <seqprim/attention/detail/cuda/append_block.hpp>
#include <seqprim/attention/ragged.hpp>
#include <seqprim/core/arrays.cuh>
#include <seqprim/core/gpu.cuh>
#include <seqprim/position/encode.cuh>

#include <type_traits>

namespace seqprim::attention {

namespace detail {

/// Named requirement of append on CUDA, besides those of the CPU.
template <class K, class V> consteval bool require_single_precision() {
  static_assert(!std::is_same_v<K, double> && !std::is_same_v<V, double>,
                "seqprim: attention on CUDA takes float, float16 and bfloat16, and float lse");
  return true;
}

/// Everything after validation: one kernel for the keys, one for the values.
template <class Op, class Tokens, class Starts, class K, class V, class Keys, class Values>
void launch_append(const gpu& executor, const Op& op, const Tokens& tokens, const Starts& starts,
                   const tensor_view<const K, 4>& k, const tensor_view<const V, 4>& v, const Keys& k_cache,
                   const Values& v_cache) {
  using position::detail::direction;
  constexpr const subject& self = subject_of<entry::append>;
  const auto store = [&](const auto& encoding, const auto& map, const auto& x, const auto& cache) {
    return position::detail::prepare_encode<direction::forward>(
        self, encoding, position::side::key, map, tokens, x.extent(3), x,
        results_in(cache.store, places_of(cache, starts), position::detail::rows_at_16_bytes(rows_of(cache.store))));
  };
  const auto values = store(position::none{}, position::sequential{}, v, v_cache);
  const auto launch = [&](const auto& keys) {
    keys.launch(executor);
    values.launch(executor);
  };
  if constexpr (encodes_positions<Op> && !encodes_on_read<Op>) {
    const auto at = position::place(op.position);
    static_assert(position::require_map<decltype(at.keys)>() &&
                  position::require_coordinates<encoding_of<Op>, decltype(at.keys)>());
    position::validate(at.encoding, k.extent(3));
    launch(
        store(position::for_head_dim(at.encoding, k.extent(3)), position::shifted_rows{at.keys, starts}, k, k_cache));
  } else {
    launch(store(position::none{}, position::sequential{}, k, k_cache));
  }
}

}  // namespace detail

/// Append on CUDA: the same caches, shapes, errors and values as on the CPU. Views point to device memory, and so do page tables,
/// lengths and arrays inside op.position (page_table::on_device(), index_array::on_device()).
///
///     attention::append(gpu{stream}, op, k_new, v_new, n_past, k_cache, v_cache);
///     attention::append(gpu{stream}, op, k_new, v_new, paged{k_pages, table.on_device()}, paged{v_pages, table.on_device()});
///
/// Types    as on the CPU, without double
/// Limits   a new row and the table of its position in 64 KiB of shared memory
/// Edge     as on the CPU; a position outside of a table gives NaN. Of a table on the device, rows of a sequence shorter than new_len are
///          not written.
/// Errors   precondition_error before anything is written; what is marked on_device() is not read. cuda_error when a launch fails.
/// Repeat   same bits in every run and any batch; those of the CPU where op.position is none, int8 values and scales included, unless
///          the kernels are compiled with approximate division. Encoded keys as position/encode.cuh says.
/// Cost     reads and writes each new row once, in two launches; no allocation, no synchronization; can be captured into a graph: the
///          lengths of a table on the device may change between replays.
/// Page     docs/reference/attention/append.md
template <class Op, class NewK, class NewV, class CacheK, class CacheV>
void append(const gpu& executor, const Op& op, const NewK& new_keys, const NewV& new_values, index_t start,
            CacheK&& key_cache, CacheV&& value_cache) {
  static_assert(require_op<Op>() && detail::require_operand<NewK, 4>() && detail::require_operand<NewV, 4>() &&
                detail::require_writable_cache<CacheK>() && detail::require_writable_cache<CacheV>() &&
                detail::require_single_precision<element_of<NewK>, element_of<NewV>>());
  static_assert(!is_paged<std::remove_cvref_t<CacheK>> && !is_paged<std::remove_cvref_t<CacheV>>,
                "seqprim: attention::append to pages takes no start: the lengths of the page table say where rows go");
  const auto k = tensor_view<const element_of<NewK>, 4>(as_view(new_keys));
  const auto v = tensor_view<const element_of<NewV>, 4>(as_view(new_values));
  const auto k_cache = detail::writable(key_cache);
  const auto v_cache = detail::writable(value_cache);
  const row_starts starts = detail::checked_starts(executor, op, k, v, k_cache, v_cache, start);
  detail::launch_append(executor, op, position::detail::dense_tokens{k.extent(0), k.extent(2)}, starts, k, v, k_cache,
                        v_cache);
}

/// The same for a cache in pages: the new rows become the last tokens of each sequence, whose lengths count them already.
template <class Op, class NewK, class NewV, class StoreK, class StoreV>
void append(const gpu& executor, const Op& op, const NewK& new_keys, const NewV& new_values,
            const paged<StoreK>& key_cache, const paged<StoreV>& value_cache) {
  static_assert(require_op<Op>() && detail::require_operand<NewK, 4>() && detail::require_operand<NewV, 4>() &&
                detail::require_writable_cache<const paged<StoreK>>() &&
                detail::require_writable_cache<const paged<StoreV>>() &&
                detail::require_single_precision<element_of<NewK>, element_of<NewV>>());
  const auto k = tensor_view<const element_of<NewK>, 4>(as_view(new_keys));
  const auto v = tensor_view<const element_of<NewV>, 4>(as_view(new_values));
  const auto k_cache = detail::writable(key_cache);
  const auto v_cache = detail::writable(value_cache);
  const row_starts starts = detail::checked_starts(executor, op, k, v, k_cache, v_cache);
  detail::launch_append(executor, op, position::detail::dense_tokens{k.extent(0), k.extent(2)}, starts, k, v, k_cache,
                        v_cache);
}

/// The same for ragged new rows.
template <class Op, class NewK, class NewV, class StoreK, class StoreV>
void append(const gpu& executor, const Op& op, const ragged<NewK>& new_keys, const ragged<NewV>& new_values,
            const paged<StoreK>& key_cache, const paged<StoreV>& value_cache) {
  static_assert(require_op<Op>() && detail::require_operand<NewK, 4>() && detail::require_operand<NewV, 4>() &&
                detail::require_writable_cache<const paged<StoreK>>() &&
                detail::require_writable_cache<const paged<StoreV>>() &&
                detail::require_single_precision<element_of<NewK>, element_of<NewV>>());
  const auto k = tensor_view<const element_of<NewK>, 4>(new_keys.rows);
  const auto v = tensor_view<const element_of<NewV>, 4>(new_values.rows);
  const auto k_cache = detail::writable(key_cache);
  const auto v_cache = detail::writable(value_cache);
  detail::expect_ragged_append(executor, op, new_keys, new_values, k_cache, v_cache);
  detail::expect_new_rows(op, k, v, detail::outline(k_cache, 1), detail::outline(v_cache, 1));
  detail::expect_caches_apart(k, v, k_cache, v_cache);
  detail::launch_append(executor, op, detail::ragged_tokens{new_keys.offsets, k.extent(2)},
                        detail::ragged_starts{k_cache.lengths(), new_keys.offsets}, k, v, k_cache, v_cache);
}

}  // namespace seqprim::attention
