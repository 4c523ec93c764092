// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/tensor_view.hpp>

#include <cstddef>
#include <limits>
#include <new>
#include <type_traits>
#include <utility>

namespace seqprim {

/// An owning, dense, zero-initialized, 64-byte aligned array: `tensor<float, 3> t(2, 3, 5)`. For examples, layers and
/// tests; kernels take views, and every entry point that takes a view takes a tensor too. Copies own their elements; a
/// moved-from tensor is empty.
///
/// Errors  precondition_error: an extent is negative, or the size exceeds 2^63 - 1 bytes. std::bad_alloc.
/// Cost    one allocation and one pass that writes zeros. A copy allocates; a move exchanges pointers.
template <class T, int Rank> class tensor {
  static_assert(std::is_trivially_copyable_v<T>, "seqprim: the element type of a tensor must be trivial");

 public:
  using value_type = T;
  static constexpr int rank = Rank;
  static constexpr std::size_t alignment = 64;

  tensor() = default;

  template <std::convertible_to<index_t>... Extents>
  requires(sizeof...(Extents) == Rank) SEQPRIM_INLINE explicit tensor(Extents... extents) : view_(nullptr, extents...) {
    allocate();
    // All bits zero is zero for every element type. (A loop would be vector code in a function that translation units share.)
    __builtin_memset(static_cast<void*>(view_.data), 0, static_cast<std::size_t>(size()) * sizeof(T));
  }

  SEQPRIM_INLINE tensor(const tensor& other) : view_(other.view_) {
    if (other.view_.data == nullptr) return;
    allocate();
    __builtin_memcpy(static_cast<void*>(view_.data), other.view_.data, static_cast<std::size_t>(size()) * sizeof(T));
  }
  SEQPRIM_INLINE tensor(tensor&& other) noexcept : view_(std::exchange(other.view_, tensor_view<T, Rank>{})) {}
  SEQPRIM_INLINE tensor& operator=(tensor other) noexcept {
    std::swap(view_, other.view_);
    return *this;
  }
  ~tensor() { ::operator delete (view_.data, std::align_val_t{alignment}); }

  [[nodiscard]] tensor_view<T, Rank> view() noexcept { return view_; }
  [[nodiscard]] tensor_view<const T, Rank> view() const noexcept { return view_; }

  [[nodiscard]] T* data() noexcept { return view_.data; }
  [[nodiscard]] const T* data() const noexcept { return view_.data; }
  [[nodiscard]] index_t extent(int axis) const noexcept { return view_.extent(axis); }
  [[nodiscard]] index_t size() const noexcept { return view_.size(); }

  template <class... Indices> [[nodiscard]] T& operator()(Indices... indices) noexcept { return view_(indices...); }
  template <class... Indices> [[nodiscard]] const T& operator()(Indices... indices) const noexcept {
    return view_(indices...);
  }

  [[nodiscard]] T* begin() noexcept { return data(); }
  [[nodiscard]] T* end() noexcept { return data() + size(); }
  [[nodiscard]] const T* begin() const noexcept { return data(); }
  [[nodiscard]] const T* end() const noexcept { return data() + size(); }

  SEQPRIM_INLINE void fill(T value) noexcept {
    for (T& x : *this) x = value;
  }

 private:
  // An empty tensor owns an allocation too: its address is valid, and never read.
  SEQPRIM_INLINE void allocate() {
    bool any = true;
    for (const index_t length : view_.extents) {
      SEQPRIM_EXPECTS(length >= 0, "tensor: an extent (", length, ") is negative");
      any = any && length > 0;
    }
    index_t count = any ? 1 : 0;
    if (any) {
      for (const index_t length : view_.extents) {
        SEQPRIM_EXPECTS(count <= std::numeric_limits<index_t>::max() / index_t{sizeof(T)} / length,
                        "tensor: the extents multiply to more than 2^63 - 1 bytes");
        count *= length;
      }
    }
    const auto bytes = static_cast<std::size_t>(max<index_t>(count, 1)) * sizeof(T);
    view_.data = static_cast<T*>(::operator new (bytes, std::align_val_t{alignment}));
  }

  tensor_view<T, Rank> view_;
};

template <class T, int Rank> [[nodiscard]] tensor_view<T, Rank> as_view(tensor<T, Rank>& owner) noexcept {
  return owner.view();
}
template <class T, int Rank> [[nodiscard]] tensor_view<const T, Rank> as_view(const tensor<T, Rank>& owner) noexcept {
  return owner.view();
}

}  // namespace seqprim
