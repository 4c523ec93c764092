// SPDX-License-Identifier: Apache-2.0
// The examples of docs/reference/mask, compiled and run.
#include <seqprim/core/core.hpp>
#include <seqprim/mask/mask.hpp>

#include <cstdint>
#include <support/catch.hpp>
#include <vector>

using namespace seqprim;

namespace {

// example-begin rule
struct diagonal_blocks {
  index_t block;  // edge of a block [tokens]

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept { return q / block == k / block; }

  SEQPRIM_HD constexpr mask::tile_kind classify(range q, range k) const noexcept {
    const range rows{q.begin / block, (q.end - 1) / block + 1}, columns{k.begin / block, (k.end - 1) / block + 1};
    if (intersect(rows, columns).empty()) return mask::tile_kind::empty;
    return rows == columns && rows.size() == 1 ? mask::tile_kind::full : mask::tile_kind::partial;
  }
};
static_assert(mask::rule<diagonal_blocks>);
// example-end rule

}  // namespace

TEST_CASE("pages: masks", "[mask]") {
  const index_t q_len = 12, k_len = 40;
  REQUIRE(mask::check(diagonal_blocks{.block = 5}, 31, 43).ok());
  {
    // example-begin full
    const auto m = mask::full{} & mask::causal{};  // the type is mask::causal: full disappears
    // example-end full
    REQUIRE(m(3, 3));
  }
  {
    // example-begin causal
    const mask::causal m{};  // training, prefill and decoding alike: the operator says where the queries are
    const auto decoding = mask::shifted(m, k_len - q_len);  // asked in rows of a call: row 0 is query k_len - q_len
    // example-end causal
    REQUIRE(m(3, 3));
    REQUIRE(decoding(11, 39));
  }
  {
    // example-begin sliding_window
    const mask::sliding_window both_sides{.left = 64, .right = 16};
    const mask::sliding_window newest_4096 = mask::causal_window(4096);
    const mask::sliding_window no_future{.left = mask::unlimited};
    // example-end sliding_window
    REQUIRE(both_sides(70, 6));
    REQUIRE(newest_4096.left == 4095);
    REQUIRE_FALSE(no_future(3, 4));
  }
  {
    // example-begin attention_sinks
    const mask::attention_sinks m{.sinks = 4, .window = 1024};
    // example-end attention_sinks
    REQUIRE(m(5000, 3));
  }
  {
    // example-begin prefix
    const mask::prefix one_length{.length = 10};
    const std::vector<std::int32_t> lengths = {10, 0, 25};  // [batch]
    const mask::prefix_per_batch own_lengths{.lengths = lengths};
    // example-end prefix
    REQUIRE(one_length(0, 9));
    REQUIRE(mask::bind(own_lengths, 2, 0)(0, 24));
  }
  {
    // example-begin last_queries
    const std::vector<std::int32_t> lengths = {100, 0, 7};  // [batch] tokens, the 4 new ones among them
    const mask::last_queries newest{lengths, mask::causal{}};
    const mask::last_queries looking_back{lengths, mask::causal_window(64)};
    // example-end last_queries
    REQUIRE(mask::bind(newest, 0, 0)(96, 96));
    REQUIRE_FALSE(mask::bind(newest, 0, 0)(96, 97));
    REQUIRE_FALSE(mask::bind(looking_back, 0, 0)(99, 35));
  }
  {
    // example-begin key_range
    const auto without = mask::causal{} & ~mask::key_range{.begin = 8, .end = 13};  // nobody sees keys 8 .. 12
    // example-end key_range
    REQUIRE_FALSE(without(20, 8));
  }
  {
    // example-begin key_padding
    const std::vector<std::int32_t> lengths = {40, 17};  // [batch]
    const auto m =
        mask::causal{} & mask::key_padding{.lengths = lengths, .k_len = k_len, .side = mask::padding_side::left};
    // example-end key_padding
    REQUIRE_FALSE(mask::bind(m, 1, 0)(30, 22));
  }
  {
    // example-begin documents
    const std::vector<std::int32_t> offsets = {0, 13, 14, 40};  // three documents
    const mask::documents together{.offsets = offsets};
    const auto causal = together & mask::causal{};
    const auto windowed = together & mask::causal_window(8);
    // example-end documents
    REQUIRE(together(14, 39));
    REQUIRE_FALSE(causal(14, 39));
    REQUIRE_FALSE(windowed(39, 20));
  }
  {
    // example-begin packed_prefix
    const std::vector<std::int32_t> offsets = {0, 13, 14, 40};
    const std::vector<std::int32_t> prefix_ends = {6, 13, 20};  // 6, 0 and 6 tokens of prefix
    const mask::packed_prefix m{.offsets = offsets, .prefix_ends = prefix_ends};
    // example-end packed_prefix
    REQUIRE(m(14, 19));
    mask::validate(m);
  }
  {
    // example-begin cross_documents
    const std::vector<std::int32_t> targets = {0, 7, 12}, sources = {0, 19, 40};
    const mask::cross_documents m{.q_offsets = targets, .k_offsets = sources};
    // example-end cross_documents
    REQUIRE(m(11, 19));
    REQUIRE_FALSE(m(11, 18));
  }
  {
    const std::vector<std::int32_t> offsets = {0, 13, 14, 40};
    // example-begin algebra
    const mask::documents documents{.offsets = offsets};
    const auto local = documents & mask::causal_window(8);                 // in the document, newest 8
    const auto global = local | (mask::causal{} & mask::key_range{0, 2});  // and the first two keys of all
    const auto unseen = ~global;
    // example-end algebra
    REQUIRE(global(39, 1));
    REQUIRE(unseen(39, 2));
  }
  {
    // example-begin where
    const mask::where strided{[](index_t q, index_t k) { return k <= q && (q - k) % 4 == 0; }};
    // example-end where
    REQUIRE(strided(9, 5));
  }
  {
    // example-begin dense
    tensor<bool, 2> visible(q_len, k_len);
    visible(3, 5) = true;
    const mask::dense m{.visible = visible.view()};

    tensor<bool, 1> columns(k_len);  // the same for every query: one row with stride 0
    const mask::dense same{.visible = {columns.data(), {q_len, k_len}, {0, 1}}};
    // example-end dense
    REQUIRE(m(3, 5));
    REQUIRE_FALSE(same(3, 5));
  }
  {
    // example-begin block_map
    const mask::where slow{[](index_t q, index_t k) { return k <= q && (q / 8 - k / 8) % 3 == 0; }};
    const mask::block_grid grid(cpu{}, slow, q_len, k_len, 8, 8);
    const auto fast = grid.over(slow);  // the same mask; tiles are looked up. The grid must stay alive.
    // example-end block_map
    REQUIRE(fast.classify({8, 12}, {16, 24}) == mask::tile_kind::empty);
  }
  {
    // example-begin count_tiles
    const mask::tile_counts counts = mask::count_tiles(mask::causal{}, 4096, 4096, 64, 64);
    const double share = static_cast<double>(counts.visited()) / static_cast<double>(counts.total());  // 0.508
    // example-end count_tiles
    REQUIRE(share > 0.50);
    REQUIRE(share < 0.51);
  }
  {
    // example-begin check
    const mask::check_report report = mask::check(diagonal_blocks{.block = 5}, 97, 131);
    const bool right = report.ok();              // no tile, run or bounds contradicts the pair rule
    const bool tight = report.exact();           // and no tile is partial that need not be
    const std::string words = report.summary();  // counts, and the first counterexample
    // example-end check
    REQUIRE(right);
    REQUIRE(tight);
    REQUIRE_FALSE(words.empty());
  }
}
