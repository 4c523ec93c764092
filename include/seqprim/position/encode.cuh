// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/cuda/launch.cuh>
#include <seqprim/arch/cuda/mma_sync.cuh>
#include <seqprim/core/arrays.cuh>
#include <seqprim/core/gpu.cuh>
#include <seqprim/position/detail/cuda/encode_block.hpp>
#include <seqprim/position/encode.hpp>

#include <cuda_runtime.h>

#include <type_traits>

namespace seqprim::position {

namespace detail {

template <direction Way, class Engine, class Call>
__global__ void __launch_bounds__(encode_lanes) encode_kernel(const __grid_constant__ Call call) {
  extern __shared__ uint4 encode_memory[];
  encode_block<Way>(Engine{}, call, encode_memory);
}

/// A kernel that encodes vectors and may start: see arch::cuda::prepared.
template <direction Way, class Call> struct prepared_encode {
  Call call;
  arch::cuda::prepared<Call> kernel;

  void launch(const gpu& executor) const { kernel.launch(executor, call); }
};

/// `encoding` is one for head_dim; the vectors of x and the results of `to` are checked.
template <direction Way, class E, class Map, class Tokens, class X, class Results>
[[nodiscard]] auto prepare_encode(const subject& self, const E& encoding, side which, const Map& map,
                                  const Tokens& tokens, index_t head_dim, const tensor_view<const X, 4>& x,
                                  const Results& to) {
  const auto call = make_encode_call(self, encoding, which, map, tokens, head_dim, x, to);
  using call_type = std::remove_const_t<decltype(call)>;
  return prepared_encode<Way, call_type>{
      call, arch::cuda::prepare(self.name, encode_kernel<Way, arch::cuda::mma_sync, call_type>,
                                {call.blocks(), encode_lanes, call.tile.shared_bytes})};
}

template <direction Way, class E, class Map, class X, class Y>
void encode(const char* name, const gpu& executor, const E& given, side which, const Map& map, const X& input,
            Y&& output) {
  static_assert(require_encoding<E>());
  using output_element = element_of<Y>;
  const tensor_view<const element_of<X>, 4> x = as_view(input);
  const tensor_view<output_element, 4> y = as_view(output);
  constexpr const char* page = "position/encode";
  expect_arrays(executor, given);
  expect_arrays(executor, map);
  expect_memory(executor, subject{name, page}, "x", x);
  expect_memory(executor, subject{name, page}, "y", y);
  const index_t head_dim = Way == direction::forward ? x.extent(3) : y.extent(3);
  const auto encoding = position::for_head_dim(given, head_dim);
  const auto part = checked_part<Way>(executor, name, encoding, which, map, head_dim, x, y);
  if ((x.size() == 0 && y.size() == 0) || (!encodes<E> && part.in_place())) return;
  prepare_encode<Way>(subject{name, page}, encoding, which, map, dense_tokens{x.extent(0), x.extent(2)}, head_dim, x,
                      dense_results<output_element>{y, rows_at_16_bytes(y)})
      .launch(executor);
}

}  // namespace detail

/// Encodes the coordinate of every token into its vectors on CUDA, by the functors of the CPU: the same shapes, types, errors and
/// edge values. Views point to device memory, and so do arrays inside the encoding and the map (index_array::on_device()).
///
/// A block copies the vectors of 32 tokens and 8 heads into shared memory, encodes each there in one lane and stores them; a table
/// serves the heads of its block.
///
/// Limits   a vector and its table in 64 KiB of shared memory: rotary up to 8000 channels
/// Layout   as on the CPU. Rows at multiples of 16 bytes are read and written 16 bytes at a time, others element by element.
/// Edge     a position outside of a table gives NaN: the host does not read the map
/// Repeat   same bits in every run and any batch. Compilers may fuse products and sums differently, and pow, sin and cos of double may
///          differ in the last place: a cosine or sine of a float table is that of the CPU to about one unit in the last place, an
///          element to that and one rounding. Tables that are read from memory have the same bits.
/// Cost     a table per token and 8 heads; reads and writes each vector once. One launch; no allocation, no synchronization; can be
///          captured into a graph. Where few tokens are encoded the trigonometry dominates: `tabled<E>{encoding, values}`, with the
///          values of a position::table copied to device memory, saves it.
/// Page     docs/reference/position/encode.md
template <class E, class Map, viewable<4> X, viewable<4> Y>
void encode(const gpu& executor, const E& encoding, const Map& map, side which, const X& x, Y&& y) {
  detail::encode<detail::direction::forward>("position::encode", executor, encoding, which, map, x, y);
}
template <class E, class Map, viewable<4> X, viewable<4> Y>
void encode(const gpu& executor, const E& encoding, const Map& map, const X& x, Y&& y) {
  static_assert(detail::require_no_side<E>());
  detail::encode<detail::direction::forward>("position::encode", executor, encoding, side::query, map, x, y);
}

/// The gradient of encode: dx = (d encode / d x)^T dy. Same rules as encode.
template <class E, class Map, viewable<4> DY, viewable<4> DX>
void encode_backward(const gpu& executor, const E& encoding, const Map& map, side which, const DY& dy, DX&& dx) {
  detail::encode<detail::direction::backward>("position::encode_backward", executor, encoding, which, map, dy, dx);
}
template <class E, class Map, viewable<4> DY, viewable<4> DX>
void encode_backward(const gpu& executor, const E& encoding, const Map& map, const DY& dy, DX&& dx) {
  static_assert(detail::require_no_side<E>());
  detail::encode<detail::direction::backward>("position::encode_backward", executor, encoding, side::query, map, dy,
                                              dx);
}

/// Not on CUDA: one sentence at compile time says so.
template <class E, class Map, viewable<4> X, viewable<4> DY, viewable<1> Gradient>
void parameter_gradient(const gpu&, const E&, const Map&, side, const X&, const DY&, Gradient&&) {
  static_assert(!std::is_same_v<E, E>,
                "seqprim: the gradients of the parameters of a position encoding are computed on the CPU only. See "
                "docs/reference/position/parameter_gradient.md");
}

}  // namespace seqprim::position
