// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/encoded.hpp>
#include <seqprim/core/gpu.cuh>
#include <seqprim/core/scratch.hpp>
#include <seqprim/position/encode.cuh>

#include <cstddef>
#include <type_traits>

/// detail/encoded.hpp for kernels on CUDA: queries and keys with their positions, encoded into workspace by kernels of their own.
namespace seqprim::attention::detail {

/// True where encoded vectors have the width of plain ones, whatever that is.
template <class Op> inline constexpr bool keeps_width = !encodes_positions<Op> || !requires(const encoding_of<Op>& e) {
  e.encoded_dim(index_t{});
};
/// The head_dim that the type of a view fixes, after encoding.
template <class Op, index_t HeadDim>
inline constexpr index_t encoded_extent = keeps_width<Op> ? HeadDim : dynamic_extent;

/// Memory for rows like those of x with `dim` elements, each at a multiple of 16 bytes.
template <class T, class View>
[[nodiscard]] tensor_view<T, 4> rows_like(const View& x, index_t dim, workspace& memory) noexcept {
  const index_t heads = x.extent(1), len = x.extent(2), step = round_up(dim, index_t{16 / sizeof(T)});
  return {memory.take<T>(x.extent(0) * heads * len * step),
          {x.extent(0), heads, len, dim},
          {heads * len * step, len * step, step, 1}};
}

/// Floats of workspace that encoded copies of these operands take, 0 without a position.
template <class Op, class... Views>
[[nodiscard]] index_t encoded_floats(const Op& op, index_t head_dim, const Views&... views) noexcept {
  workspace memory;
  if constexpr (encodes_positions<Op>) {
    const auto encoding = position::for_head_dim(position::place(op.position).encoding, head_dim);
    (static_cast<void>(rows_like<typename Views::value_type>(views, position::encoded_dim(encoding, head_dim), memory)),
     ...);
  }
  return memory.used() / static_cast<index_t>(sizeof(float));
}

/// Floats of a workspace that holds `copies` floats behind the `floats` that a call needs without a position.
[[nodiscard]] constexpr index_t with_copies(index_t floats, index_t copies) noexcept {
  return copies == 0 ? floats : round_up(floats, index_t{4}) + copies;
}
/// What is left of a workspace behind its first `floats`, from a multiple of 16 bytes on.
[[nodiscard]] inline workspace memory_behind(const tensor_view<float, 1>& space, index_t floats) noexcept {
  return workspace(reinterpret_cast<std::byte*>(space.data + round_up(floats, index_t{4})));
}

/// A kernel that encodes the rows of one operand, or takes gradients back through the encoding.
template <position::detail::direction Way, class Op, class Map, class X, class Y>
[[nodiscard]] auto prepare_rows(const gpu& executor, const subject& self, const Op& op, const problem& p,
                                position::side which, const Map& map, const tensor_view<const X, 4>& x,
                                const tensor_view<Y, 4>& y) {
  const auto encoding = position::for_head_dim(position::place(op.position).encoding, p.head_dim);
  static_cast<void>(position::detail::checked_part<Way>(executor, self.name, encoding, which, map, p.head_dim, x, y));
  return position::detail::prepare_encode<Way>(
      self, encoding, which, map, position::detail::dense_tokens{x.extent(0), x.extent(2)}, p.head_dim, x,
      position::detail::dense_results<Y>{y, position::detail::rows_at_16_bytes(y)});
}

/// One operand as kernels take it, and what must be launched before them, or after them for a gradient.
template <class T, class Kernel> struct kernel_operand {
  tensor_view<T, 4> rows;
  Kernel kernel;

  void launch(const gpu& executor) const { kernel.launch(executor); }
};
struct no_kernel {
  void launch(const gpu&) const noexcept {}
};

/// x itself, or with a position its copy in workspace.
template <class Op, class Map, class T>
[[nodiscard]] auto encoded_operand(const gpu& executor, const subject& self, const Op& op, const problem& p,
                                   position::side which, const Map& map, const tensor_view<const T, 4>& x,
                                   workspace& memory) {
  if constexpr (encodes_positions<Op>) {
    const tensor_view<T, 4> rows = rows_like<T>(x, encoded_problem<Op>(op, p).shape.head_dim, memory);
    const auto kernel = prepare_rows<position::detail::direction::forward>(executor, self, op, p, which, map, x, rows);
    return kernel_operand<const T, std::remove_const_t<decltype(kernel)>>{rows, kernel};
  } else {
    return kernel_operand<const T, no_kernel>{x, {}};
  }
}
template <class Op, class T>
[[nodiscard]] auto encoded_queries(const gpu& executor, const subject& self, const Op& op, const problem& p,
                                   const tensor_view<const T, 4>& q, workspace& memory) {
  return encoded_operand(executor, self, op, p, position::side::query,
                         position::shifted_rows{position::place(op.position).queries, p.starts}, q, memory);
}
template <class Op, class T>
[[nodiscard]] auto encoded_keys(const gpu& executor, const subject& self, const Op& op, const problem& p,
                                const tensor_view<const T, 4>& k, workspace& memory) {
  return encoded_operand(executor, self, op, p, position::side::key, position::place(op.position).keys, k, memory);
}

/// The gradient with respect to encoded vectors, in the memory of dx where the width stays, and the kernel that takes it back to plain ones.
template <class Op, class Map, class T>
[[nodiscard]] auto encoded_gradient(const gpu& executor, const subject& self, const Op& op, const problem& p,
                                    position::side which, const Map& map, const tensor_view<T, 4>& dx,
                                    workspace& memory) {
  if constexpr (encodes_positions<Op>) {
    tensor_view<T, 4> rows = dx;
    if constexpr (!keeps_width<Op>) rows = rows_like<T>(dx, encoded_problem<Op>(op, p).shape.head_dim, memory);
    const auto kernel = prepare_rows<position::detail::direction::backward>(executor, self, op, p, which, map,
                                                                            tensor_view<const T, 4>(rows), dx);
    return kernel_operand<T, std::remove_const_t<decltype(kernel)>>{rows, kernel};
  } else {
    return kernel_operand<T, no_kernel>{dx, {}};
  }
}
template <class Op, class T>
[[nodiscard]] auto encoded_query_gradient(const gpu& executor, const subject& self, const Op& op, const problem& p,
                                          const tensor_view<T, 4>& dq, workspace& memory) {
  return encoded_gradient(executor, self, op, p, position::side::query,
                          position::shifted_rows{position::place(op.position).queries, p.starts}, dq, memory);
}
template <class Op, class T>
[[nodiscard]] auto encoded_key_gradient(const gpu& executor, const subject& self, const Op& op, const problem& p,
                                        const tensor_view<T, 4>& dk, workspace& memory) {
  return encoded_gradient(executor, self, op, p, position::side::key, position::place(op.position).keys, dk, memory);
}

}  // namespace seqprim::attention::detail
