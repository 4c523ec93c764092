// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/element.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/position/encode.hpp>

#include <concepts>

namespace seqprim::position {

/// An encoding with parameters that can be learned: parameters() is their number for all heads together, and
///
///     void add_parameter_gradient(side, const T* x, const T* dy, coordinate, index_t head, index_t head_dim, double* sums) const
///
/// adds <dy, d encode(x) / d parameter n> to sums[n] for one vector x that was encoded and the gradient dy of the result.
template <class E>
concept learnable = encoding<E> && requires(const E& e, const float* x, const typename E::coordinate& c, double* sums) {
  { e.parameters() } -> std::same_as<index_t>;
  e.add_parameter_gradient(side::query, x, x, c, index_t{}, index_t{}, sums);
};

/// The gradients of sum(encode(x) * dy) with respect to the parameters of an encoding.
///
/// Shapes   x [batch, heads, len, head_dim] as given to encode; dy [batch, heads, len, encoded_dim]; gradient [parameters],
///          overwritten. A model adds those of its queries and of its keys.
/// Types    x, dy float, float16 or bfloat16, or both double; sums in double
/// Layout   the last axis contiguous, other strides free
/// Limits   on the CPU only
/// Errors   precondition_error: shapes disagree, the encoding does not fit head_dim, the map has fewer rows
/// Repeat   same bits for any number of threads: blocks of 64 tokens are summed in order
/// Cost     what add_parameter_gradient costs per vector; allocates 8 bytes per parameter and 64 tokens
/// Page     docs/reference/position/parameter_gradient.md
template <class Isa = arch::native_isa, class E, class Map, viewable<4> X, viewable<4> DY, viewable<1> Gradient>
void parameter_gradient(const cpu& executor, const E& given, const Map& map, side which, const X& vectors,
                        const DY& result_gradient, Gradient&& gradient) {
  static_assert(require_encoding<E>() && require_map<Map>() && require_coordinates<E, Map>());
  static_assert(
      learnable<E>,
      "seqprim: this encoding has no parameters to learn: it lacks 'parameters' and 'add_parameter_gradient'. "
      "See docs/reference/position/parameter_gradient.md");
  static_assert(std::is_same_v<accumulator<element_of<X>>, accumulator<element_of<DY>>>,
                "seqprim: position::parameter_gradient reads all double, or none");
  using T = accumulator<element_of<X>>;
  constexpr subject self{"position::parameter_gradient", "position/parameter_gradient"};
  const tensor_view<const element_of<X>, 4> x = as_view(vectors);
  const tensor_view<const element_of<DY>, 4> dy = as_view(result_gradient);
  const tensor_view<element_of<Gradient>, 1> sums = as_view(gradient);
  executor.validate();
  expect_arrays(executor, given);
  expect_arrays(executor, map);
  const index_t head_dim = x.extent(3), heads = x.extent(1), len = x.extent(2);
  const E encoding = position::for_head_dim(given, head_dim);
  position::validate(encoding, head_dim);
  position::validate_map(map, x.extent(0), len);
  const index_t width = position::encoded_dim(encoding, head_dim), parameters = encoding.parameters();
  self.expects_contiguous("x", x);
  self.expects_shape("dy", dy,
                     {{x.extent(0), "batch", "x"},
                      {heads, "heads", "x"},
                      {len, "len", "x"},
                      {width, "head_dim", width == head_dim ? "x" : "encoded x"}});
  self.expects_contiguous("dy", dy);
  self.expects_shape("gradient", sums, {{parameters, "parameters", "the encoding"}});
  constexpr index_t block = 64;
  const index_t blocks = ceil_div(len, block), pieces = x.extent(0) * heads * blocks;
  tensor<double, 2> parts(pieces, parameters);
  const scratch<T> rows(thread_count(executor), head_dim + width);
  parallel_for(executor, pieces, [&](index_t piece, int thread) {
    const index_t b = piece / blocks / heads, h = piece / blocks % heads, begin = piece % blocks * block;
    const auto at = position::bind(map, b, h);
    T* const in = rows.slab(thread);
    for (index_t i = begin; i < min(begin + block, len); ++i) {
      detail::convert_row<Isa, T>(&x(b, h, i, 0), head_dim, in);
      detail::convert_row<Isa, T>(&dy(b, h, i, 0), width, in + head_dim);
      encoding.add_parameter_gradient(which, in, in + head_dim, static_cast<typename E::coordinate>(at(i)), h, head_dim,
                                      &parts(piece, 0));
    }
  });
  for (index_t n = 0; n < parameters; ++n) {
    double sum = 0;
    for (index_t piece = 0; piece < pieces; ++piece) sum += parts(piece, n);
    sums(n) = static_cast<element_of<Gradient>>(sum);
  }
}

}  // namespace seqprim::position
