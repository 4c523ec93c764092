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
    const auto together = mask::documents(offsets);
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
    const auto m = mask::packed_prefix(offsets, prefix_ends);
    // example-end packed_prefix
    REQUIRE(mask::bind(m, 0, 0)(14, 19));
    mask::validate(m);
  }
  {
    // example-begin cross_documents
    const std::vector<std::int32_t> targets = {0, 7, 12}, sources = {0, 19, 40};
    const auto m = mask::cross_documents(targets, sources);
    // example-end cross_documents
    REQUIRE(m(11, 19));
    REQUIRE_FALSE(m(11, 18));
  }
  {
    const std::vector<std::int32_t> offsets = {0, 13, 14, 40};
    // example-begin algebra
    const auto documents = mask::documents(offsets);
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
    // example-begin labels
    std::vector<std::int32_t> frame(12);  // two frames of 4 tokens, then text with a label for each token
    for (std::size_t i = 0; i < frame.size(); ++i) frame[i] = static_cast<std::int32_t>(i < 8 ? i / 4 : i);
    mask::labels frames(frame);
    const mask::by_label m{mask::causal{}, frames.row(), frames.row()};

    frames.push_back(0, 12);  // decoding: the next token is text; views are taken again
    const mask::by_label longer{mask::causal{}, frames.row(), frames.row()};
    // example-end labels
    REQUIRE(m(0, 3));
    REQUIRE_FALSE(m(0, 4));
    REQUIRE(longer(12, 11));
  }
  {
    // example-begin by_label
    // Dilated: of the newest 32 * 4 keys every fourth one. Chunks: the own chunk of 16 tokens and two before it.
    const mask::residue_of phase{4};
    const auto dilated = mask::causal_window(32 * 4) & mask::by_label{mask::sliding_window{.left = 0}, phase, phase};
    const mask::by_label chunks{mask::sliding_window{.left = 2}, mask::blocks_of{16}, mask::blocks_of{16}};

    // A permutation language model: a token attends to those before it in the order of the batch row.
    const tensor<std::int32_t, 2> ranks(4, k_len);  // [batch, len]
    const mask::labels order(ranks);
    const mask::by_label content{mask::causal{}, order.rows(), order.rows()};
    // example-end by_label
    REQUIRE(dilated(100, 92));
    REQUIRE_FALSE(dilated(100, 93));
    REQUIRE(chunks(40, 47));
    REQUIRE_FALSE(chunks(70, 31));
    REQUIRE(mask::bind(content, 3, 0)(0, 39));
  }
  {
    // example-begin row_ranges
    const std::vector<std::int32_t> begin = {0, 0, 0, 1}, end = {3, 2, 4, 4};  // look-ahead of 2, 0, 1, 0 frames
    const mask::row_ranges m{begin, end};
    // example-end row_ranges
    REQUIRE(m(0, 2));
    REQUIRE_FALSE(m(1, 2));
  }
  {
    // example-begin row_words
    // A draft tree behind a cache of 100 tokens: node 0, its children 1 and 2, and 3 below 1.
    const std::vector<std::uint64_t> ancestors = {0b0001, 0b0011, 0b0101, 0b1011};  // [nodes], own bit included
    const mask::row_words tree{tensor_view<const std::uint64_t, 2>(ancestors.data(), 4, 1)};
    const auto m = mask::key_concat(mask::full{}, 100, tree);
    // example-end row_words
    REQUIRE(m(3, 101));
    REQUIRE_FALSE(m(3, 102));
  }
  {
    // example-begin query_range
    // Image tokens 2 .. 6 also attend to the question behind them, tokens 7 .. 11.
    const auto m = mask::causal{} | (mask::query_range{2, 7} & mask::key_range{7, 12});
    // example-end query_range
    REQUIRE(m(3, 9));
    REQUIRE_FALSE(m(1, 9));
  }
  {
    // example-begin transposed
    // Longformer: a window, and tokens 0 and 1, which attend to all and are attended by all.
    const mask::key_range global{0, 2};
    const auto m = mask::sliding_window{.left = 8, .right = 8} | global | mask::transposed{global};
    // example-end transposed
    REQUIRE(m(1, 30));
    REQUIRE(m(30, 1));
  }
  {
    // example-begin concat
    const mask::where pattern{[](index_t q, index_t k) { return (q + k) % 2 == 0; }};
    const auto past_and_new = mask::key_concat(mask::full{}, 64, pattern);     // keys before 64 are a cache
    const auto two_streams = mask::query_concat(mask::causal{}, 32, pattern);  // queries 32 .. ask `pattern` from 0
    // example-end concat
    REQUIRE(past_and_new(1, 63));
    REQUIRE_FALSE(past_and_new(1, 64));
    REQUIRE(two_streams(33, 1));
  }
  {
    // example-begin per_head
    const std::vector<mask::sliding_window> windows = {mask::causal_window(64), mask::causal_window(1024)};
    const mask::per_head m{tensor_view<const mask::sliding_window, 1>(windows.data(), 2)};
    // example-end per_head
    REQUIRE(mask::bind(m, 0, 1)(100, 0));
    REQUIRE_FALSE(mask::bind(m, 0, 0)(100, 0));
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
    // example-begin next_cut
    const mask::prefix m{.length = 280};
    const index_t len = 600;
    std::vector<range> chunks;  // of at least 256 tokens, but for the last one
    for (index_t begin = 0, end; begin < len; begin = end) {
      end = mask::next_cut(m, {.q_len = len - begin, .k_len = len, .start = begin}, min_of<index_t>(begin + 256, len));
      chunks.push_back({begin, end});
    }
    // example-end next_cut
    REQUIRE(chunks == std::vector<range>{{0, 280}, {280, 536}, {536, 600}});
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
