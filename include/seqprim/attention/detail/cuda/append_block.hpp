// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/append.hpp>
#include <seqprim/attention/detail/cuda/ragged_rows.hpp>
#include <seqprim/attention/paged.hpp>
#include <seqprim/attention/quantized.hpp>
#include <seqprim/attention/ragged.hpp>

#include <cstdint>

/// Where append on CUDA puts rows that the block of position/encode.cuh has encoded: the places of new rows in a cache, and their
/// rounding to int8.
namespace seqprim::attention::detail {

/// Row `row` of sequence `batch` of a call: its place in a contiguous cache.
template <class Starts> struct places_in_rows {
  Starts starts;

  template <class Place>
  [[nodiscard]] SEQPRIM_HD constexpr bool place(index_t batch, index_t row, Place& to) const noexcept {
    to = {batch, starts(batch) + row};
    return true;
  }
};
/// The same in pages. Rows of an idle slot, or of a sequence shorter than its new rows, have none.
template <class Starts> struct places_in_pages {
  Starts starts;
  page_table table;
  index_t page_size;

  template <class Place>
  [[nodiscard]] SEQPRIM_HD constexpr bool place(index_t batch, index_t row, Place& to) const noexcept {
    const index_t begin = starts(batch), token = begin + row;
    if (begin < 0 || token >= table.length(batch)) return false;
    to = {table.page(batch, token / page_size), token % page_size};
    return true;
  }
};

/// The rows of a cache as results of an encode block.
template <class Store, class Places> struct cache_results;
template <class T, class Places> struct cache_results<tensor_view<T, 4>, Places> : Places {
  tensor_view<T, 4> rows;
  bool aligned;
};
template <class Code, class Scale, class Places> struct cache_results<quantized<Code, Scale>, Places> : Places {
  tensor_view<Code, 4> rows;
  bool aligned;
  tensor_view<Scale, 4> scales;
  index_t block;

  /// Rounds the rows in memory to int8 values, one lane for the elements of a scale, and stores the scales.
  template <class Rows> SEQPRIM_HD void prepare(const Rows& here, int lane) const noexcept {
    const auto blocks = static_cast<int>(scales.extent(3));
    for (int id = lane; id < here.count() * blocks; id += Rows::lanes) {
      const int r = id % here.count(), n = id / here.count();
      if (!here.live(r)) continue;
      float* const x = here.after(r) + n * block;
      const index_t elements = min(block, rows.extent(3) - n * block);
      const float scale = scale_of(x, elements);
      scales(here.slot(r).to.first, here.head(r), here.slot(r).to.row, n) = scale;
      for (index_t d = 0; d < elements; ++d) x[d] = code_of(x[d], scale);
    }
  }
};

template <class Places, class T>
[[nodiscard]] cache_results<tensor_view<T, 4>, Places> results_in(const tensor_view<T, 4>& store, const Places& places,
                                                                  bool aligned) noexcept {
  return {places, store, aligned};
}
template <class Places, class Code, class Scale>
[[nodiscard]] cache_results<quantized<Code, Scale>, Places> results_in(const quantized<Code, Scale>& store,
                                                                       const Places& places, bool aligned) noexcept {
  return {places, store.codes, aligned, store.scales, store.block()};
}

/// The places of new rows in a cache.
template <class Store, class Starts>
[[nodiscard]] places_in_rows<Starts> places_of(const contiguous_cache<Store>&, const Starts& starts) noexcept {
  return {starts};
}
template <class Store, class Starts>
[[nodiscard]] places_in_pages<Starts> places_of(const paged_cache<Store>& cache, const Starts& starts) noexcept {
  return {starts, cache.table, cache.store.extent(2)};
}

}  // namespace seqprim::attention::detail
