// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/attention/paged.hpp>
#include <seqprim/attention/quantized.hpp>

#include <cstdint>
#include <type_traits>
#include <utility>

/// One interface to the caches that decode reads and append fills: contiguous or paged, of float, 16-bit or int8 values.
namespace seqprim::attention::detail {

/// What holds the rows of a cache: a view of 4 axes, or a quantized pair of them.
template <class Store> struct store_traits {
  using element = typename Store::value_type;
  using writable = tensor_view<typename Store::element_type, 4>;
  using readable = tensor_view<const element, 4>;
};
template <class Code, class Scale> struct store_traits<quantized<Code, Scale>> {
  using element = std::int8_t;
  using writable = quantized<Code, Scale>;
  using readable = quantized<const std::int8_t, const float>;
};

/// The view that holds the rows of a store.
template <class T> [[nodiscard]] tensor_view<T, 4> rows_of(const tensor_view<T, 4>& store) noexcept { return store; }
template <class Code, class Scale>
[[nodiscard]] tensor_view<Code, 4> rows_of(const quantized<Code, Scale>& store) noexcept {
  return store.codes;
}

/// A contiguous cache: store [batch, kv_heads, len, dim].
template <class Store> struct contiguous_cache {
  Store store;

  [[nodiscard]] index_t batch(index_t) const noexcept { return store.extent(0); }
  [[nodiscard]] index_t length(index_t) const noexcept { return store.extent(2); }
  [[nodiscard]] index_t longest(index_t) const noexcept { return store.extent(2); }
  [[nodiscard]] index_array lengths() const noexcept { return {}; }  ///< none: the same for all

  /// Calls body(first, row, part) for ranges of tokens of sequence b that are one step apart: token part.begin is
  /// store(first, head, row, ..).
  template <class Body> void for_ranges(index_t b, range tokens, const Body& body) const {
    if (!tokens.empty()) body(b, tokens.begin, tokens);
  }
  void validate(index_t) const {
    if constexpr (is_quantized<Store>) store.validate();
  }
  void validate_on_device(index_t batch) const { validate(batch); }
};

template <class Cache> inline constexpr bool is_contiguous = false;
template <class Store> inline constexpr bool is_contiguous<contiguous_cache<Store>> = true;

/// A cache in pages: store [pages, kv_heads, page_size, dim].
template <class Store> struct paged_cache {
  Store store;
  page_table table;

  [[nodiscard]] index_t batch(index_t asked) const noexcept { return asked; }
  [[nodiscard]] index_t length(index_t b) const noexcept { return table.length(b); }
  /// 0 where the host cannot read the lengths.
  [[nodiscard]] index_t longest(index_t batch) const noexcept {
    return table.host_readable() ? table.longest(batch) : 0;
  }
  [[nodiscard]] index_array lengths() const noexcept { return table.lengths(); }

  template <class Body> void for_ranges(index_t b, range tokens, const Body& body) const {
    const index_t page_size = store.extent(2);
    for (index_t begin = tokens.begin; begin < tokens.end;) {
      const index_t n = begin / page_size, end = min(tokens.end, (n + 1) * page_size);
      body(table.page(b, n), begin - n * page_size, range{begin, end});
      begin = end;
    }
  }
  void validate(index_t batch) const {
    if constexpr (is_quantized<Store>) store.validate();
    SEQPRIM_EXPECTS(table.host_readable(), "attention::page_table: the CPU cannot read a table that is on the device",
                    ". See docs/reference/attention/paged.md");
    table.validate(batch, store.extent(0), store.extent(2));
  }
  /// The same for kernels: a table that the host cannot read is taken as it is.
  void validate_on_device(index_t batch) const {
    if constexpr (is_quantized<Store>) store.validate();
    table.validate(batch, store.extent(0), store.extent(2));
  }
};

/// The cache behind an argument of decode or append, with the access that the argument gives or, `readable`, without writing.
template <class X> [[nodiscard]] auto writable(X&& x) noexcept {
  if constexpr (is_paged<std::remove_cvref_t<X>>) {
    using store = typename store_traits<decltype(x.pages)>::writable;
    return paged_cache<store>{store(x.pages), x.table};
  } else {
    using store = typename store_traits<decltype(as_view(x))>::writable;
    return contiguous_cache<store>{store(as_view(x))};
  }
}
template <class X> [[nodiscard]] auto readable(const X& x) noexcept {
  if constexpr (is_paged<X>) {
    using store = typename store_traits<decltype(x.pages)>::readable;
    return paged_cache<store>{store(x.pages), x.table};
  } else {
    using store = typename store_traits<decltype(as_view(x))>::readable;
    return contiguous_cache<store>{store(as_view(x))};
  }
}

/// Element type of a cache; int8 for quantized ones.
template <class Cache> using cache_element = typename store_traits<decltype(Cache::store)>::element;

/// A view of the right shape for the checks of a problem: [batch, kv_heads, longest sequence, dim], without memory.
template <class Cache> [[nodiscard]] tensor_view<const float, 4> outline(const Cache& cache, index_t batch) noexcept {
  const auto rows = rows_of(cache.store);
  tensor_view<const float, 4> result;
  const index_t extents[] = {cache.batch(batch), rows.extent(1), cache.longest(batch), rows.extent(3)};
  for (int axis = 0; axis < 4; ++axis) {
    result.extents[axis] = extents[axis];
    result.strides[axis] = rows.stride(axis);
  }
  return result;
}

/// Named requirement of the entry points that take a cache.
template <class X> consteval bool require_cache() {
  using type = std::remove_cvref_t<X>;
  if constexpr (is_paged<type>) {
    using element_type = typename store_traits<decltype(type::pages)>::element;
    static_assert(is_quantized<decltype(type::pages)> || element<element_type>,
                  "seqprim: pages hold float, float16 or bfloat16, or are 'attention::quantized'");
  } else if constexpr (!is_quantized<type>) {
    require_operand<X, 4>();
  }
  return true;
}

}  // namespace seqprim::attention::detail
