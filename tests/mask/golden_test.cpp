// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/mask.hpp>

#include <algorithm>
#include <cstdint>
#include <mask/golden_mask.hpp>
#include <string>
#include <support/catch.hpp>
#include <support/golden.hpp>
#include <vector>

using namespace seqprim;
using namespace seqprim::test;

namespace {

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
    const auto& of = g.shape("mask");
    const auto m = mask::causal{} & mask::key_padding{.lengths = lengths, .k_len = of.at(2), .side = side};
    mask::validate(m, {.batch = of.at(0), .heads = 1, .q_len = of.at(1), .k_len = of.at(2)});
    require_golden_batch(g, [&](index_t b) { return mask::bind(m, b, 0); });
  }
}

TEST_CASE("key_padding: golden cross attention", "[mask][golden]") {
  const golden g("masks-text", "cross_a");
  const auto lengths = g.load<std::int64_t, 1>("source_lengths");
  const mask::key_padding m{.lengths = lengths, .k_len = g.shape("mask").at(2)};
  require_golden_batch(g, [&](index_t b) { return m.bind(b, 0); });
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
    require_golden(g, mask::documents(offsets));
  }
  for (const golden& g : {golden("masks-text", "doc_causal_a"), golden("masks-text", "doc_causal_b")}) {
    const auto offsets = g.load<std::int32_t, 1>("cu_seqlens");
    require_golden(g, mask::documents(offsets) & mask::causal{});
    require_golden(g, mask::packed{packing{offsets, offsets}, mask::causal{}});
  }
  for (const golden& g : {golden("masks-text", "doc_causal_window_a"), golden("masks-text", "doc_causal_window_b")}) {
    const auto offsets = g.load<std::int32_t, 1>("cu_seqlens");
    require_golden(g, mask::documents(offsets) & mask::causal_window(number(g, "window")));
    require_golden(g, mask::packed{packing{offsets, offsets}, mask::causal_window(number(g, "window"))});
  }
}

TEST_CASE("packed_prefix: golden files", "[mask][golden]") {
  for (const golden& g : {golden("masks-text", "doc_prefix_a"), golden("masks-text", "doc_prefix_partial")}) {
    const auto offsets = g.load<std::int32_t, 1>("cu_seqlens");
    const auto ends = g.load<std::int64_t, 1>("prefix_end");
    require_golden(g, mask::bind(mask::packed_prefix(offsets, ends), 0, 0));
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
      require_pairs(mask::causal{} & ~(mask::key_range{a, b} & mask::query_range{b, mask::unlimited}),
                    after.view()[head]);
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
    require_golden(g, mask::documents(offsets) & ~future);
  }
  {
    const golden g("masks-text", "compose_window_or_doc_a");
    const auto offsets = g.load<std::int32_t, 1>("cu_seqlens");
    require_golden(g, window(g) | mask::documents(offsets));
  }
  {
    const golden g("masks-text", "compose_three_a");
    const auto offsets = g.load<std::int32_t, 1>("cu_seqlens");
    const auto keys = g.load<bool, 1>("key_visible");
    const mask::dense columns{.visible = {keys.data(), {keys.size(), keys.size()}, {0, 1}}};
    require_golden(g, mask::causal{} & columns & ~(window(g) & mask::documents(offsets)));
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
  const auto& len = g.shape("mask");
  const auto rows = blocks.view();
  const mask::where sparse{[rows, q_block, k_block](index_t q, index_t k) { return rows(q / q_block, k / k_block); },
                           {.queries = {0, len.at(0)}, .keys = {0, len.at(1)}}};
  const mask::block_grid grid(cpu{}, sparse, len.at(0), len.at(1), q_block, k_block);
  require_golden(g, grid.over(sparse));
}
