// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/mask.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <support/catch.hpp>
#include <support/golden.hpp>
#include <utility>
#include <vector>

using namespace seqprim;

namespace {

constexpr std::pair<index_t, index_t> tile_sizes[] = {{16, 16}, {64, 32}, {7, 13}};

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

template <class M> void require_runs(const M& m, const tensor_view<const std::int32_t, 3>& intervals, index_t k_len) {
  REQUIRE(intervals.extent(1) == 1);
  for (index_t q = 0; q < intervals.extent(0); ++q) {
    const range run = intersect(m.visible_keys(q), {0, k_len});
    const range expected{intervals(q, 0, 0), intervals(q, 0, 1)};
    CAPTURE(q, run.begin, run.end, expected.begin, expected.end);
    REQUIRE((run == expected || (run.empty() && expected.empty())));
  }
}

std::string tiles_name(index_t q_tile, index_t k_tile) {
  return "tiles_" + std::to_string(q_tile) + 'x' + std::to_string(k_tile);
}

/// A mask without batch axis.
template <class M> void require_golden(const golden& g, const M& m) {
  const auto visible = g.load<bool, 2>("mask");
  mask::validate(m, {.q_len = visible.extent(0), .k_len = visible.extent(1)});
  require_pairs(m, visible.view());
  for (const auto& [q_tile, k_tile] : tile_sizes)
    require_tiles(m, visible.view(), g.load<std::int8_t, 3>(tiles_name(q_tile, k_tile)).view(), q_tile, k_tile);
  if constexpr (mask::one_range_per_row<M>)
    require_runs(m, g.load<std::int32_t, 3>("row_intervals").view(), visible.extent(1));
  REQUIRE(mask::check(m, visible.extent(0), visible.extent(1)).ok());
}

/// The leading axis of the file is the batch row, or the head.
template <class Bind> void require_golden_batch(const golden& g, const Bind& bind) {
  const auto visible = g.load<bool, 3>("mask");
  for (index_t b = 0; b < visible.extent(0); ++b) {
    CAPTURE(b);
    const auto m = bind(b);
    const auto matrix = visible.view()[b];
    require_pairs(m, matrix);
    for (const auto& [q_tile, k_tile] : tile_sizes) {
      const auto kinds = g.load<std::int8_t, 4>(tiles_name(q_tile, k_tile));
      require_tiles(m, matrix, kinds.view()[b], q_tile, k_tile);
    }
    if constexpr (mask::one_range_per_row<decltype(m)>) {
      const auto intervals = g.load<std::int32_t, 4>("row_intervals");
      require_runs(m, intervals.view()[b], matrix.extent(1));
    }
  }
}

index_t number(const golden& g, const char* key) { return g.params.at(key).get<index_t>(); }

}  // namespace

TEST_CASE("causal: golden files", "[mask][golden]") {
  for (const golden& g : {golden("masks-text", "causal_square"), golden("masks-text", "causal_append"),
                          golden("masks-text", "causal_topleft"), golden("masks-text", "causal_tall_emptyrows")})
    require_golden(g, mask::shifted(mask::causal{}, number(g, "offset")));
}

TEST_CASE("sliding_window: golden files", "[mask][golden]") {
  for (const golden& g : {golden("masks-text", "window_w16"), golden("masks-text", "window_w1"),
                          golden("masks-text", "window_two_sided"), golden("masks-text", "window_append")})
    require_golden(g, mask::shifted(mask::sliding_window{.left = number(g, "left"), .right = number(g, "right")},
                                    number(g, "offset")));
}

TEST_CASE("attention_sinks: golden files", "[mask][golden]") {
  for (const golden& g : {golden("masks-text", "sinks_s4_w16"), golden("masks-text", "sinks_s4_w24_append")})
    require_golden(g, mask::shifted(mask::attention_sinks{.sinks = number(g, "sinks"), .window = number(g, "window")},
                                    number(g, "offset")));
}

TEST_CASE("key_padding: golden files, with causal", "[mask][golden]") {
  for (const golden& g : {golden("masks-text", "pad_causal_right"), golden("masks-text", "pad_causal_left")}) {
    const auto lengths = g.load<std::int64_t, 1>("lengths");
    const auto side =
        g.params.at("side").get<std::string>() == "left" ? mask::padding_side::left : mask::padding_side::right;
    const auto m = mask::causal{} & mask::key_padding{.lengths = lengths, .k_len = 40, .side = side};
    mask::validate(m, {.batch = 3, .heads = 1, .q_len = 40, .k_len = 40});
    require_golden_batch(g, [&](index_t b) { return mask::bind(m, b, 0); });
  }
}

TEST_CASE("key_padding: golden cross attention", "[mask][golden]") {
  const golden g("masks-text", "cross_a");
  const auto lengths = g.load<std::int64_t, 1>("source_lengths");
  require_golden_batch(g, [&](index_t b) { return mask::key_padding{.lengths = lengths, .k_len = 40}.bind(b, 0); });
}

TEST_CASE("prefix: golden files, one length for each batch row", "[mask][golden]") {
  for (const golden& g : {golden("masks-text", "prefix_batch"), golden("masks-text", "prefix_append")}) {
    const auto lengths = g.load<std::int64_t, 1>("prefix");
    const mask::prefix_per_batch m{.lengths = lengths};
    require_golden_batch(g, [&](index_t b) { return mask::shifted(mask::bind(m, b, 0), number(g, "offset")); });
  }
}

