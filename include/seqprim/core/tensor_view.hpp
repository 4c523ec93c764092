// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/core/index.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace seqprim {

/// The extent of an axis is known at run time only.
inline constexpr index_t dynamic_extent = -1;

namespace detail {
// Extents of a view without elements may multiply past 2^63 before the zero comes; the answer is still zero.
[[nodiscard]] SEQPRIM_HD constexpr index_t wrapping_product(index_t a, index_t b) noexcept {
  return static_cast<index_t>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
}
}  // namespace detail

/// A non-owning view of a strided array: pointer, extents, strides. Axis order is (batch, heads, len, dim); memory
/// order is free through the strides, which count elements. Offsets are 64-bit, ranks 1 to 6.
///
/// `Last` fixes the extent of the last axis at compile time (head_dim, mostly) so that kernels can unroll over it. A
/// view of T becomes one of const T; a static last extent may be forgotten, never invented. Indexing is unchecked;
/// entry points validate shapes once, before touching data.
///
/// Edge    a view without elements has size 0, is contiguous and overlaps nothing.
/// Errors  precondition_error (host only): a static last extent is given another value.
/// Cost    a pointer and 2 rank integers, passed by value. No member reads an element.
template <class T, int Rank, index_t Last = dynamic_extent>
requires(Rank >= 1 && Rank <= 6) struct tensor_view {
  using element_type = T;
  using value_type = std::remove_const_t<T>;
  static constexpr int rank = Rank;
  static constexpr index_t last_extent = Last;

  T* data = nullptr;
  index_t extents[Rank] = {};
  index_t strides[Rank] = {};

  tensor_view() = default;

  /// Dense view: the last axis is contiguous and each axis encloses the next.
  template <std::convertible_to<index_t>... Extents>
  requires(sizeof...(Extents) == Rank)
      SEQPRIM_HD constexpr explicit tensor_view(T* pointer, Extents... lengths) noexcept(Last == dynamic_extent)
      : data(pointer), extents{static_cast<index_t>(lengths)...} {
    expect_last_extent();
    index_t step = 1;
    for (int axis = Rank - 1; axis >= 0; --axis) {
      strides[axis] = step;
      step = detail::wrapping_product(step, extents[axis]);
    }
  }

  /// Strided view; strides count elements.
  SEQPRIM_HD constexpr tensor_view(T* pointer, const index_t (&lengths)[Rank],
                                   const index_t (&steps)[Rank]) noexcept(Last == dynamic_extent)
      : data(pointer) {
    for (int axis = 0; axis < Rank; ++axis) {
      extents[axis] = lengths[axis];
      strides[axis] = steps[axis];
    }
    expect_last_extent();
  }

  /// Read-only view of a mutable one; forgetting a static last extent is implicit, inventing one is not.
  template <class U, index_t OtherLast>
  requires(std::same_as<T, const U> || (std::same_as<T, U> && OtherLast != Last)) &&
      (Last == dynamic_extent || Last == OtherLast)
          SEQPRIM_HD constexpr tensor_view(const tensor_view<U, Rank, OtherLast>& other) noexcept
      : data(other.data) {
    for (int axis = 0; axis < Rank; ++axis) {
      extents[axis] = other.extents[axis];
      strides[axis] = other.strides[axis];
    }
  }

  template <std::convertible_to<index_t>... Indices>
  requires(sizeof...(Indices) == Rank) [[nodiscard]] SEQPRIM_HD constexpr T& operator()(
      Indices... indices) const noexcept {
    const index_t position[] = {static_cast<index_t>(indices)...};
    index_t offset = 0;
    for (int axis = 0; axis < Rank; ++axis) offset += position[axis] * strides[axis];
    return data[offset];
  }

  [[nodiscard]] SEQPRIM_HD constexpr index_t extent(int axis) const noexcept {
    if constexpr (Last != dynamic_extent) {
      if (axis == Rank - 1) return Last;
    }
    return extents[axis];
  }
  [[nodiscard]] SEQPRIM_HD constexpr index_t stride(int axis) const noexcept { return strides[axis]; }

  [[nodiscard]] SEQPRIM_HD constexpr index_t size() const noexcept {
    index_t count = 1;
    for (int axis = 0; axis < Rank; ++axis) count = detail::wrapping_product(count, extents[axis]);
    return count;
  }

  /// True when the elements fill one dense block in row-major order. A view without elements does.
  [[nodiscard]] SEQPRIM_HD constexpr bool contiguous() const noexcept {
    if (size() == 0) return true;
    index_t step = 1;
    for (int axis = Rank - 1; axis >= 0; --axis) {
      if (extents[axis] != 1 && strides[axis] != step) return false;
      step *= extents[axis];
    }
    return true;
  }

  /// The view at index i of the first axis.
  [[nodiscard]] SEQPRIM_HD constexpr auto operator[](index_t i) const noexcept requires(Rank >= 2) {
    tensor_view<T, Rank - 1, Last> result;
    result.data = data + i * strides[0];
    for (int axis = 1; axis < Rank; ++axis) {
      result.extents[axis - 1] = extents[axis];
      result.strides[axis - 1] = strides[axis];
    }
    return result;
  }

  /// The part of an axis that lies in `part`; 0 <= part.begin <= part.end <= extent(axis) is the caller's promise.
  [[nodiscard]] SEQPRIM_HD constexpr tensor_view<T, Rank> slice(int axis, range part) const noexcept {
    tensor_view<T, Rank> result = *this;
    result.data = data + part.begin * strides[axis];
    result.extents[axis] = part.end - part.begin;
    return result;
  }

  /// The same elements with two axes exchanged: [batch, len, heads, dim] data becomes a [batch, heads, len, dim] view.
  [[nodiscard]] SEQPRIM_HD constexpr tensor_view<T, Rank> transposed(int first, int second) const noexcept {
    tensor_view<T, Rank> result = *this;
    result.extents[first] = extents[second];
    result.extents[second] = extents[first];
    result.strides[first] = strides[second];
    result.strides[second] = strides[first];
    return result;
  }

 private:
  SEQPRIM_HD constexpr void expect_last_extent() const noexcept(Last == dynamic_extent) {
#if !defined(__CUDA_ARCH__)
    if constexpr (Last != dynamic_extent) {
      SEQPRIM_EXPECTS(extents[Rank - 1] == Last, "tensor_view: the last extent (", extents[Rank - 1],
                      ") must be the one of its type (", Last, ")");
    }
#endif
  }
};

