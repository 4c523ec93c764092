// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/linalg/buffer.hpp>

#include <type_traits>

namespace seqprim::nn {

using linalg::buffer;

/// What row-wise layers accept: any view whose last axis holds the features. [batch, len, dim] is batch * len rows.
template <class X> concept row_viewable = viewable<X, 2> || viewable<X, 3> || viewable<X, 4>;

namespace detail {

/// [..., dim] as [rows, dim]. `operand` names it in the error when its rows do not lie one after another.
template <row_viewable X> [[nodiscard]] auto rows_of(const subject& self, const char* operand, X&& x) {
  const auto view = as_view(x);
  using view_type = std::remove_cvref_t<decltype(view)>;
  constexpr int rank = view_type::rank;
  if constexpr (rank == 2) {
    self.expects_contiguous(operand, view);
    return tensor_view<typename view_type::element_type, 2>(view);
  } else {
    self.expects_lengths(operand, view);
    self.expects(view.contiguous(), operand, " must be dense");
    index_t rows = 1;
    for (int axis = 0; axis + 1 < rank; ++axis) rows *= view.extent(axis);
    return tensor_view<typename view_type::element_type, 2>(view.data, rows, view.extent(rank - 1));
  }
}

/// The last axis of an operand has the length that the layer calls `length_name`.
template <class View>
void expect_features(const subject& self, const char* operand, const View& x, const char* length_name, index_t length) {
  self.expects(x.extent(1) == length, "the last axis of ", operand, " is ", x.extent(1), ", but ", length_name, " is ",
               length);
}

/// Two operands have the same number of rows.
template <class View, class Other>
void expect_same_rows(const subject& self, const char* operand, const View& x, const char* other_name,
                      const Other& other) {
  self.expects(x.extent(0) == other.extent(0), operand, " has ", x.extent(0), " rows, but ", other_name, " has ",
               other.extent(0));
}

/// An operand has the shape of another.
template <class View, class Other>
void expect_same_shape(const subject& self, const char* operand, const View& x, const char* other_name,
                       const Other& other) {
  expect_same_rows(self, operand, x, other_name, other);
  self.expects(x.extent(1) == other.extent(1), "the last axis of ", operand, " is ", x.extent(1), ", but that of ",
               other_name, " is ", other.extent(1));
}

/// The saved activations are of a forward pass over the same rows.
inline void expect_saved(const subject& self, index_t saved_rows, index_t rows) {
  self.expects(saved_rows == rows, "backward of ", rows,
               " rows requires the activations of a forward pass over the same rows, not used by another backward");
}

}  // namespace detail
}  // namespace seqprim::nn
