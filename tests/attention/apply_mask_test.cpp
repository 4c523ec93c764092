// SPDX-License-Identifier: Apache-2.0
// Masks applied to tiles of logits, one register at a time: labels, bits, transposed and concatenated masks. tile_test.cpp has those
// with one range per row.
#include <seqprim/attention/detail/cpu/apply_mask.hpp>
#include <seqprim/mask/mask.hpp>

#include <cstdint>
#include <support/catch.hpp>
#include <support/random.hpp>
#include <type_traits>
#include <vector>

using namespace seqprim;
using attention::detail::columns_are;

namespace {

using isa = arch::native_isa;
constexpr index_t tokens = 150;

/// Hides in a tile of ones and compares each element with the mask's own answer.
template <columns_are Columns, class Mask> void require_hidden(const Mask& mask, range rows, range columns) {
  const index_t step = round_up(columns.size(), 16);
  std::vector<float> tile(static_cast<std::size_t>(rows.size() * step), 1.0f);
  attention::detail::apply_mask<isa, float, Columns>(mask, rows, columns, tile.data(), step, -7.0f);
  for (index_t i = 0; i < rows.size(); ++i)
    for (index_t j = 0; j < columns.size(); ++j) {
      const index_t row = rows.begin + i, column = columns.begin + j;
      const bool visible = Columns == columns_are::queries ? mask(column, row) : mask(row, column);
      const float expected = visible ? 1.0f : -7.0f, actual = tile[static_cast<std::size_t>(i * step + j)];
      if (actual == expected) continue;
      CAPTURE(row, column);
      REQUIRE(actual == expected);
    }
}

/// Tiles anywhere, of up to 140 rows (more than two words of bits).
template <class Mask> void require_hidden(const Mask& mask) {
  test::random_numbers random(21);
  for (int trial = 0; trial < 16; ++trial) {
    const index_t row = random.integer(0, tokens - 1), column = random.integer(0, tokens - 1);
    const range rows{row, random.integer(row + 1, tokens)},
        columns{column, min_of(column + random.integer(1, 40), tokens)};
    require_hidden<columns_are::queries>(mask, rows, columns);
    require_hidden<columns_are::keys>(mask, rows, columns);
  }
}

/// The mask takes another way than pair by pair.
template <class Mask>
constexpr bool in_lanes = !std::is_base_of_v<attention::detail::pairwise_lanes<isa, float, columns_are::keys, Mask>,
                                             attention::detail::mask_lanes<isa, float, columns_are::keys, Mask>>;

std::vector<std::int32_t> some_labels(int seed, std::int32_t least, std::int32_t largest) {
  test::random_numbers random(static_cast<std::uint64_t>(seed));
  std::vector<std::int32_t> result;
  for (index_t i = 0; i < tokens; ++i) result.push_back(static_cast<std::int32_t>(random.integer(least, largest)));
  return result;
}

}  // namespace

TEST_CASE("apply_mask: stored labels, with one range of labels per row and as compositions", "[attention][property]") {
  const auto ranks = some_labels(1, 0, 200), groups = some_labels(2, -3, 3),
             far = some_labels(3, -(1 << 30), (1 << 30) - 1);
  const mask::labels rank(ranks), group(groups), wide(far);
  const mask::by_label ranked{mask::causal{}, rank.row(), rank.row()};
  STATIC_REQUIRE(in_lanes<decltype(ranked)>);
  require_hidden(ranked);
  require_hidden(mask::by_label{mask::causal{}, wide.row(), wide.row()});
  require_hidden(mask::by_label{mask::sliding_window{.left = 0}, group.row(), group.row()});
  require_hidden(mask::by_label{mask::key_range{-2, 1}, mask::own{}, group.row()});
  require_hidden(mask::by_label{mask::query_range{-2, 1}, group.row(), mask::own{}});
  require_hidden(mask::by_label{mask::causal{}, rank.row(), mask::residue_of{170}});
  require_hidden(ranked & mask::causal{});
  require_hidden(~ranked | mask::by_label{mask::sliding_window{.left = 1}, group.row(), group.row()});

  const auto composed = mask::causal{} & ~mask::key_range{40, 90};
  const mask::by_label by_parts{composed, rank.row(), rank.row()};
  STATIC_REQUIRE(mask::composed<decltype(by_parts)>);
  require_hidden(by_parts);
}

TEST_CASE("apply_mask: computed labels", "[attention][property]") {
  for (const index_t n : {1, 2, 3, 7, 31, 64, 100, 1000}) {
    CAPTURE(n);
    require_hidden(mask::by_label{mask::sliding_window{.left = 0}, mask::residue_of{n}, mask::residue_of{n}});
    require_hidden(mask::by_label{mask::sliding_window{.left = 1}, mask::blocks_of{n}, mask::blocks_of{n}});
    require_hidden(mask::by_label{mask::causal{}, mask::blocks_of{n}, mask::residue_of{n}});
    require_hidden(mask::causal_window(3 * n) &
                   mask::by_label{mask::sliding_window{.left = 0}, mask::residue_of{n}, mask::residue_of{n}});
  }
  STATIC_REQUIRE(in_lanes<mask::by_label<mask::sliding_window, mask::residue_of, mask::residue_of>>);
  // A label map without walk().
  struct thirds {
    constexpr index_t operator()(index_t i) const noexcept { return i % 3; }
    constexpr range bounds(range) const noexcept { return {0, 3}; }
  };
  require_hidden(mask::by_label{mask::causal{}, thirds{}, thirds{}});
}

TEST_CASE("apply_mask: ranges and bits that are stored for each row", "[attention][property]") {
  const auto begin = some_labels(4, -10, 150), size = some_labels(5, -5, 60);
  std::vector<std::int32_t> end = begin;
  for (std::size_t i = 0; i < end.size(); ++i) end[i] += size[i];
  const mask::row_ranges ranges{begin, end};
  require_hidden(ranges);
  require_hidden(mask::transposed{ranges});
  STATIC_REQUIRE(in_lanes<mask::transposed<mask::row_ranges>>);

  tensor<std::uint64_t, 2> words(tokens, 2);
  test::random_numbers random(6);
  for (std::uint64_t& word : words) word = std::uint64_t{random.word()} << 32 | random.word();
  for (const index_t first : {0, 3, 70}) {
    const mask::row_words bits{words.view(), first};
    STATIC_REQUIRE(in_lanes<mask::row_words>);
    require_hidden(bits);
    require_hidden(bits & mask::causal{});
    require_hidden(mask::transposed{bits});
  }
}

TEST_CASE("apply_mask: masks one after the other and masks asked from another row", "[attention][property]") {
  const auto ranks = some_labels(7, 0, 90);
  const mask::labels rank(ranks);
  const mask::by_label ranked{mask::causal{}, rank.row(), rank.row()};
  for (const index_t n : {0, 1, 17, 64, 149, 150}) {
    CAPTURE(n);
    require_hidden(mask::key_concat(mask::causal{}, n, ranked));
    require_hidden(mask::query_concat(mask::causal_window(9), n, ranked));
    require_hidden(mask::query_concat(ranked, n, mask::key_concat(ranked, 40, mask::causal{})));
  }
  require_hidden(mask::shifted(mask::by_label{mask::causal{}, mask::residue_of{7}, mask::residue_of{5}}, -40));
  require_hidden(mask::shifted(mask::transposed{mask::causal_window(30)}, -40));
  const auto moved = mask::shifted(mask::by_label{mask::causal{}, mask::residue_of{7}, mask::residue_of{5}}, 3);
  STATIC_REQUIRE(in_lanes<std::remove_const_t<decltype(moved)>>);
}
