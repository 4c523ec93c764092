// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index.hpp>

#include <cstddef>
#include <span>

namespace seqprim::io::detail {

inline constexpr std::size_t max_view_rank = 6;  // of tensor_view

/// Calls body(offset) for each element of a strided array, last axis fastest; offsets and strides count elements.
template <class Body>
void for_each_offset(std::span<const index_t> extents, std::span<const index_t> strides, const Body& body) {
  for (const index_t extent : extents)
    if (extent == 0) return;
  const std::size_t rank = extents.size();
  if (rank == 0) return body(index_t{0});
  index_t position[max_view_rank] = {};
  index_t row = 0;  // offset of the row that position names
  for (;;) {
    for (index_t i = 0; i < extents[rank - 1]; ++i) body(row + i * strides[rank - 1]);
    std::size_t axis = rank - 1;
    for (;;) {
      if (axis == 0) return;
      --axis;
      row += strides[axis];
      if (++position[axis] < extents[axis]) break;
      row -= extents[axis] * strides[axis];
      position[axis] = 0;
    }
  }
}

}  // namespace seqprim::io::detail