/// Where `as_view` accepts an owning tensor or a view of the given rank.
template <class X, int Rank> concept viewable = requires(const X& x) {
  { as_view(x).rank } -> std::convertible_to<int>;
  requires std::remove_cvref_t<decltype(as_view(x))>::rank == Rank;
};

template <class T, int Rank, index_t Last>
[[nodiscard]] SEQPRIM_HD constexpr tensor_view<T, Rank, Last> as_view(const tensor_view<T, Rank, Last>& view) noexcept {
  return view;
}

/// The element type behind a tensor or view, without const.
template <class X> using element_of = typename std::remove_cvref_t<decltype(as_view(std::declval<X&>()))>::value_type;

namespace detail {

/// Lowest and one-past-highest element address a view can reach; both null for a view without elements.
struct footprint {
  const std::byte* begin = nullptr;
  const std::byte* end = nullptr;
};

template <class T, int Rank, index_t Last>
[[nodiscard]] SEQPRIM_INLINE footprint footprint_of(const tensor_view<T, Rank, Last>& view) noexcept {
  if (view.size() == 0 || view.data == nullptr) return {};
  index_t low = 0;
  index_t high = 0;
  for (int axis = 0; axis < Rank; ++axis) {
    const index_t reach = (view.extents[axis] - 1) * view.strides[axis];
    (reach < 0 ? low : high) += reach;
  }
  return {reinterpret_cast<const std::byte*>(view.data + low),
          reinterpret_cast<const std::byte*>(view.data + high + 1)};
}

/// True when two views have the same strides modulo `period` bytes and, within one period, touch different bytes: the
/// slices of one interleaved buffer, such as q, k and v of a fused projection.
template <class A, class B>
[[nodiscard]] SEQPRIM_INLINE bool interleaved(const A& a, const B& b, index_t period) noexcept {
  // Span of the axes that stay within one step, relative to the first element.
  const auto span = [period](const auto& view, index_t& low, index_t& high) {
    constexpr auto size = static_cast<index_t>(sizeof(*view.data));
    low = high = 0;
    for (int axis = 0; axis < view.rank; ++axis) {
      if (view.extents[axis] <= 1 || view.strides[axis] * size % period == 0) continue;
      const index_t reach = (view.extents[axis] - 1) * view.strides[axis] * size;
      (reach < 0 ? low : high) += reach;
    }
    high += size;
  };
  index_t a_low, a_high, b_low, b_high;
  span(a, a_low, a_high);
  span(b, b_low, b_high);
  const index_t apart =
      (reinterpret_cast<const char*>(b.data) + b_low) - (reinterpret_cast<const char*>(a.data) + a_low);
  const index_t gap = (apart % period + period) % period;
  return a_high - a_low <= gap && gap + (b_high - b_low) <= period;
}

}  // namespace detail

/// True when two views may share an element. Exact for dense views and for slices of one interleaved buffer; other
/// interleavings count as overlapping.
template <class A, class B> [[nodiscard]] SEQPRIM_INLINE bool may_overlap(const A& first, const B& second) noexcept {
  const auto a = as_view(first);
  const auto b = as_view(second);
  const auto x = detail::footprint_of(a);
  const auto y = detail::footprint_of(b);
  if (!(x.begin < y.end && y.begin < x.end)) return false;
  for (int axis = 0; axis < a.rank; ++axis) {
    const index_t step = a.strides[axis] * static_cast<index_t>(sizeof(*a.data)), period = step < 0 ? -step : step;
    if (a.extents[axis] > 1 && period > 0 && detail::interleaved(a, b, period)) return false;
  }
  return true;
}

}  // namespace seqprim