TEST_CASE("prefix: golden main mask of partial attention", "[mask][golden]") {
  const golden g("masks-text", "palm_a");
  require_golden(g, mask::prefix{.length = number(g, "source")});
}

TEST_CASE("documents: golden files, full, causal and windowed", "[mask][golden]") {
  for (const golden& g : {golden("masks-text", "doc_full_a"), golden("masks-text", "doc_full_b")}) {
    const auto offsets = g.load<std::int32_t, 1>("cu_seqlens");
    require_golden(g, mask::documents{.offsets = offsets});
  }
  for (const golden& g : {golden("masks-text", "doc_causal_a"), golden("masks-text", "doc_causal_b")}) {
    const auto offsets = g.load<std::int32_t, 1>("cu_seqlens");
    require_golden(g, mask::documents{.offsets = offsets} & mask::causal{});
    require_golden(g, mask::packed{packing{offsets, offsets}, mask::causal{}});
  }
  for (const golden& g : {golden("masks-text", "doc_causal_window_a"), golden("masks-text", "doc_causal_window_b")}) {
    const auto offsets = g.load<std::int32_t, 1>("cu_seqlens");
    require_golden(g, mask::documents{.offsets = offsets} & mask::causal_window(number(g, "window")));
    require_golden(g, mask::packed{packing{offsets, offsets}, mask::causal_window(number(g, "window"))});
  }
}

TEST_CASE("packed_prefix: golden files", "[mask][golden]") {
  for (const golden& g : {golden("masks-text", "doc_prefix_a"), golden("masks-text", "doc_prefix_partial")}) {
    const auto offsets = g.load<std::int32_t, 1>("cu_seqlens");
    const auto ends = g.load<std::int64_t, 1>("prefix_end");
    require_golden(g, mask::packed_prefix{.offsets = offsets, .prefix_ends = ends});
  }
}

TEST_CASE("key_range: golden suppression of a run of keys in some heads", "[mask][golden]") {
  for (const golden& g : {golden("masks-text", "suppress_mid"), golden("masks-text", "suppress_first")}) {
    const auto run = g.params.at("range").get<std::vector<index_t>>();
    const auto heads = g.params.at("heads").get<std::vector<index_t>>();
    require_golden_batch(g, [&](index_t head) {
      const bool suppressed = std::find(heads.begin(), heads.end(), head) != heads.end();
      return mask::causal{} & ~mask::key_range{suppressed ? run.at(0) : 0, suppressed ? run.at(1) : 0};
    });
    // The variant that only touches queries behind the run.
    const auto after = g.load<bool, 3>("mask_after");
    for (index_t head = 0; head < after.extent(0); ++head) {
      const bool suppressed = std::find(heads.begin(), heads.end(), head) != heads.end();
      const index_t a = run.at(0), b = suppressed ? run.at(1) : a;
      const auto later = mask::where{[b](index_t q, index_t) { return q >= b; }};
      require_pairs(mask::causal{} & ~(mask::key_range{a, b} & later), after.view()[head]);
    }
  }
}

TEST_CASE("algebra: golden compositions", "[mask][golden]") {
  const auto window = [](const golden& g) {
    return mask::sliding_window{.left = number(g, "window"), .right = number(g, "window")};
  };
  {
    const golden g("masks-text", "compose_doc_and_not_future_a");
    const auto offsets = g.load<std::int32_t, 1>("cu_seqlens");
    const auto future = mask::shifted(mask::sliding_window{.left = 0, .right = mask::unlimited}, 1);
    require_golden(g, mask::documents{.offsets = offsets} & ~future);
  }
  {
    const golden g("masks-text", "compose_window_or_doc_a");
    const auto offsets = g.load<std::int32_t, 1>("cu_seqlens");
    require_golden(g, window(g) | mask::documents{.offsets = offsets});
  }
  {
    const golden g("masks-text", "compose_three_a");
    const auto offsets = g.load<std::int32_t, 1>("cu_seqlens");
    const auto keys = g.load<bool, 1>("key_visible");
    const mask::dense columns{.visible = {keys.data(), {88, 88}, {0, 1}}};
    require_golden(g, mask::causal{} & columns & ~(window(g) & mask::documents{.offsets = offsets}));
  }
}

TEST_CASE("dense: golden masks of key columns", "[mask][golden]") {
  const golden g("masks-text", "mlmu_a");
  const auto hidden = g.load<bool, 2>("predict_mask");
  const index_t batch = hidden.extent(0), len = hidden.extent(1);
  require_golden_batch(g, [&](index_t b) {
    REQUIRE(b < batch);
    return ~mask::dense{.visible = {&hidden(b, 0), {len, len}, {0, 1}}};
  });
}

TEST_CASE("block_map: golden block-sparse mask", "[mask][golden]") {
  const golden g("masks-text", "block_sparse_a");
  const auto blocks = g.load<bool, 2>("block_mask");
  const index_t q_block = number(g, "block_q"), k_block = number(g, "block_k");
  const auto rows = blocks.view();
  const mask::where sparse{[rows, q_block, k_block](index_t q, index_t k) { return rows(q / q_block, k / k_block); }};
  const mask::block_grid grid(cpu{}, sparse, 90, 110, q_block, k_block);
  require_golden(g, grid.over(sparse));
}
