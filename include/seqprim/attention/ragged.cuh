// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/decode.cuh>
#include <seqprim/attention/detail/cuda/ragged_rows.hpp>
#include <seqprim/attention/ragged.hpp>

#include <cuda_runtime.h>

#include <type_traits>

namespace seqprim::attention {

namespace detail {

/// The shape of one sequence of a cache, without memory.
template <class Cache> [[nodiscard]] auto outline_of_sequence(const Cache& cache, index_t k_len) noexcept {
  auto outline = outline_of(cache, 1, k_len);
  outline.data = nullptr;
  return outline;
}

/// The executor of checks on memory that has been checked already, and of which views of one sequence no longer tell.
struct checked_memory {};
template <class Part> void expect_arrays(const checked_memory&, const Part&) noexcept {}
template <class View> void expect_memory(const checked_memory&, const subject&, const char*, const View&) noexcept {}

/// Checks a ragged call: sequence by sequence where the host can read what says where they are, else their shapes.
template <class Op, class Queries, class T, class Keys, class Values>
[[nodiscard]] problem validate_ragged(const gpu& executor, const Op& op, const Queries& queries,
                                      const tensor_view<const T, 4>& q, const Keys& k, const Values& v) {
  constexpr subject self{"attention::decode", "attention/ragged"};
  constexpr auto entry = entry::decode;
  const index_t batch = queries.sequences();
  expect_arrays(executor, op);
  expect_memory(executor, self, "q", q);
  self.expects(op.starts.size() == 0 || op.starts.size() >= batch, "the op has ", op.starts.size(),
               " starting positions for ", batch, " sequences");
  self.expects(!mask::places_queries<decltype(op.mask)> || op.starts.size() > 0 || op.start != last_query_at_last_key,
               "the mask places the queries of a call, which ragged ones on CUDA are not asked for; say where the "
               "first query of each sequence is with starting_at");
  auto outline = q;  // of the queries of one sequence
  outline.data = nullptr;
  if (queries.offsets.host_readable() && k.table.host_readable() && v.table.host_readable() &&
      op.starts.host_readable()) {
    for (index_t b = 0; b < batch; ++b) {
      outline.extents[2] = queries.of(b).size();
      self.expects(outline.extents[2] <= k.length(b), "sequence ", b, " has ", outline.extents[2], " new rows and ",
                   k.length(b), " keys");
      if (outline.extents[2] > 0)
        (void)validate_inputs<entry>(checked_memory{}, operator_of(op, b), outline, outline_of_sequence(k, k.length(b)),
                                     outline_of_sequence(v, k.length(b)), k.table.lengths().slice({b, b + 1}));
    }
  } else {
    outline.extents[0] = batch;
    outline.extents[2] = min<index_t>(q.extent(2), 1);
    auto k_outline = outline_of(k, batch), v_outline = outline_of(v, batch);
    k_outline.data = nullptr;
    v_outline.data = nullptr;
    k_outline.extents[2] = v_outline.extents[2] = most_keys(k, v, batch);
    (void)validate_inputs<entry>(checked_memory{}, op.starting_at(0), outline, k_outline, v_outline);
  }
  return {batch,       q.extent(1),       k.store.extent(1), q.extent(2), most_keys(k, v, batch),
          q.extent(3), v.store.extent(3), op.order,          {}};
}

/// q itself, or with a position its copy in workspace.
template <class Op, class T>
[[nodiscard]] auto encoded_ragged_queries(const Op& op, const problem& p, const ragged_query_starts& starts,
                                          const index_array& offsets, const tensor_view<const T, 4>& q,
                                          workspace& memory) {
  if constexpr (encodes_positions<Op>) {
    const auto at = position::place(op.position);
    static_assert(position::require_map<decltype(at.queries)>() &&
                  position::require_coordinates<encoding_of<Op>, decltype(at.queries)>());
    const tensor_view<T, 4> rows = rows_like<T>(q, encoded_problem<Op>(op, p).shape.head_dim, memory);
    const auto kernel = position::detail::prepare_encode<position::detail::direction::forward>(
        subject_of<entry::decode>, position::for_head_dim(at.encoding, p.head_dim), position::side::query,
        position::shifted_rows{at.queries, starts}, ragged_tokens{offsets, q.extent(2)}, p.head_dim, q,
        ragged_results<T>{rows, position::detail::rows_at_16_bytes(rows), offsets});
    return kernel_operand<const T, std::remove_const_t<decltype(kernel)>>{rows, kernel};
  } else {
    return kernel_operand<const T, no_kernel>{q, {}};
  }
}

/// The kernels of one size of heads: those of few and of many rows, each for the sequences that have so many, and the merge.
/// before() launches what comes before them.
template <class Engine, class Policy, class Dims, class Op, class T, class Keys, class Values, class Out, class Before>
void launch_ragged(const gpu& executor, const Op& op, const problem& p, const index_array& offsets,
                   const tensor_view<const T, 4>& q, const Keys& k, const Values& v, const tensor_view<Out, 4>& out,
                   const tensor_view<float, 3>& lse, float* memory, const Before& before) {
  using shapes = decode_shapes<Engine, Policy, T, Dims>;
  constexpr std::uint32_t few = shapes::narrow::q_tile;
  const index_t rows = p.heads * p.q_len;
  const auto call_for = [&](std::uint32_t least, std::uint32_t most) {
    return make_decode_call<Policy>(op, p, q, k, v, out, lse, memory, rows, ragged_queries{offsets, least, most});
  };
  const auto narrow_call = call_for(1, few), wide_call = call_for(few + 1, most_decode_items);
  const auto narrow = prepare_decode_block<typename shapes::narrow, Policy, Engine>(narrow_call);
  const auto wide = prepare_decode_block<typename shapes::wide, Policy, Engine>(wide_call);
  const auto merge = prepare_merge<Policy, Engine>(narrow_call, rows);
  bool any_narrow = true, any_wide = p.group() * p.q_len > few;
  if (offsets.host_readable()) {
    any_narrow = any_wide = false;
    for (index_t b = 0; b < p.batch; ++b) {
      const index_t n = p.group() * (offsets[b + 1] - offsets[b]);
      any_narrow = any_narrow || (0 < n && n <= few);
      any_wide = any_wide || n > few;
    }
  }
  before();
  if (any_narrow) narrow.launch(executor, narrow_call);
  if (any_wide) wide.launch(executor, wide_call);
  merge.launch(executor, narrow_call);
}

/// Floats of workspace of ragged queries against caches whose tables are checked.
template <class Policy, class Q, class K, class V>
[[nodiscard]] index_t ragged_floats(const ragged<Q>& queries, const K& k, const V& v) noexcept {
  const index_t splits = most_decode_splits<Policy>(most_keys(k, v, queries.sequences()));
  return splits <= 1 ? 0 : queries.rows.extent(1) * queries.rows.extent(2) * splits * (v.store.extent(3) + 1);
}

}  // namespace detail

/// Floats of workspace that decode needs for ragged queries.
///
/// Errors  precondition_error: page tables that decode rejects; they are read where the host can.
template <class Policy = default_block_policy, class Q, class StoreK, class StoreV>
[[nodiscard]] index_t decode_workspace(const ragged<Q>& queries, const paged<StoreK>& keys,
                                       const paged<StoreV>& values) {
  static_assert(detail::require_block_cache<paged<StoreK>>() && detail::require_block_cache<paged<StoreV>>());
  detail::expect_tables(gpu{}, queries.sequences(), keys, values);
  return detail::ragged_floats<Policy>(queries, detail::block_cache(keys), detail::block_cache(values));
}

/// The same, and a copy of the queries that carries the position of op, if it has one.
template <class Policy = default_block_policy, class Op, class Q, class StoreK, class StoreV>
[[nodiscard]] index_t decode_workspace(const Op& op, const ragged<Q>& queries, const paged<StoreK>& keys,
                                       const paged<StoreV>& values) {
  static_assert(require_op<Op>());
  const index_t floats = decode_workspace<Policy>(queries, keys, values);
  return detail::with_copies(floats, detail::encoded_floats(op, queries.rows.extent(3), queries.rows));
}

/// Decode on CUDA for ragged queries against pages, in at most four launches for the whole batch. The offsets may be read by the host
/// or lie on the device, as page tables may.
///
///     attention::decode(gpu{stream}, op, ragged{q_new, offsets.on_device()}, paged{k_pages, table.on_device()},
///                       paged{v_pages, table.on_device()}, out, lse, workspace);
///
/// Keys in the pages carry their positions already (append encodes them); op.position is applied to the queries, by a kernel of its own.
///
/// Shapes   as on the CPU; workspace [decode_workspace(op, queries, keys, values)] float, or left out: then it comes from the memory
///          pool of the stream.
/// Types    as decode on CUDA: q of a 16-bit type, pages of the same or of int8 values; dims up to 256
/// Limits   position::on_read is not supported. A mask that places the queries of a call needs op.starting_at.
/// Edge     a sequence without new rows is an idle slot: nothing is read or written for it.
/// Errors   precondition_error before the launch, as on the CPU where the host can read offsets, tables and starting positions; else
///          shapes are checked, and sequences with more new rows than tokens are the caller's responsibility. cuda_error when a launch fails.
/// Repeat   same bits in every run, those of decode of each sequence alone.
/// Cost     as decode of each sequence, and blocks that leave at once: two for each sequence, key head and split that a table
///          could hold. No synchronization; can be captured into a graph: mark offsets, lengths and tables on_device(), managed
///          memory too, or those of the recording decide which kernels are recorded.
/// Page     docs/reference/attention/ragged.md
template <class Engine = arch::cuda::mma_sync, class Policy = default_block_policy, class Op, class Q, class StoreK,
          class StoreV, class Out, class Lse>
void decode(const gpu& executor, const Op& op, const ragged<Q>& queries, const paged<StoreK>& keys,
            const paged<StoreV>& values, Out&& result, Lse&& log_sum_exp, const tensor_view<float, 1>& workspace) {
  using T = element_of<Q>;
  using k_view = detail::cache_view<paged<StoreK>>;
  using v_view = detail::cache_view<paged<StoreV>>;
  static_assert(require_op<Op>() && detail::require_operand<Q, 4>() && detail::require_block_cache<paged<StoreK>>() &&
                detail::require_block_cache<paged<StoreV>>() && detail::require_result<Out, 4>() &&
                detail::require_result<Lse, 3>() &&
                detail::require_decode_elements<T, typename k_view::value_type, typename v_view::value_type>());
  static_assert(!detail::encodes_on_read<Op>,
                "seqprim: decode on CUDA reads keys that append has encoded: it takes no 'position::on_read'. See "
                "docs/reference/attention/ragged.md");
  static_assert(!std::is_same_v<element_of<Out>, double> && std::is_same_v<element_of<Lse>, float>,
                "seqprim: attention on CUDA takes float, float16 and bfloat16, and float lse");
  constexpr subject self{"attention::decode", "attention/ragged"};
  const auto q = tensor_view<const T, 4>(queries.rows);
  const auto out = tensor_view<element_of<Out>, 4>(as_view(result));
  const auto lse = tensor_view<float, 3>(as_view(log_sum_exp));
  const auto k = detail::block_cache(keys), v = detail::block_cache(values);
  detail::expect_ragged(executor, self, "q", queries);
  detail::expect_tables(executor, queries.sequences(), keys, values);
  detail::validate_codes(keys);
  detail::validate_codes(values);
  const detail::problem p = detail::validate_ragged(executor, op, queries, q, k, v);
  detail::expect_decode_counts(p);
  detail::problem one_row = p;
  one_row.batch = 1;
  expect_memory(executor, self, "k", detail::rows_of_store(k.store));
  expect_memory(executor, self, "v", detail::rows_of_store(v.store));
  const index_t floats = detail::ragged_floats<Policy>(queries, k, v);
  detail::expect_decode_operands(executor, one_row, q, k, v, out, lse, workspace,
                                 detail::with_copies(floats, detail::encoded_floats(op, p.head_dim, q)));
  const detail::problem shape = detail::encoded_problem<Op>(op, p).shape;
  self.expects(shape.head_dim <= detail::largest_block_dim && p.value_dim <= detail::largest_block_dim, "head_dim (",
               shape.head_dim, ") and value_dim (", p.value_dim, ") must be <= ", detail::largest_block_dim,
               " on CUDA");
  if (q.extent(2) == 0) return;
  const auto starts = detail::ragged_starts_of(op, keys.table.lengths(), queries.offsets);
  auto rows = detail::in_rows(op, starts);
  if (shape.head_dim != p.head_dim) rows.scale = static_cast<float>(op.scale_for(p.head_dim));
  seqprim::workspace memory = detail::memory_behind(workspace, floats);
  const auto q_in = detail::encoded_ragged_queries(op, p, starts, queries.offsets, q, memory);
  constexpr index_t q_dim = detail::encoded_extent<Op, decltype(as_view(queries.rows))::last_extent>;
  constexpr index_t head_dim = k_view::last_extent != dynamic_extent ? k_view::last_extent : q_dim;
  detail::with_dims<head_dim, detail::static_extent<v_view, decltype(as_view(result))>>(
      shape.head_dim, p.value_dim, [&](auto dims) {
        detail::launch_ragged<Engine, Policy, decltype(dims)>(executor, rows, shape, queries.offsets, q_in.rows, k, v,
                                                              out, lse, workspace.data, [&] { q_in.launch(executor); });
      });
}

/// The same with workspace from the memory pool of the stream.
template <class Engine = arch::cuda::mma_sync, class Policy = default_block_policy, class Op, class Q, class StoreK,
          class StoreV, class Out, class Lse>
void decode(const gpu& executor, const Op& op, const ragged<Q>& queries, const paged<StoreK>& keys,
            const paged<StoreV>& values, Out&& result, Lse&& log_sum_exp) {
  const index_t floats = decode_workspace<Policy>(op, queries, keys, values);
  const pool_memory<float> memory(executor, floats, "attention::decode");
  decode<Engine, Policy>(executor, op, queries, keys, values, result, log_sum_exp,
                         tensor_view<float, 1>(memory.data(), floats));
}

/// The same without lse.
template <class Engine = arch::cuda::mma_sync, class Policy = default_block_policy, class Op, class Q, class StoreK,
          class StoreV, class Out>
void decode(const gpu& executor, const Op& op, const ragged<Q>& queries, const paged<StoreK>& keys,
            const paged<StoreV>& values, Out&& result) {
  decode<Engine, Policy>(executor, op, queries, keys, values, result, detail::no_lse(queries.rows));
}

}  // namespace seqprim::attention
