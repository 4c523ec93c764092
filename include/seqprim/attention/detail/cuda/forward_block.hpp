// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cuda/block_softmax.hpp>
#include <seqprim/attention/detail/problem.hpp>

namespace seqprim::attention::detail {

/// Everything a block of the forward kernel reads and writes.
template <class Op, class T, class Out> struct forward_call {
  Op op;
  problem p;
  float scale;
  tensor_view<const T, 4> q, k, v;
  tensor_view<Out, 4> out;
  tensor_view<float, 3> lse;
  bool q_aligned, k_aligned, v_aligned, out_aligned;  ///< rows start at multiples of 16 bytes
};

template <class Op, class T, class Out>
[[nodiscard]] forward_call<Op, T, Out> make_forward_call(
    const Op& op, const problem& p, const tensor_view<const T, 4>& q, const tensor_view<const T, 4>& k,
    const tensor_view<const T, 4>& v, const tensor_view<Out, 4>& out, const tensor_view<float, 3>& lse) noexcept {
  return {op,
          p,
          static_cast<float>(op.scale_for(p.head_dim)),
          q,
          k,
          v,
          out,
          lse,
          rows_are_aligned(q),
          rows_are_aligned(k),
          rows_are_aligned(v),
          rows_are_aligned(out)};
}

/// Blocks of one call: one for each tile of queries of each head.
template <class Shape> [[nodiscard]] SEQPRIM_HD constexpr index_t forward_blocks(const problem& p) noexcept {
  return p.batch * p.heads * ceil_div(p.q_len, Shape::q_tile);
}

/// Writes eight elements of a row, as one word of 16 bytes where its alignment allows.
template <class Engine, class Out>
SEQPRIM_HD void store_elements(const Engine& engine, Out* to, const float (&numbers)[8], int count,
                               bool aligned) noexcept {
  struct alignas(16) words {
    std::uint32_t word[4];
  };
  if (aligned && count == 8) {
    auto* const to_words = reinterpret_cast<words*>(to);
    if constexpr (sizeof(Out) == 2) {
      words packed;
      SEQPRIM_UNROLL
      for (int n = 0; n < 4; ++n) packed.word[n] = engine.template pack<Out>(numbers[2 * n], numbers[2 * n + 1]);
      to_words[0] = packed;
    } else {
      SEQPRIM_UNROLL
      for (int half = 0; half < 2; ++half) {
        words packed;
        SEQPRIM_UNROLL
        for (int n = 0; n < 4; ++n) packed.word[n] = bit_cast<std::uint32_t>(numbers[4 * half + n]);
        to_words[half] = packed;
      }
    }
  } else {
    SEQPRIM_UNROLL
    for (int n = 0; n < 8; ++n)
      if (n < count) to[n] = static_cast<Out>(numbers[n]);
  }
}

/// problem::kv_head in 32 bits: a division of 64 bits is a function call on the device.
[[nodiscard]] SEQPRIM_HD constexpr std::uint32_t kv_head_of(const problem& p, std::uint32_t head) noexcept {
  const auto heads = static_cast<std::uint32_t>(p.heads), kv_heads = static_cast<std::uint32_t>(p.kv_heads);
  return p.order == head_order::tiled ? head % kv_heads : head / (heads / kv_heads);
}

/// The tile of queries that a block owns.
struct forward_task {
  std::uint32_t batch, head;
  index_t first;  ///< row
};
template <class Shape>
[[nodiscard]] SEQPRIM_HD forward_task forward_task_of(const problem& p, std::uint32_t block) noexcept {
  const auto row_blocks = static_cast<std::uint32_t>((p.q_len + Shape::q_tile - 1) / Shape::q_tile);
  const auto heads = static_cast<std::uint32_t>(p.heads);
  // The last rows first: under a causal mask they have the most to do.
  return {block / row_blocks / heads, block / row_blocks % heads,
          index_t{row_blocks - 1 - block % row_blocks} * Shape::q_tile};
}

/// One block of forward_blocks(p): a tile of queries of one head against all keys.
template <class Shape, class Engine, class Call>
SEQPRIM_HD void forward_block(const Engine& engine, const Call& call, void* shared) noexcept {
  using T = typename Shape::element;
  const problem& p = call.p;
  const auto [b, h, first] = forward_task_of<Shape>(p, engine.block());
  const auto g = kv_head_of(p, h);

  const auto mask = mask::bind(call.op.mask, b, h);
  const auto score = score::bind(call.op.score, b, h);
  using rows_type = rows_of_head<std::remove_const_t<decltype(mask)>, std::remove_const_t<decltype(score)>>;
  const rows_type rows{{mask, score}, first, p.q_len};
  const int count = rows.count(Shape::q_tile);
  const range bounds = rows.key_bounds(count, p.k_len);
  const auto head = [](const auto& view, index_t batch, index_t at, index_t row) {
    return dense_rows<T>{view.data + batch * view.stride(0) + at * view.stride(1) + row * view.stride(2),
                         view.stride(2)};
  };
  block_softmax<Shape, Engine, rows_type> state(engine, rows, static_cast<T*>(shared), call.scale);
  state.run(head(call.q, b, h, first), head(call.k, b, g, 0), head(call.v, b, g, 0),
            {bounds.begin / Shape::k_tile * Shape::k_tile, bounds.end}, count, static_cast<int>(p.head_dim),
            static_cast<int>(p.value_dim), call.q_aligned, call.k_aligned, call.v_aligned);

  const forward_task task = forward_task_of<Shape>(p, engine.block());
  const auto value_dim = static_cast<int>(p.value_dim);
  state.finish(
      static_cast<int>(min<index_t>(Shape::q_tile, p.q_len - task.first)), value_dim,
      [&](int) { return call.op.sink_of(task.head); },
      [&](int row, int column, const float(&numbers)[8], float lse) {
        const index_t i = task.first + row;
        if (column == 0 && call.lse.data != nullptr) call.lse(task.batch, task.head, i) = lse;
        if (column < value_dim)
          store_elements(engine, &call.out(task.batch, task.head, i, column), numbers, min(value_dim - column, 8),
                         call.out_aligned);
      });
}

}  // namespace seqprim::attention::detail
