// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/index_array.hpp>
#include <seqprim/core/tensor_view.hpp>

#include <concepts>
#include <cstdint>
#include <type_traits>

namespace seqprim::attention {

/// The page table of a paged KV cache: the pages and the number of tokens of each sequence.
///
///     token j of sequence b is in row j % page_size of page entries(b, j / page_size), for 0 <= j < lengths[b]
///
/// entries [batch, max_pages] and lengths [batch] are 32 or 64 bits wide and belong to the caller. Entries beyond the length of
/// a sequence are never read and may hold anything. Sequences may share pages that are only read.
///
/// Errors  precondition_error (validate): page_size < 1, a length < 0 or longer than the table, fewer rows than sequences, an
///         entry in use that names no page. Values `on_device` are not validated.
/// Source  Kwon et al., "Efficient memory management for large language model serving with PagedAttention".
///         Page docs/reference/attention/paged.md
class page_table {
 public:
  page_table() = default;

  template <viewable<2> Entries>
  requires(sizeof(element_of<Entries>) >= 4 && std::integral<element_of<Entries>>)
      page_table(const Entries& entries, const index_array& lengths)
  noexcept : lengths_(lengths) {
    const auto view = as_view(entries);
    if constexpr (sizeof(element_of<Entries>) == 4) {
      narrow_ = reinterpret_cast<const std::int32_t*>(view.data);
    } else {
      wide_ = reinterpret_cast<const std::int64_t*>(view.data);
    }
    for (int axis = 0; axis < 2; ++axis) {
      extents_[axis] = view.extent(axis);
      strides_[axis] = view.stride(axis);
    }
  }

  /// The same table, marked as unreadable for host code.
  [[nodiscard]] SEQPRIM_HD constexpr page_table on_device() const noexcept {
    page_table result = *this;
    result.lengths_ = lengths_.on_device();
    result.host_readable_ = false;
    return result;
  }
  [[nodiscard]] SEQPRIM_HD constexpr bool host_readable() const noexcept {
    return host_readable_ && lengths_.host_readable();
  }

  /// The n-th page of sequence b.
  [[nodiscard]] SEQPRIM_HD constexpr index_t page(index_t b, index_t n) const noexcept {
    const index_t at = b * strides_[0] + n * strides_[1];
    return wide_ != nullptr ? wide_[at] : narrow_[at];
  }
  /// Tokens of sequence b.
  [[nodiscard]] SEQPRIM_HD constexpr index_t length(index_t b) const noexcept { return lengths_[b]; }
  [[nodiscard]] SEQPRIM_HD constexpr const index_array& lengths() const noexcept { return lengths_; }
  [[nodiscard]] SEQPRIM_HD constexpr index_t batch() const noexcept { return extents_[0]; }
  [[nodiscard]] SEQPRIM_HD constexpr index_t max_pages() const noexcept { return extents_[1]; }

  /// The tokens of the longest of the first `batch` sequences; host-readable tables only.
  [[nodiscard]] SEQPRIM_HD constexpr index_t longest(index_t batch) const noexcept {
    index_t most = 0;
    for (index_t b = 0; b < batch; ++b) most = max(most, length(b));
    return most;
  }

  /// The table of sequence b alone.
  [[nodiscard]] SEQPRIM_HD constexpr page_table sequence(index_t b) const noexcept {
    page_table result = *this;
    if (wide_ != nullptr) {
      result.wide_ = wide_ + b * strides_[0];
    } else {
      result.narrow_ = narrow_ + b * strides_[0];
    }
    result.extents_[0] = 1;
    result.lengths_ = lengths_.slice({b, b + 1});
    return result;
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    constexpr subject self{"attention::page_table", "attention/paged"};
    const void* const entries = wide_ != nullptr ? static_cast<const void*>(wide_) : narrow_;
    visit(self, "entries", borrowed{entries, host_readable_ ? host_access::checks : host_access::never});
    visit(self, "lengths", lengths_);
  }

