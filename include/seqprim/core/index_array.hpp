// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/tensor_view.hpp>

#include <concepts>
#include <cstdint>
#include <type_traits>

namespace seqprim {

namespace detail {
// Named before the class: nvcc rejects a requirement on the constructors of the class that it constrains.
template <class C, class Index> concept points_to = requires(C c) {
  { c.data() } -> std::convertible_to<const Index*>;
  static_cast<index_t>(c.size());
};
template <class C> concept holds_indices = points_to<C, std::int32_t> || points_to<C, std::int64_t>;
}  // namespace detail

/// A borrowed array of indices, 32 or 64 bits wide: document offsets, lengths, position ids. Trivially copyable, so
/// that masks and position maps can carry it into a kernel; the owner must outlive it.
///
/// Made from a pointer and a count, a rank-1 view (any stride), or an lvalue container with data() and size(); a
/// temporary does not bind. `array[i]` is an index_t whatever the stored width. Host code checks the values where it
/// can read them. Arrays `.on_device()` are not validated; the caller must satisfy the preconditions.
class index_array {
 public:
  index_array() = default;

  SEQPRIM_HD constexpr index_array(const std::int32_t* data, index_t count) noexcept : narrow_(data), size_(count) {}
  SEQPRIM_HD constexpr index_array(const std::int64_t* data, index_t count) noexcept : wide_(data), size_(count) {}

  template <class T, index_t Last>
  requires(sizeof(T) >= 4) SEQPRIM_HD constexpr index_array(const tensor_view<T, 1, Last>& view) noexcept  // NOLINT
      : index_array(view.data, view.extent(0)) {
    stride_ = view.stride(0);
  }

  template <class Container>
  requires std::is_lvalue_reference_v<Container> && detail::holds_indices<Container>
  constexpr index_array(Container&& c) noexcept  // NOLINT: a temporary does not bind
      : index_array(c.data(), static_cast<index_t>(c.size())) {}

  /// The same array, marked as unreadable for host code.
  [[nodiscard]] SEQPRIM_HD constexpr index_array on_device() const noexcept {
    index_array result = *this;
    result.host_readable_ = false;
    return result;
  }

  /// The first n entries, or all when there are fewer.
  [[nodiscard]] SEQPRIM_HD constexpr index_array first(index_t n) const noexcept {
    index_array result = *this;
    if (n < size_) result.size_ = n > 0 ? n : 0;
    return result;
  }

  /// The entries of a range; 0 <= part.begin <= part.end <= size() is the caller's responsibility.
  [[nodiscard]] SEQPRIM_HD constexpr index_array slice(range part) const noexcept {
    index_array result = *this;
    if (wide_ != nullptr) result.wide_ = wide_ + part.begin * stride_;
    if (narrow_ != nullptr) result.narrow_ = narrow_ + part.begin * stride_;
    result.size_ = part.size();
    return result;
  }

  [[nodiscard]] SEQPRIM_HD constexpr index_t operator[](index_t i) const noexcept {
    return wide_ != nullptr ? wide_[i * stride_] : narrow_[i * stride_];
  }
  [[nodiscard]] SEQPRIM_HD constexpr index_t size() const noexcept { return size_; }
  /// The first entry.
  [[nodiscard]] SEQPRIM_HD constexpr const void* address() const noexcept {
    return wide_ != nullptr ? static_cast<const void*>(wide_) : narrow_;
  }
  [[nodiscard]] SEQPRIM_HD constexpr bool host_readable() const noexcept { return host_readable_; }

  /// True when both are the same memory, read in the same way.
  [[nodiscard]] SEQPRIM_HD friend constexpr bool same_array(const index_array& a, const index_array& b) noexcept {
    return a.narrow_ == b.narrow_ && a.wide_ == b.wide_ && a.size_ == b.size_ && a.stride_ == b.stride_;
  }

 private:
  const std::int32_t* narrow_ = nullptr;
  const std::int64_t* wide_ = nullptr;
  index_t size_ = 0;
  index_t stride_ = 1;
  bool host_readable_ = true;
};
static_assert(std::is_trivially_copyable_v<index_array>);

/// The segment d with offsets[d] <= position < offsets[d + 1], by bisection; the position must lie in [offsets[0], the
/// last offset). Of empty segments at one position, the one behind them is found.
[[nodiscard]] SEQPRIM_HD constexpr index_t find_segment(const index_array& offsets, index_t position) noexcept {
  index_t low = 0;
  index_t high = offsets.size() - 1;
  while (high - low > 1) {
    const index_t middle = low + (high - low) / 2;
    (offsets[middle] <= position ? low : high) = middle;
  }
  return low;
}

}  // namespace seqprim
