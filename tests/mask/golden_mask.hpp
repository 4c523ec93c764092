// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/check.hpp>
#include <seqprim/mask/count_tiles.hpp>
#include <seqprim/mask/rule.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <support/catch.hpp>
#include <support/golden.hpp>
#include <utility>

/// Masks against the matrices, classes of tiles and ranges of their golden files.
namespace seqprim::test {

inline constexpr std::pair<index_t, index_t> golden_tiles[] = {{16, 16}, {64, 32}, {7, 13}};

template <class M> void require_pairs(const M& m, const tensor_view<const bool, 2>& visible) {
  for (index_t q = 0; q < visible.extent(0); ++q)
    for (index_t k = 0; k < visible.extent(1); ++k)
      if (m(q, k) != visible(q, k)) {
        CAPTURE(q, k);
        REQUIRE(m(q, k) == visible(q, k));
      }
  REQUIRE(visible.size() > 0);
}

/// classify() gives the exact class, or partial where the documented rule is partial too: never wrong, never looser.
template <class M>
void require_tiles(const M& m, const tensor_view<const bool, 2>& visible,
                   const tensor_view<const std::int8_t, 3>& kinds, index_t q_tile, index_t k_tile) {
  const index_t q_len = visible.extent(0), k_len = visible.extent(1);
  REQUIRE(kinds.extent(0) == ceil_div(q_len, q_tile));
  REQUIRE(kinds.extent(1) == ceil_div(k_len, k_tile));
  index_t visited = 0, expected_visited = 0;
  for (index_t i = 0; i < kinds.extent(0); ++i)
    for (index_t j = 0; j < kinds.extent(1); ++j) {
      const range q{i * q_tile, std::min((i + 1) * q_tile, q_len)}, k{j * k_tile, std::min((j + 1) * k_tile, k_len)};
      const int said = static_cast<int>(m.classify(q, k));
      const int exact = kinds(i, j, 0), rule = kinds(i, j, 1);
      CAPTURE(q_tile, k_tile, i, j, said, exact, rule);
      REQUIRE((said == exact || (said == 1 && rule == 1)));
      visited += said != 0;
      expected_visited += rule != 0;
    }
  REQUIRE(visited <= expected_visited);
  REQUIRE(mask::count_tiles(m, q_len, k_len, q_tile, k_tile).visited() == visited);
}

/// One range per row: that of the file.
template <class M> void require_ranges(const M& m, const tensor_view<const std::int32_t, 3>& intervals, index_t k_len) {
  REQUIRE(intervals.extent(1) == 1);
  for (index_t q = 0; q < intervals.extent(0); ++q) {
    const range seen = intersect(m.visible_keys(q), {0, k_len});
    const range expected{intervals(q, 0, 0), intervals(q, 0, 1)};
    CAPTURE(q, seen.begin, seen.end, expected.begin, expected.end);
    REQUIRE((seen == expected || (seen.empty() && expected.empty())));
  }
}

inline std::string tiles_name(index_t q_tile, index_t k_tile) {
  return "tiles_" + std::to_string(q_tile) + 'x' + std::to_string(k_tile);
}

/// A mask without batch axis.
template <class M> void require_golden(const golden& g, const M& m) {
  const auto visible = g.load<bool, 2>("mask");
  mask::validate(m, {.q_len = visible.extent(0), .k_len = visible.extent(1)});
  require_pairs(m, visible.view());
  for (const auto& [q_tile, k_tile] : golden_tiles)
    require_tiles(m, visible.view(), g.load<std::int8_t, 3>(tiles_name(q_tile, k_tile)).view(), q_tile, k_tile);
  if constexpr (mask::one_range_per_row<M>)
    require_ranges(m, g.load<std::int32_t, 3>("row_intervals").view(), visible.extent(1));
  const auto report = mask::check(m, visible.extent(0), visible.extent(1));
  INFO(report.summary());
  REQUIRE(report.ok());
}

/// The leading axis of the file is the batch row, the head or the layer.
template <class Bind> void require_golden_batch(const golden& g, const Bind& bind) {
  const auto visible = g.load<bool, 3>("mask");
  for (index_t b = 0; b < visible.extent(0); ++b) {
    CAPTURE(b);
    const auto m = bind(b);
    const auto matrix = visible.view()[b];
    require_pairs(m, matrix);
    for (const auto& [q_tile, k_tile] : golden_tiles) {
      const auto kinds = g.load<std::int8_t, 4>(tiles_name(q_tile, k_tile));
      require_tiles(m, matrix, kinds.view()[b], q_tile, k_tile);
    }
    if constexpr (mask::one_range_per_row<decltype(m)>) {
      const auto intervals = g.load<std::int32_t, 4>("row_intervals");
      require_ranges(m, intervals.view()[b], matrix.extent(1));
    }
  }
}

}  // namespace seqprim::test