  /// Checks everything that a call for `batch` sequences on so many pages will read.
  void validate(index_t batch, index_t pages, index_t page_size) const {
    constexpr const char* page_name = ". See docs/reference/attention/paged.md";
    SEQPRIM_EXPECTS(page_size >= 1, "attention::page_table: page_size (", page_size, ") must be >= 1", page_name);
    SEQPRIM_EXPECTS(extents_[0] >= batch && lengths_.size() >= batch, "attention::page_table: ", extents_[0],
                    " rows and ", lengths_.size(), " lengths do not serve ", batch, " sequences", page_name);
    if (!host_readable()) return;
    for (index_t b = 0; b < batch; ++b) {
      SEQPRIM_EXPECTS(0 <= length(b) && ceil_div(max<index_t>(length(b), 0), page_size) <= max_pages(),
                      "attention::page_table: lengths[", b, "] (", length(b), ") must be in [0, ", max_pages(),
                      " pages of ", page_size, "]", page_name);
      for (index_t n = 0; n < ceil_div(length(b), page_size); ++n)
        SEQPRIM_EXPECTS(0 <= page(b, n) && page(b, n) < pages, "attention::page_table: entry (", b, ", ", n, ") is ",
                        page(b, n), ", there are ", pages, " pages", page_name);
    }
  }

 private:
  const std::int32_t* narrow_ = nullptr;
  const std::int64_t* wide_ = nullptr;
  index_t extents_[2] = {};
  index_t strides_[2] = {};
  index_array lengths_;
  bool host_readable_ = true;
};
static_assert(std::is_trivially_copyable_v<page_table>);

/// The keys or the values of a paged cache, given to decode and append where a view of a contiguous cache goes:
///
///     attention::decode(executor, op, q, paged{k_pages, table}, paged{v_pages, table}, out);
///
/// `Store` holds the pages: a view [pages, kv_heads, page_size, dim] of float, float16 or bfloat16, or `quantized` views of that
/// shape. A contiguous cache is the case of one page as long as the capacity; results have the same bits as with it, whatever
/// the page size. Memory order is free: pages stored as [pages, page_size, kv_heads, dim] come as view.transposed(1, 2).
template <class Store> struct paged {
  Store pages;
  page_table table;

  // Constructors rather than an aggregate: clang 14 deduces template arguments from constructors only. The store is not
  // deduced here but by the guide below, which turns tensors into views.
  SEQPRIM_HD constexpr paged(const std::type_identity_t<Store>& storage, const page_table& which) noexcept
      : pages(storage), table(which) {}
  /// The same from an owning tensor.
  template <class Owner>
  requires(!std::is_same_v<std::remove_cvref_t<Owner>, Store>) paged(Owner&& storage, const page_table& which)
  noexcept : pages(as_view(storage)), table(which) {}

  [[nodiscard]] SEQPRIM_HD constexpr index_t kv_heads() const noexcept { return pages.extent(1); }
  [[nodiscard]] SEQPRIM_HD constexpr index_t page_size() const noexcept { return pages.extent(2); }
  [[nodiscard]] SEQPRIM_HD constexpr index_t dim() const noexcept { return pages.extent(3); }
  /// Tokens of sequence b.
  [[nodiscard]] SEQPRIM_HD constexpr index_t length(index_t b) const noexcept { return table.length(b); }
  /// The place of token j of sequence b: indices of the first and of the third axis of `pages`.
  [[nodiscard]] SEQPRIM_HD constexpr index_t page_of(index_t b, index_t j) const noexcept {
    return table.page(b, j / page_size());
  }
  [[nodiscard]] SEQPRIM_HD constexpr index_t row_of(index_t j) const noexcept { return j % page_size(); }

  void validate(index_t batch) const { table.validate(batch, pages.extent(0), page_size()); }
};
template <class Storage>
paged(Storage&& storage, const page_table&) -> paged<std::remove_cvref_t<decltype(as_view(storage))>>;

template <class X> inline constexpr bool is_paged = false;
template <class Store> inline constexpr bool is_paged<paged<Store>> = true;

}  // namespace seqprim::attention
