// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/isa.hpp>
#include <seqprim/core/element.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/scratch.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/position/none.hpp>
#include <seqprim/position/rule.hpp>
#include <seqprim/position/sequential.hpp>

#include <type_traits>

namespace seqprim::position {

namespace detail {

enum class direction { forward, backward };

template <class Isa, direction Way, class E, class Map, class T>
void encode_rows(const cpu& executor, const E& encoding, const Map& map, const tensor_view<const T, 4>& x,
                 const tensor_view<T, 4>& y) {
  using angle = accumulator<T>;
  const index_t batch = x.extent(0);
  const index_t heads = x.extent(1);
  const index_t len = x.extent(2);
  const index_t head_dim = x.extent(3);
  // A table serves all heads, and all batch rows too unless their positions differ.
  const index_t tables = varies_by_batch(map) ? batch : 1;
  const index_t sharers = varies_by_batch(map) ? 1 : batch;
  constexpr index_t block = 16;
  const index_t blocks = ceil_div(len, block);
  const scratch<angle> memory(static_cast<int>(min<index_t>(max<index_t>(tables * blocks, 1), thread_count(executor))),
                              2 * encoding.pairs());
  parallel_for(executor, tables * blocks, [&](index_t piece, int thread) {
    angle* const cosines = memory.slab(thread);
    angle* const sines = cosines + encoding.pairs();
    const index_t table = piece / blocks;
    const auto positions = position::bind(map, table);
    const index_t begin = piece % blocks * block;
    for (index_t i = begin; i < min(begin + block, len); ++i) {
      encoding.angles(positions(i), cosines, sines);
      for (index_t b = table; b < table + sharers; ++b)
        for (index_t h = 0; h < heads; ++h) {
          if constexpr (Way == direction::forward) {
            encoding.rotate(&x(b, h, i, 0), &y(b, h, i, 0), cosines, sines, head_dim);
          } else {
            encoding.rotate_back(&x(b, h, i, 0), &y(b, h, i, 0), cosines, sines, head_dim);
          }
        }
    }
  });
}

template <class Isa, direction Way, class E, class Map, class X, class Y>
void encode(const cpu& executor, const E& encoding, const Map& map, const X& input, Y&& output, const char* name) {
  static_assert(require_encoding<E>());
  static_assert(require_map<Map>());
  using T = element_of<Y>;
  static_assert(std::is_same_v<T, element_of<X>>, "seqprim: position::encode keeps the element type");
  const tensor_view<const T, 4> x = as_view(input);
  const tensor_view<T, 4> y = as_view(output);
  executor.validate();
  for (int axis = 0; axis < 4; ++axis)
    SEQPRIM_EXPECTS(x.extent(axis) == y.extent(axis), name, ": x and y must have the same shape; extent ", axis, " is ",
                    x.extent(axis), " and ", y.extent(axis), ". See docs/reference/position/encode.md");
  if constexpr (encodes<E>) position::validate(encoding, x.extent(3));
  position::validate_map(map, x.extent(0), x.extent(2));
  if (x.size() == 0) return;
  bool in_place = x.data == y.data;
  for (int axis = 0; axis < 4; ++axis) in_place = in_place && (x.extent(axis) == 1 || x.stride(axis) == y.stride(axis));
  SEQPRIM_EXPECTS(x.extent(3) == 1 || (x.stride(3) == 1 && y.stride(3) == 1), name,
                  ": head_dim must be contiguous; its strides are ", x.stride(3), " and ", y.stride(3),
                  ". See docs/reference/position/encode.md");
  SEQPRIM_EXPECTS(in_place || !may_overlap(x, y), name,
                  ": x and y overlap without being the same view. See docs/reference/position/encode.md");
  if constexpr (requires { encoding.covers(index_t{}); }) {
    for (index_t b = 0; b < (varies_by_batch(map) ? x.extent(0) : 1); ++b) {
      const auto positions = position::bind(map, b);
      for (index_t i = 0; i < x.extent(2); ++i)
        SEQPRIM_EXPECTS(encoding.covers(positions(i)), name, ": position ", positions(i), " of row ", i,
                        " is not in the table of the encoding. See docs/reference/position/rotary_table.md");
    }
  }
  encode_rows<Isa, Way>(executor, encoding, map, x, y);
}

}  // namespace detail

/// Encodes the position of every token into its vectors: y = encode(x, map(row)).
///
/// Shapes   x, y [batch, heads, len, head_dim]; any extent may be 0
/// Types    float, float16, bfloat16: tables and arithmetic in float, one rounding. double: all in double.
/// Layout   head_dim contiguous, other strides free; y may be x, or not overlap it
/// Errors   precondition_error: shapes disagree, the encoding does not fit head_dim, the map knows fewer rows, y overlaps x
///          in part, a position outside of a rotary_table
/// Repeat   same bits for any number of threads
/// Cost     one table per token (per batch row and token, where the map depends on it), then memory-bound; allocates one
///          table for each thread
/// Source   spec positions 1; golden positions/rope_apply_*.  Page docs/reference/position/encode.md
template <class Isa = arch::native_isa, class E, class Map, viewable<4> X, viewable<4> Y>
void encode(const cpu& executor, const E& encoding, const Map& map, const X& x, Y&& y) {
  detail::encode<Isa, detail::direction::forward>(executor, encoding, map, x, y, "position::encode");
}

/// The gradient of encode: dx = (d encode / d x)^T dy, that is the rotation by the opposite angles. Same rules as encode.
template <class Isa = arch::native_isa, class E, class Map, viewable<4> DY, viewable<4> DX>
void encode_backward(const cpu& executor, const E& encoding, const Map& map, const DY& dy, DX&& dx) {
  detail::encode<Isa, detail::direction::backward>(executor, encoding, map, dy, dx, "position::encode_backward");
}

}  // namespace seqprim::position
