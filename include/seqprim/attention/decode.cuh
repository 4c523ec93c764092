// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/cuda/launch.cuh>
#include <seqprim/arch/cuda/mma_sync.cuh>
#include <seqprim/attention/detail/cuda/block_dims.cuh>
#include <seqprim/attention/detail/cuda/decode_block.hpp>
#include <seqprim/attention/detail/cuda/encoded.cuh>
#include <seqprim/attention/forward.cuh>
#include <seqprim/attention/paged.hpp>
#include <seqprim/attention/quantized.hpp>
#include <seqprim/attention/tuning.cuh>
#include <seqprim/core/arrays.cuh>
#include <seqprim/core/gpu.cuh>

#include <cuda_runtime.h>

namespace seqprim::attention {

namespace detail {

template <class Shape, class Policy, class Engine, class Call>
__global__ void __launch_bounds__(Shape::lanes, 1) decode_block_kernel(const __grid_constant__ Call call) {
  extern __shared__ uint4 block_memory[];
  decode_block<Shape, Policy>(Engine{}, call, block_memory);
}

/// One block per row.
template <class Policy, class Engine, class Call>
__global__ void __launch_bounds__(merge_shape::lanes) merge_parts_kernel(const __grid_constant__ Call call) {
  extern __shared__ uint4 block_memory[];
  merge_parts<Policy>(Engine{}, call, block_memory);
}

/// The view of the rows inside of a cache.
template <class C> struct rows_in_cache {
  using type = std::remove_cvref_t<decltype(as_view(std::declval<const C&>()))>;
};
template <class Code, class Scale> struct rows_in_cache<quantized<Code, Scale>> { using type = tensor_view<Code, 4>; };
template <class Store> struct rows_in_cache<paged<Store>> : rows_in_cache<Store> {};
template <class C> using cache_view = typename rows_in_cache<C>::type;

/// The last extent that the type of one of two views fixes, which have the same.
template <class A, class B>
inline constexpr index_t static_extent =
    std::remove_cvref_t<A>::last_extent != dynamic_extent ? std::remove_cvref_t<A>::last_extent
                                                          : std::remove_cvref_t<B>::last_extent;

/// Named requirement: a cache that kernels on CUDA read.
template <class C> consteval bool require_block_cache() {
  static_assert(is_paged<C> || is_quantized<C> || viewable<C, 4>,
                "seqprim: a cache on CUDA is a tensor or tensor_view of 4 axes, an attention::quantized, or paged of "
                "these. See docs/reference/attention/decode.md");
  return true;
}

/// Queries of a 16-bit type, keys and values of the same or of int8 values: what the kernels read.
template <class Q, class K, class V>
inline constexpr bool decode_elements = block_elements<Q, std::conditional_t<std::is_same_v<K, std::int8_t>, Q, K>,
                                                       std::conditional_t<std::is_same_v<V, std::int8_t>, Q, V>>;
template <class Q, class K, class V> consteval bool require_decode_elements() {
  static_assert(decode_elements<Q, K, V>,
                "seqprim: decode on CUDA takes queries of float16 or bfloat16 where the cache is paged or quantized, "
                "and keys and values of the same type or quantized");
  return true;
}

/// The shape [batch, kv_heads, k_len, dim] of a cache, for checks, without memory where it holds int8 values.
template <class Cache> [[nodiscard]] auto outline_of(const Cache& cache, index_t batch, index_t k_len) noexcept {
  const auto& rows = rows_of_store(cache.store);
  using element = typename std::remove_cvref_t<decltype(rows)>::value_type;
  tensor_view<std::conditional_t<std::is_same_v<element, std::int8_t>, const float, const element>, 4> outline;
  if constexpr (!std::is_same_v<element, std::int8_t>) outline.data = rows.data;
  for (int axis = 0; axis < 4; ++axis) {
    outline.extents[axis] = rows.extent(axis);
    outline.strides[axis] = rows.stride(axis);
  }
  outline.extents[0] = batch;
  outline.extents[2] = k_len;
  return outline;
}
/// The same for the cache of a call. Pages: k_len is that of the longest sequence, where the host can read the lengths, else what the
/// table can hold.
template <class Cache> [[nodiscard]] auto outline_of(const Cache& cache, index_t batch) noexcept {
  if constexpr (Cache::paged) {
    const page_table& table = cache.table;
    return outline_of(cache, batch,
                      table.host_readable() ? table.longest(batch) : table.max_pages() * cache.store.extent(2));
  } else {
    return outline_of(cache, cache.store.extent(0), cache.store.extent(2));
  }
}

/// Keys of the longest of the first `batch` sequences, or as many as their tables can hold.
template <class Keys, class Values>
[[nodiscard]] index_t most_keys(const Keys& k, const Values& v, index_t batch) noexcept {
  return min(outline_of(k, batch).extent(2), outline_of(v, batch).extent(2));
}

/// The checks that only int8 values need.
template <class Cache> void validate_codes(const Cache& cache) {
  if constexpr (is_paged<Cache>) {
    validate_codes(cache.pages);
  } else if constexpr (is_quantized<Cache>) {
    cache.validate();
  }
}
/// body(operand, view) for codes and scales of a store that has them.
template <class Store, class Body>
void for_codes(const char* codes, const char* scales, const Store& store, const Body& body) {
  if constexpr (std::is_same_v<Store, code_store>) {
    body(codes, store.rows.codes);
    body(scales, store.rows.scales);
  }
}

/// Checks the page tables of a call, if it has any.
template <class K, class V> void expect_tables(const gpu& executor, index_t batch, const K& keys, const V& values) {
  if constexpr (is_paged<K> && is_paged<V>) {
    expect_arrays(executor, keys.table);
    expect_arrays(executor, values.table);
    keys.validate(batch);
    values.validate(batch);
    if (!keys.table.host_readable() || !values.table.host_readable()) return;
    for (index_t b = 0; b < batch; ++b)
      subject_of<entry::decode>.expects(keys.length(b) == values.length(b), "sequence ", b, " has ", keys.length(b),
                                        " keys and ", values.length(b), " values");
  }
}

/// Floats of the parts of a call whose page tables are checked.
template <class Policy, class Q, class K, class V>
[[nodiscard]] index_t decode_floats(const Q& q, const K& k, const V& v) noexcept {
  const index_t splits = most_decode_splits<Policy>(most_keys(k, v, q.extent(0)));
  return splits <= 1 ? 0 : q.extent(0) * q.extent(1) * q.extent(2) * splits * (v.store.extent(3) + 1);
}

template <class Engine, class Policy, class T, class Dims> struct decode_shapes {
  static constexpr block_policy few = Policy::template decode<Engine, T, Dims::head, Dims::value>(),
                                many = Policy::template decode_rows<Engine, T, Dims::head, Dims::value>();
  using narrow = block_shape<T, Dims::head, Dims::value, few.q_tile, few.k_tile, few.warps, few.stages>;
  using wide = block_shape<T, Dims::head, Dims::value, many.q_tile, many.k_tile, many.warps, many.stages>;
};

template <class Shape, class Policy, class Engine, class Call>
[[nodiscard]] auto prepare_decode_block(const Call& call) {
  return arch::cuda::prepare(subject_of<entry::decode>.name, decode_block_kernel<Shape, Policy, Engine, Call>,
                             {decode_blocks<Shape>(call.p, call.splits, call.queries), Shape::lanes,
                              decode_shared_bytes<Shape, decltype(Call::k)>});
}
/// The merge of the parts of so many rows.
template <class Policy, class Engine, class Call> [[nodiscard]] auto prepare_merge(const Call& call, index_t rows) {
  return arch::cuda::prepare(subject_of<entry::decode>.name, merge_parts_kernel<Policy, Engine, Call>,
                             {call.splits > 1 ? rows : 0, merge_shape::lanes, merge_shape::shared_bytes});
}

/// `memory` holds the parts of `rows` rows, value_dim + 1 floats for each split.
template <class Policy, class Op, class T, class Keys, class Values, class Out, class Queries>
[[nodiscard]] decode_call<Op, T, Out, Keys, Values, Queries> make_decode_call(
    const Op& op, const problem& p, const tensor_view<const T, 4>& q, const Keys& k, const Values& v,
    const tensor_view<Out, 4>& out, const tensor_view<float, 3>& lse, float* memory, index_t rows,
    const Queries& queries) noexcept {
  const index_t splits = most_decode_splits<Policy>(p.k_len);
  return {op,
          p,
          static_cast<float>(op.scale_for(p.head_dim)),
          q,
          k,
          v,
          out,
          lse,
          memory,
          memory + rows * splits * p.value_dim,
          static_cast<std::uint32_t>(splits),
          rows_are_aligned(q),
          loads_are_wide(k.store),
          loads_are_wide(v.store),
          rows_are_aligned(out),
          queries};
}

/// The kernels of one size of heads; `memory` holds decode_floats() floats. before() launches what comes before them.
template <class Engine, class Policy, class Dims, class Op, class T, class Keys, class Values, class Out,
          class Before = nothing_before>
void launch_decode(const gpu& executor, const Op& op, const problem& p, const tensor_view<const T, 4>& q, const Keys& k,
                   const Values& v, const tensor_view<Out, 4>& out, const tensor_view<float, 3>& lse, float* memory,
                   const Before& before = {}) {
  using shapes = decode_shapes<Engine, Policy, T, Dims>;
  const index_t rows = p.batch * p.heads * p.q_len;
  const auto call = make_decode_call<Policy>(op, p, q, k, v, out, lse, memory, rows, even_queries{});
  const auto merge = prepare_merge<Policy, Engine>(call, rows);
  if (p.group() * p.q_len <= shapes::narrow::q_tile) {
    const auto blocks = prepare_decode_block<typename shapes::narrow, Policy, Engine>(call);
    before();
    blocks.launch(executor, call);
  } else {
    const auto blocks = prepare_decode_block<typename shapes::wide, Policy, Engine>(call);
    before();
    blocks.launch(executor, call);
  }
  merge.launch(executor, call);
}

/// What decode reads and writes, besides the shapes of q, k and v; `p` has the shape of q.
template <class T, class Keys, class Values, class Out>
void expect_decode_operands(const gpu& executor, const problem& p, const tensor_view<const T, 4>& q, const Keys& k,
                            const Values& v, const tensor_view<Out, 4>& out, const tensor_view<float, 3>& lse,
                            const tensor_view<float, 1>& workspace, index_t needed) {
  constexpr auto self = entry::decode;
  const auto& k_rows = rows_of_store(k.store);
  const auto& v_rows = rows_of_store(v.store);
  expect_results<self>(p, q, k_rows, v_rows, out, lse);
  expect_memory(executor, subject_of<self>, "out", out);
  expect_memory(executor, subject_of<self>, "lse", lse);
  expect_memory(executor, subject_of<self>, "workspace", workspace);
  const auto codes_apart = [&](const char* name, const auto& view) {
    expect_memory(executor, subject_of<self>, name, view);
    expect_apart<self>("out", out, name, view);
    if (lse.data != nullptr) expect_apart<self>("lse", lse, name, view);
    expect_apart<self>("workspace", workspace, name, view);
  };
  for_codes("k", "the scales of k", k.store, codes_apart);
  for_codes("v", "the scales of v", v.store, codes_apart);
  subject_of<self>.expects_workspace(workspace, needed, "floats", 16);
  expect_apart<self>("workspace", workspace, "q", q);
  expect_apart<self>("workspace", workspace, "k", k_rows);
  expect_apart<self>("workspace", workspace, "v", v_rows);
  expect_apart<self>("workspace", workspace, "out", out);
  expect_apart<self>("workspace", workspace, "lse", lse);
}

}  // namespace detail

/// Floats of workspace that decode needs for these operands: the partial results of the splits, 0 when there is one split.
///
/// Errors  precondition_error: page tables that decode rejects; they are read where the host can.
template <class Policy = default_block_policy, class Q, class K, class V>
[[nodiscard]] index_t decode_workspace(const Q& queries, const K& keys, const V& values) {
  static_assert(detail::require_operand<Q, 4>() && detail::require_block_cache<K>() &&
                detail::require_block_cache<V>());
  const auto q = as_view(queries);
  detail::expect_tables(gpu{}, q.extent(0), keys, values);
  return detail::decode_floats<Policy>(q, detail::block_cache(keys), detail::block_cache(values));
}

/// The same, and a copy of the queries that carries the position of op, if it has one.
template <class Policy = default_block_policy, class Op, class Q, class K, class V>
[[nodiscard]] index_t decode_workspace(const Op& op, const Q& queries, const K& keys, const V& values) {
  static_assert(require_op<Op>());
  const index_t floats = decode_workspace<Policy>(queries, keys, values);
  const auto q = as_view(queries);
  return detail::with_copies(floats, detail::encoded_floats(op, q.extent(3), q));
}

/// Attention of a few new queries against a cache on CUDA, contiguous or in pages: the same operator value, shapes, edge values
/// and errors as on the CPU.
///
///     attention::decode(gpu{stream}, op, q_new, k_cache, v_cache, out, lse, workspace);
///     attention::decode(gpu{stream}, op, q_new, paged{k_pages, table.on_device()}, paged{v_pages, table.on_device()}, out, lse);
///
/// Keys in the cache already carry their positions (append encodes them); op.position is applied to the queries alone, by a kernel of
/// its own.
///
/// The keys of each sequence are divided every Policy::split_keys(its length) tokens; a block takes one split and all query heads that
/// share a key head, as rows of one tile, so keys and values are read once. Parts are merged in order by a second kernel. Splits that
/// a sequence does not have, or whose keys no query attends to, cost a block that leaves at once.
///
/// Shapes   as on the CPU; workspace [decode_workspace(op, q, k, v)] float, or left out: then it comes from the memory pool of the
///          stream (cudaMallocAsync).
/// Types    q of a 16-bit type, k and v of the same or quantized, with dims up to 256. Other contiguous caches go through the simple
///          kernel of forward. Int8 values times their scales are rounded to the type of q: beyond 65504 they are infinite in float16.
/// Limits   position::on_read is not supported: forward encodes the keys of a contiguous cache. Below 2^31: k_len, and query heads of
///          a key head times q_len.
/// Errors   precondition_error before the launch, also for page table entries where the host can read them; entries
///          `on_device` are not validated. cuda_error when a launch fails.
/// Repeat   same bits in every run, for any batch, pages and page tables of any size: the splits of a sequence follow from the last key
///          that its queries may attend to.
/// Cost     reads the visible cache once per key head and 16 (many rows: 64) rows; 8 (value_dim + 1) bytes of workspace
///          traffic for each query row and split. No synchronization; can be captured into a graph: mark what changes between replays
///          on_device(), managed memory too.
/// Page     docs/reference/attention/decode.md
template <class Engine = arch::cuda::mma_sync, class Policy = default_block_policy, class Op, class Q, class K, class V,
          class Out, class Lse>
void decode(const gpu& executor, const Op& op, const Q& queries, const K& keys, const V& values, Out&& result,
            Lse&& log_sum_exp, const tensor_view<float, 1>& workspace) {
  static_assert(require_op<Op>() && detail::require_operand<Q, 4>() && detail::require_block_cache<K>() &&
                detail::require_block_cache<V>() && detail::require_result<Out, 4>() &&
                detail::require_result<Lse, 3>());
  static_assert(!detail::encodes_on_read<Op>,
                "seqprim: decode on CUDA reads keys that append has encoded: it takes no 'position::on_read'. forward "
                "does, for a contiguous cache. See docs/reference/attention/decode.md");
  static_assert(is_paged<K> == is_paged<V>, "seqprim: keys and values are both paged or both not");
  static_assert(!std::is_same_v<element_of<Out>, double> && std::is_same_v<element_of<Lse>, float>,
                "seqprim: attention on CUDA takes float, float16 and bfloat16, and float lse");
  using T = element_of<Q>;
  using k_view = detail::cache_view<K>;
  using v_view = detail::cache_view<V>;
  using k_element = typename k_view::value_type;
  using v_element = typename v_view::value_type;
  constexpr bool codes = std::is_same_v<k_element, std::int8_t> || std::is_same_v<v_element, std::int8_t>;
  constexpr bool matches = detail::decode_elements<T, k_element, v_element>;
  if constexpr (is_paged<K> || codes) static_assert(detail::require_decode_elements<T, k_element, v_element>());
  if constexpr (!matches && !detail::encodes_positions<Op>) {
    forward<Engine, Policy>(executor, op, queries, keys, values, result, log_sum_exp);
  } else {
    constexpr auto self = detail::entry::decode;
    constexpr const char* page = ". See docs/reference/attention/decode.md";
    const auto q = tensor_view<const T, 4>(as_view(queries));
    const auto out = tensor_view<element_of<Out>, 4>(as_view(result));
    const auto lse = tensor_view<float, 3>(as_view(log_sum_exp));
    const auto k = detail::block_cache(keys);
    const auto v = detail::block_cache(values);
    detail::expect_tables(executor, q.extent(0), keys, values);
    detail::validate_codes(keys);
    detail::validate_codes(values);
    index_array lengths;
    if constexpr (is_paged<K>) lengths = keys.table.lengths();
    auto k_outline = detail::outline_of(k, q.extent(0)), v_outline = detail::outline_of(v, q.extent(0));
    if constexpr (is_paged<K>) {
      // Tables that the host cannot read may hold different numbers of tokens.
      k_outline.extents[2] = v_outline.extents[2] = detail::most_keys(k, v, q.extent(0));
    }
    const detail::problem p = detail::validate_inputs<self>(executor, op, q, k_outline, v_outline, lengths);
    detail::expect_decode_counts(p);
    const index_t floats = detail::decode_floats<Policy>(q, k, v);
    const index_t needed = detail::with_copies(floats, detail::encoded_floats(op, p.head_dim, q));
    detail::expect_decode_operands(executor, p, q, k, v, out, lse, workspace, needed);
    constexpr bool by_rows = !is_paged<K> && !codes;  // what the simple kernel of forward reads
    const detail::encoded_problem<Op> encoded(op, p);
    const detail::problem& shape = encoded.shape;
    const bool in_blocks =
        matches && shape.head_dim <= detail::largest_block_dim && p.value_dim <= detail::largest_block_dim;
    SEQPRIM_EXPECTS(
        in_blocks || (by_rows && shape.head_dim <= detail::largest_cuda_dim && p.value_dim <= detail::largest_cuda_dim),
        "attention::decode: head_dim (", shape.head_dim, ") and value_dim (", p.value_dim,
        ") must be <= ", by_rows ? detail::largest_cuda_dim : detail::largest_block_dim, " on CUDA", page);
    seqprim::workspace memory = detail::memory_behind(workspace, floats);
    const auto q_in = detail::encoded_queries(executor, detail::subject_of<self>, op, p, q, memory);
    const auto encode = [&] { q_in.launch(executor); };
    constexpr index_t q_dim = detail::encoded_extent<Op, decltype(as_view(queries))::last_extent>;
    constexpr index_t head_dim = k_view::last_extent != dynamic_extent ? k_view::last_extent : q_dim;
    constexpr index_t value_dim = detail::static_extent<v_view, decltype(as_view(result))>;
    if constexpr (matches && head_dim <= detail::largest_block_dim && value_dim <= detail::largest_block_dim) {
      if (in_blocks) {
        detail::with_dims<head_dim, value_dim>(shape.head_dim, p.value_dim, [&](auto dims) {
          detail::launch_decode<Engine, Policy, decltype(dims)>(executor, encoded.op, shape, q_in.rows, k, v, out, lse,
                                                                workspace.data, encode);
        });
      }
    }
    constexpr bool always_blocks = matches && head_dim != dynamic_extent && value_dim != dynamic_extent &&
                                   head_dim <= detail::largest_block_dim && value_dim <= detail::largest_block_dim;
    if constexpr (by_rows && !always_blocks) {
      if (!in_blocks)
        detail::launch_forward_rows<16>(executor, encoded.op, shape, q_in.rows, k.store, v.store, out, lse, encode);
    }
  }
}

/// The same with workspace from the memory pool of the stream.
template <class Engine = arch::cuda::mma_sync, class Policy = default_block_policy, class Op, class Q, class K, class V,
          class Out, class Lse>
void decode(const gpu& executor, const Op& op, const Q& queries, const K& keys, const V& values, Out&& result,
            Lse&& log_sum_exp) {
  const index_t floats = decode_workspace<Policy>(op, queries, keys, values);
  const pool_memory<float> memory(executor, floats, "attention::decode");
  decode<Engine, Policy>(executor, op, queries, keys, values, result, log_sum_exp,
                         tensor_view<float, 1>(memory.data(), floats));
}

/// The same without lse.
template <class Engine = arch::cuda::mma_sync, class Policy = default_block_policy, class Op, class Q, class K, class V,
          class Out>
void decode(const gpu& executor, const Op& op, const Q& queries, const K& keys, const V& values, Out&& result) {
  static_assert(detail::require_operand<Q, 4>());
  decode<Engine, Policy>(executor, op, queries, keys, values, result, detail::no_lse(as_view(queries)));
}

}  // namespace seqprim::attention
