// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index_array.hpp>
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/attention_sinks.hpp>
#include <seqprim/mask/by_label.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/mask/concat.hpp>
#include <seqprim/mask/dense.hpp>
#include <seqprim/mask/documents.hpp>
#include <seqprim/mask/full.hpp>
#include <seqprim/mask/key_padding.hpp>
#include <seqprim/mask/key_range.hpp>
#include <seqprim/mask/last_queries.hpp>
#include <seqprim/mask/packed.hpp>
#include <seqprim/mask/prefix.hpp>
#include <seqprim/mask/query_range.hpp>
#include <seqprim/mask/row_ranges.hpp>
#include <seqprim/mask/row_words.hpp>
#include <seqprim/mask/rule.hpp>
#include <seqprim/mask/shifted_rows.hpp>
#include <seqprim/mask/sliding_window.hpp>
#include <seqprim/mask/transposed.hpp>

#include <cstdint>

/// Checks of the masks that run on the host and on the device from one source: no test framework inside. Each function
/// returns the number of answers that contradict the element rule; 0 is right.
namespace seqprim::test {

/// Every tile of q_tile x k_tile, every bounds and every run of one mask on [q_len, k_len], by brute force.
template <class M>
SEQPRIM_HD constexpr int mask_faults(const M& m, index_t q_len, index_t k_len, index_t q_tile,
                                     index_t k_tile) noexcept {
  int faults = 0;
  for (index_t q = 0; q < q_len; q += q_tile) {
    const range rows{q, min_of(q + q_tile, q_len)};
    const range keys_seen = mask::key_bounds(m, rows, k_len);
    for (index_t k = 0; k < k_len; k += k_tile) {
      const range keys{k, min_of(k + k_tile, k_len)};
      const range rows_seen = mask::query_bounds(m, keys, q_len);
      bool any = false;
      bool all = true;
      for (index_t i = rows.begin; i < rows.end; ++i)
        for (index_t j = keys.begin; j < keys.end; ++j) {
          const bool visible = m(i, j);
          any = any || visible;
          all = all && visible;
          if (visible && !(keys_seen.contains(j) && rows_seen.contains(i))) ++faults;
          if constexpr (mask::one_range_per_row<M>) faults += m.visible_keys(i).contains(j) != visible;
        }
      const mask::tile_kind kind = m.classify(rows, keys);
      if ((kind == mask::tile_kind::empty && any) || (kind == mask::tile_kind::full && !all)) ++faults;
    }
  }
  return faults;
}

/// All masks of the library with small parameters, on tiles of one size.
SEQPRIM_HD constexpr int all_mask_faults(index_t q_tile, index_t k_tile) noexcept {
  constexpr index_t q_len = 19;
  constexpr index_t k_len = 23;
  const std::int32_t offsets[] = {0, 4, 5, 16, 23};
  const std::int64_t prefix_ends[] = {2, 4, 16, 18};
  const std::int32_t q_offsets[] = {0, 3, 3, 11, 19};
  const std::int64_t lengths[] = {23, 6};
  bool columns[k_len] = {};
  for (index_t k = 0; k < k_len; ++k) columns[k] = k % 4 != 1;

  const auto causal = mask::shifted(mask::causal{}, 4);
  const auto window = mask::shifted(mask::causal_window(5), 4);
  const auto documents = mask::shifted(mask::documents({offsets, 5}), 2);
  const mask::key_padding padding{.lengths = {lengths, 2}, .k_len = k_len, .side = mask::padding_side::left};
  const mask::dense dense{.visible = {columns, {q_len, k_len}, {0, 1}}};
  const auto faults = [&](const auto& m) { return mask_faults(m, q_len, k_len, q_tile, k_tile); };

  int total = 0;
  total += faults(mask::full{});
  total += faults(causal);
  total += faults(window);
  total += faults(mask::shifted(mask::sliding_window{.left = mask::unlimited, .right = 3}, -2));
  total += faults(mask::shifted(mask::attention_sinks{.sinks = 2, .window = 6}, 4));
  total += faults(mask::shifted(mask::prefix{.length = 7}, 4));
  total += faults(mask::key_range{3, 17});
  total += faults(documents);
  total += faults(mask::bind(mask::packed_prefix({offsets, 5}, {prefix_ends, 4}), 0, 0));
  total += faults(mask::cross_documents({q_offsets, 5}, {offsets, 5}));
  const packing sequences{{q_offsets, 5}, {offsets, 5}};
  total += faults(mask::packed{sequences, mask::causal{}});
  total += faults(mask::packed{sequences, mask::attention_sinks{.sinks = 1, .window = 3}});
  total += faults(dense);
  total += faults(documents & causal & window);
  total += faults((documents | window) & ~mask::key_range{5, 9});
  total += faults(~(dense & causal) | documents);
  // Labels, ranges and bits from arrays.
  std::int32_t values[k_len] = {}, low[1] = {}, high[1] = {}, begin[k_len] = {}, end[k_len] = {};
  std::uint64_t words[k_len] = {};
  for (index_t i = 0; i < k_len; ++i) {
    values[i] = static_cast<std::int32_t>(7 * i % 11 - 3);
    low[0] = min_of(low[0], values[i]);
    high[0] = max_of(high[0], values[i]);
    begin[i] = static_cast<std::int32_t>(5 * i % 17);
    end[i] = begin[i] + static_cast<std::int32_t>(i % 9);
    words[i] = std::uint64_t{0x9e3779b97f4a7c15u} * static_cast<std::uint64_t>(i + 1);
  }
  const mask::label_view labels{values, low, high, k_len};
  const mask::row_ranges ranges{{begin, k_len}, {end, k_len}};
  const tensor_view<const std::uint64_t, 2> rows_of_bits(words, {k_len, 1}, {1, 1});
  const mask::row_words bits{rows_of_bits, 2};
  const mask::residue_of residue{5};
  total += faults(mask::by_label{causal, labels, labels});
  total += faults(mask::by_label{window & ~mask::key_range{0, 2}, labels, mask::own{}});
  total += faults(mask::by_label{mask::sliding_window{.left = 0}, residue, residue} & window);
  total += faults(mask::by_label{causal, mask::blocks_of{4}, mask::blocks_of{4}});
  total += faults(mask::query_range{3, 11} | mask::by_label{mask::key_range{1, 3}, mask::own{}, labels});
  total += faults(ranges);
  total += faults(bits);
  total += faults(mask::transposed{ranges});
  total += faults(mask::by_label{mask::transposed{mask::causal{}}, labels, residue});
  total += faults(mask::key_concat(causal, 9, ranges));
  total += faults(mask::query_concat(bits, 9, mask::key_concat(ranges, 4, causal)));
  for (index_t batch = 0; batch < 2; ++batch) {
    total += faults(mask::bind(padding, batch, 0));
    total += faults(mask::bind(padding & causal, batch, 0));
    total += faults(mask::bind(mask::prefix_per_batch{.lengths = {lengths, 2}}, batch, 0));
    total += faults(mask::bind(mask::last_queries{{lengths, 2}, mask::causal_window(5) & mask::causal{}}, batch, 0));
  }
  return total;
}

}  // namespace seqprim::test
