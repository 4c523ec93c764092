// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/tensor_view.hpp>

#include <cstdint>

/// Views of memory that belongs to the caller, from a pointer and extents, checked once where the view is made.
namespace seqprim {

namespace detail {

/// Offsets of the lowest and the highest element of a strided array from its pointer.
struct reach {
  index_t lowest = 0;
  index_t highest = 0;
};

/// Checks what every array must fulfil before a view of it is made, and returns how far it reaches.
template <class T, int Rank>
reach expect_valid_array(const char* who, const T* data, const index_t (&extents)[Rank],
                         const index_t (&strides)[Rank]) {
  bool any = true;
  for (int axis = 0; axis < Rank; ++axis) {
    SEQPRIM_EXPECTS(extents[axis] >= 0, who, ": extent ", axis, " (", extents[axis], ") is negative");
    any = any && extents[axis] > 0;
  }
  if (!any) return {};
  reach result;
  bool overflow = false;
  for (int axis = 0; axis < Rank; ++axis) {
    index_t distance = 0;
    index_t& end = strides[axis] < 0 ? result.lowest : result.highest;
    overflow = overflow || __builtin_mul_overflow(extents[axis] - 1, strides[axis], &distance) ||
               __builtin_add_overflow(end, distance, &end);
  }
  index_t bytes = 0;
  overflow = overflow || __builtin_sub_overflow(result.highest, result.lowest, &bytes) ||
             __builtin_add_overflow(bytes, index_t{1}, &bytes) ||
             __builtin_mul_overflow(bytes, index_t{sizeof(T)}, &bytes);
  index_t count = 1;  // a broadcast array has more elements than addresses
  for (int axis = 0; axis < Rank; ++axis) overflow = overflow || __builtin_mul_overflow(count, extents[axis], &count);
  SEQPRIM_EXPECTS(!overflow, who, ": extents and strides reach further than 2^63 - 1 bytes");
  SEQPRIM_EXPECTS(data != nullptr, who, ": the data pointer is null, but the array has ", count, " elements");
  SEQPRIM_EXPECTS(reinterpret_cast<std::uintptr_t>(data) % alignof(T) == 0, who,
                  ": the data pointer must be aligned to the ", alignof(T), " bytes of its element type");
  return result;
}

template <int Rank> struct dense_strides {
  index_t values[Rank];
  explicit constexpr dense_strides(const index_t (&extents)[Rank]) noexcept : values() {
    index_t step = 1;
    for (int axis = Rank - 1; axis >= 0; --axis) {
      values[axis] = step;
      // Saturated: too large a product is reported by the check of the whole array.
      if (__builtin_mul_overflow(step, max<index_t>(extents[axis], 1), &step)) step = INT64_MAX;
    }
  }
};

}  // namespace detail

/// View of a dense row-major array: from_raw(pointer, {batch, heads, len, dim}).
///
/// Edge    an array without elements may have a null pointer.
/// Errors  precondition_error: a negative extent, a size past 2^63 - 1 bytes, a null or misaligned pointer.
/// Page    docs/reference/core/adapters.md
template <class T, int Rank> [[nodiscard]] tensor_view<T, Rank> from_raw(T* data, const index_t (&extents)[Rank]) {
  const detail::dense_strides<Rank> strides(extents);
  detail::expect_valid_array("from_raw", data, extents, strides.values);
  return {data, extents, strides.values};
}

/// View of a strided array; strides count elements and may be zero or negative (`data` is the element at index 0 ... 0).
template <class T, int Rank>
[[nodiscard]] tensor_view<T, Rank> from_raw(T* data, const index_t (&extents)[Rank], const index_t (&strides)[Rank]) {
  detail::expect_valid_array("from_raw", data, extents, strides);
  return {data, extents, strides};
}

/// The same for a buffer of known length: every element must lie in buffer[0, count).
///
/// Errors  those of from_raw, and an element outside the buffer.
template <class T, int Rank>
[[nodiscard]] tensor_view<T, Rank> from_buffer(T* buffer, index_t count, const index_t (&extents)[Rank],
                                               const index_t (&strides)[Rank], index_t offset = 0) {
  SEQPRIM_EXPECTS(count >= 0, "from_buffer: the length (", count, ") is negative");
  SEQPRIM_EXPECTS(offset >= 0 && offset <= count, "from_buffer: the offset (", offset, ") must lie in the buffer of ",
                  count, " elements");
  const detail::reach reach = detail::expect_valid_array("from_buffer", buffer, extents, strides);
  tensor_view<T, Rank> view(buffer, extents, strides);
  if (view.size() == 0) return view;
  SEQPRIM_EXPECTS(reach.lowest >= -offset && reach.highest < count - offset, "from_buffer: the elements reach from ",
                  reach.lowest, " to ", reach.highest, " around offset ", offset, ", outside the buffer of ", count,
                  " elements");
  view.data += offset;
  return view;
}

template <class T, int Rank>
[[nodiscard]] tensor_view<T, Rank> from_buffer(T* buffer, index_t count, const index_t (&extents)[Rank]) {
  const detail::dense_strides<Rank> strides(extents);
  return from_buffer(buffer, count, extents, strides.values);
}

}  // namespace seqprim
