// SPDX-License-Identifier: Apache-2.0
// Golden masks that are compositions of labels, ranges and bits: no type of their own is needed for any of them.
#include <seqprim/mask/mask.hpp>

#include <cmath>
#include <cstdint>
#include <mask/golden_labels.hpp>
#include <mask/golden_mask.hpp>
#include <string>
#include <support/catch.hpp>
#include <support/golden.hpp>
#include <vector>

using namespace seqprim;
using test::labels_from;
using test::param;
using test::require_golden;
using test::require_golden_batch;
using test::require_pairs;

namespace {

constexpr mask::sliding_window same_label{.left = 0, .right = 0};

/// A mask against a matrix without classes of tiles.
template <class M> void require_matrix(const golden& g, const M& m, const char* name = "mask") {
  const auto visible = g.load<bool, 2>(name);
  mask::validate(m, {.q_len = visible.extent(0), .k_len = visible.extent(1)});
  require_pairs(m, visible.view());
  const auto report = mask::check(m, visible.extent(0), visible.extent(1));
  INFO(report.summary());
  REQUIRE(report.ok());
}

std::vector<std::int32_t> row_of(const tensor<bool, 2>& rows, index_t row) {
  return labels_from(rows.extent(1), [&](index_t i) { return rows(row, i) ? 1 : 0; });
}

}  // namespace

TEST_CASE("golden labels: chunks, with all or some chunks to the left", "[mask][golden]") {
  for (const golden& g : {golden("masks-text", "chunk_M8"), golden("masks-text", "chunk_M16"),
                          golden("masks-text", "chunk_M8_left2"), golden("masks-text", "chunk_M4_left0")}) {
    const index_t size = param(g, "chunk"), left = param(g, "left_chunks");
    const mask::by_label m{mask::sliding_window{.left = left < 0 ? mask::unlimited : left}, mask::blocks_of{size},
                           mask::blocks_of{size}};
    STATIC_REQUIRE(mask::ordered_ranges<std::remove_const_t<decltype(m)>>);
    require_golden(g, m);
  }
}

TEST_CASE("golden labels: chunks of two sizes under key padding", "[mask][golden]") {
  const golden g("masks-text", "cosyvoice2_four_a");
  const auto lengths = g.load<std::int64_t, 1>("lengths");
  const auto visible = g.load<bool, 3>("mask");
  const index_t len = visible.extent(2), size = param(g, "chunk");
  const auto chunks = [](index_t n) { return mask::by_label{mask::causal{}, mask::blocks_of{n}, mask::blocks_of{n}}; };
  const mask::key_padding padding{.lengths = lengths, .k_len = len};
  require_golden_batch(g, [&](index_t b) { return mask::bind(chunks(size) & padding, b, 0); });
  for (index_t b = 0; b < visible.extent(0); ++b) {
    const auto require = [&](const char* name, const auto& m) {
      require_pairs(mask::bind(m & padding, b, 0), g.load<bool, 3>(name).view()[b]);
    };
    require("mask_non_causal", mask::full{});
    require("mask_full_causal", chunks(1));
    require("mask_chunk_m", chunks(size));
    require("mask_chunk_2m", chunks(2 * size));
  }
}

TEST_CASE("golden labels: items of several tokens, from the first on and appended", "[mask][golden]") {
  for (const golden& g : {golden("masks-text", "recgpt_a"), golden("masks-text", "recgpt_append")}) {
    const mask::blocks_of item{param(g, "tokens_per_item")};
    require_golden(g, mask::shifted(mask::by_label{mask::causal{}, item, item}, param(g, "offset")));
  }
}

TEST_CASE("golden labels: permutation language models, query and content stream", "[mask][golden]") {
  const golden g("masks-text", "permutation_query_a");
  const auto rank = g.load<std::int64_t, 2>("rank");
  const mask::labels ranks(rank);
  require_golden_batch(g, [&](index_t b) {
    return mask::by_label{mask::shifted(mask::causal{}, -1), ranks.row(b), ranks.row(b)};
  });
  const auto content = g.load<bool, 3>("mask_content");
  for (index_t b = 0; b < content.extent(0); ++b)
    require_pairs(mask::by_label{mask::causal{}, ranks.row(b), ranks.row(b)}, content.view()[b]);
}

TEST_CASE("golden labels: keys that are to be predicted are hidden", "[mask][golden]") {
  const golden g("masks-text", "mlmu_a");
  const auto hidden = g.load<bool, 2>("predict_mask"), wanted = g.load<bool, 2>("need_to_predict");
  const auto rate = g.load<float, 2>("rate"), u = g.load<float, 2>("u");
  std::vector<mask::labels> owners;
  for (index_t b = 0; b < hidden.extent(0); ++b) {
    owners.emplace_back(row_of(hidden, b));
    for (index_t i = 0; i < hidden.extent(1); ++i)
      REQUIRE(hidden(b, i) == !(rate(b, 0) > u(b, i) || i == 0 || !wanted(b, i)));
  }
  require_golden_batch(g, [&](index_t b) {
    return mask::by_label{mask::key_range{0, 1}, mask::own{}, owners.at(static_cast<std::size_t>(b)).row()};
  });
}

TEST_CASE("golden labels: dilated, strided and fixed patterns", "[mask][golden]") {
  {
    const golden g("masks-text", "dilated_dil3");
    const mask::residue_of phase{param(g, "dilation")};
    require_golden(
        g, mask::causal_window(param(g, "window") * phase.modulus + 1) & mask::by_label{same_label, phase, phase});
  }
  {
    const golden g("masks-text", "sparse_strided");
    const mask::residue_of phase{param(g, "stride")};
    require_golden(g, mask::causal{} & (mask::causal_window(phase.modulus) | mask::by_label{same_label, phase, phase}));
  }
  {
    const golden g("masks-text", "sparse_fixed");
    const index_t stride = param(g, "stride");
    const mask::blocks_of block{stride};
    const mask::by_label summaries{mask::key_range{stride - param(g, "c"), stride}, mask::own{},
                                   mask::residue_of{stride}};
    require_golden(g, mask::causal{} & (mask::by_label{same_label, block, block} | summaries));
  }
}

TEST_CASE("golden labels: global tokens attend to all and are attended by all", "[mask][golden]") {
  const golden g("masks-text", "longformer");
  const auto global = g.params.at("global_tokens").get<std::vector<index_t>>();
  std::vector<std::int32_t> flags(static_cast<std::size_t>(g.load<bool, 2>("mask").extent(1)), 0);
  for (const index_t i : global) flags.at(static_cast<std::size_t>(i)) = 1;
  const mask::labels owner(flags);
  const mask::by_label keys{mask::key_range{1, 2}, mask::own{}, owner.row()};
  const index_t reach = param(g, "window");
  require_golden(g, mask::sliding_window{.left = reach, .right = reach} | keys | mask::transposed{keys});
}

TEST_CASE("golden labels: draft trees as bits and as ranges of their subtrees", "[mask][golden]") {
  for (const golden& g : {golden("masks-text", "tree_medusa_a"), golden("masks-text", "tree_random"),
                          golden("masks-text", "tree_forest")}) {
    const index_t past = param(g, "past");
    const auto parents = g.load<std::int64_t, 1>("parents"), begin = g.load<std::int64_t, 1>("tin"),
               end = g.load<std::int64_t, 1>("tout"), order = g.load<std::int64_t, 1>("dfs_order");
    const index_t nodes = parents.size();

    tensor<std::uint64_t, 2> words(nodes, ceil_div(nodes, 64));
    for (index_t n = 0; n < nodes; ++n) {
      if (parents(n) >= 0)
        for (index_t w = 0; w < words.extent(1); ++w) words(n, w) = words(parents(n), w);
      words(n, n / 64) |= std::uint64_t{1} << n % 64;
    }
    require_golden(g, mask::key_concat(mask::full{}, past, mask::row_words{words.view()}));
    if (g.params.contains("choices")) {
      const auto bits = g.load<std::int64_t, 1>("row_bits");
      for (index_t n = 0; n < nodes; ++n) REQUIRE(static_cast<std::uint64_t>(bits(n)) == words(n, 0));
    }

    // Subtrees are ranges in depth-first order; elsewhere that order is the label.
    std::vector<std::int64_t> own(static_cast<std::size_t>(nodes)), behind(static_cast<std::size_t>(nodes));
    for (index_t n = 0; n < nodes; ++n) {
      REQUIRE(order(begin(n)) == n);
      own[static_cast<std::size_t>(n)] = n;
      behind[static_cast<std::size_t>(n)] = end(order(n));
    }
    const mask::transposed in_order{mask::row_ranges{own, behind}};
    require_matrix(g, in_order, "mask_dfs");
    const mask::labels places(labels_from(begin));
    const mask::by_label by_place{in_order, places.row(), places.row()};
    mask::validate(by_place, {.q_len = nodes, .k_len = nodes});
    const auto m = mask::key_concat(mask::full{}, past, by_place);
    require_pairs(m, g.load<bool, 2>("mask").view());
    REQUIRE(mask::check(m, nodes, past + nodes).ok());
  }
}

TEST_CASE("golden labels: block diffusion over noisy and clean halves", "[mask][golden]") {
  for (const golden& g : {golden("masks-text", "block_diffusion_a"), golden("masks-text", "block_diffusion_bs1"),
                          golden("masks-text", "block_diffusion_bs_full")}) {
    const index_t n = param(g, "n"), size = param(g, "block");
    const auto block = [&](index_t i) { return i % n / size; };
    const mask::labels reach(labels_from(2 * n, [&](index_t i) { return i < n ? block(i) - 1 : block(i); })),
        clean(labels_from(2 * n, [&](index_t i) { return i < n ? n : block(i); })),  // no query reaches the noisy half
        noisy(labels_from(2 * n, [&](index_t i) { return i < n ? block(i) : -1 - i; }));
    require_golden(g, mask::by_label{mask::causal{}, reach.row(), clean.row()} |
                          mask::by_label{same_label, noisy.row(), noisy.row()});
    // The same without stored labels, as in examples/small_programs/block_diffusion.cpp.
    const mask::blocks_of number{size};
    const mask::by_label same_block{same_label, number, number};
    const mask::by_label up_to_block{mask::causal{}, number, number};
    require_golden(g, mask::query_concat(mask::key_concat(same_block, n, mask::shifted(up_to_block, -size)), n,
                                         mask::key_concat(~mask::full{}, n, up_to_block)));
  }
}

TEST_CASE("golden labels: positions and depths of selective iteration", "[mask][golden]") {
  {
    const golden g("masks-text", "duo_causal_grid_a");
    const mask::labels position(labels_from(g.load<std::int64_t, 1>("slot_pos"))),
        depth(labels_from(g.load<std::int64_t, 1>("slot_depth")));
    const auto iterations = g.load<std::int64_t, 1>("iterations");
    index_t slots = 0;
    for (const std::int64_t n : iterations) slots += n;
    REQUIRE(slots == position.size(0));
    require_golden(g, mask::by_label{mask::causal{}, position.row(), position.row()} &
                          mask::by_label{mask::causal{}, depth.row(), depth.row()});
  }
  const golden g("masks-text", "duo_causal_a");
  const auto steps = g.params.at("steps").size();
  for (std::size_t step = 0; step < static_cast<std::size_t>(steps); ++step) {
    const std::string s = 's' + std::to_string(step) + '_';
    CAPTURE(s);
    const auto q_position = g.load<std::int64_t, 2>(s + "q_pos"), k_position = g.load<std::int64_t, 2>(s + "k_pos");
    const auto q_valid = g.load<bool, 2>(s + "q_valid"), k_valid = g.load<bool, 2>(s + "k_valid");
    const auto depth = g.load<std::int64_t, 1>(s + "k_depth");
    const auto visible = g.load<bool, 3>(s + "mask");
    index_t deepest = 0;  // that of the queries of this step: its keys are the newest
    for (const std::int64_t d : depth) deepest = max_of<index_t>(deepest, d);
    const mask::labels q_positions(q_position), k_positions(k_position), depths(labels_from(depth));
    for (index_t b = 0; b < visible.extent(0); ++b) {
      const mask::labels valid(row_of(k_valid, b)), asked(row_of(q_valid, b));
      const auto m = mask::by_label{mask::causal{}, q_positions.row(b), k_positions.row(b)} &
                     mask::by_label{mask::key_range{0, deepest + 1}, mask::own{}, depths.row()} &
                     mask::by_label{mask::key_range{1, 2}, mask::own{}, valid.row()};
      const auto of_queries = m & mask::by_label{mask::query_range{1, 2}, asked.row(), mask::own{}};
      bool padded = false;  // the file may let padded queries attend or not
      for (index_t q = 0; q < visible.extent(1); ++q)
        for (index_t k = 0; k < visible.extent(2); ++k) padded = padded || (!q_valid(b, q) && visible(b, q, k));
      if (padded) {
        require_pairs(m, visible.view()[b]);
      } else {
        require_pairs(of_queries, visible.view()[b]);
      }
      REQUIRE(mask::check(of_queries, visible.extent(1), visible.extent(2)).ok());
    }
  }
}

TEST_CASE("golden labels: isolated segments between prefix and suffix", "[mask][golden]") {
  const golden g("masks-text", "segments_isolated_a");
  // The prefix is segment 0, the suffix the last one. Which segments does a segment attend to, the prefix apart?
  const auto id = g.load<std::int64_t, 1>("segment_id");
  const mask::labels segment(labels_from(id.size(), [&](index_t i) { return id(i) + 1; }));
  const auto count = static_cast<index_t>(g.params.at("segments").get<std::vector<index_t>>().size());
  const auto begin = labels_from(count + 2, [&](index_t s) { return s <= count ? s : 0; }),
             end = labels_from(count + 2, [](index_t s) { return s + 1; });
  const mask::by_label segments{mask::row_ranges{begin, end}, segment.row(), segment.row()};
  require_golden(g, mask::causal{} & (mask::key_range{0, param(g, "prefix")} | segments));
}

TEST_CASE("golden labels: mask tokens behind every prefix", "[mask][golden]") {
  const golden g("masks-text", "mtp_blocks_a");
  const index_t n = param(g, "n"), k = param(g, "k"), len = n + n * k;
  const auto block = [&](index_t i) { return (i - n) / k; };
  const mask::labels reach(labels_from(len, [&](index_t i) { return i < n ? i : block(i); })),
      token(labels_from(len, [&](index_t i) { return i < n ? i : len; })),
      group(labels_from(len, [&](index_t i) { return i < n ? -1 - i : block(i); }));
  require_golden(g, mask::by_label{mask::causal{}, reach.row(), token.row()} |
                        (mask::causal{} & mask::by_label{same_label, group.row(), group.row()}));
}

TEST_CASE("golden labels: a look-ahead of its own for each frame and layer", "[mask][golden]") {
  for (const golden& g : {golden("masks-text", "lookahead_a"), golden("masks-text", "lookahead_left12")}) {
    const auto span = g.load<float, 2>("span");
    const index_t left = param(g, "left"), layers = span.extent(0), len = span.extent(1);
    tensor<std::int64_t, 2> begin(layers, len), end(layers, len);
    for (index_t l = 0; l < layers; ++l)
      for (index_t q = 0; q < len; ++q) {
        begin(l, q) = q - left;
        end(l, q) = q + static_cast<index_t>(std::floor(span(l, q))) + 1;
      }
    require_golden_batch(g, [&](index_t l) { return mask::row_ranges{begin.view()[l], end.view()[l]}; });
  }
}

TEST_CASE("golden labels: concentric images", "[mask][golden]") {
  for (const golden& g :
       {golden("masks-multimodal", "cca_4x4_official"), golden("masks-multimodal", "cca_6x6_official"),
        golden("masks-multimodal", "cca_ext_1xN"), golden("masks-multimodal", "cca_ext_4x7"),
        golden("masks-multimodal", "cca_ext_5x5"), golden("masks-multimodal", "cca_ext_two_images")})
    require_matrix(g, test::concentric(g).mask());
  const golden g("masks-multimodal", "cca_24x24_official_summary");
  const auto rows = g.load<std::int64_t, 1>("visible_per_row"), columns = g.load<std::int64_t, 1>("visible_per_col");
  const test::golden_labels labels = test::concentric(g);
  const auto m = labels.mask();
  for (index_t i = 0; i < rows.size(); ++i) {
    index_t of_row = 0, of_column = 0;
    for (index_t j = 0; j < rows.size(); ++j) {
      of_row += m(i, j);
      of_column += m(j, i);
    }
    REQUIRE(of_row == rows(i));
    REQUIRE(of_column == columns(i));
  }
}

TEST_CASE("golden labels: frames, scales and cells", "[mask][golden]") {
  for (const golden& g :
       {golden("masks-multimodal", "fwbc_text_video_text"), golden("masks-multimodal", "fwbc_two_videos")})
    require_matrix(g, test::frames(g).mask());
  for (const golden& g : {golden("masks-multimodal", "far_frame_causal"), golden("masks-multimodal", "far_flexrope")})
    require_matrix(g, test::frame_grid(g).mask());
  {
    const golden g("masks-multimodal", "far_long_short");
    require_matrix(g, test::frame_coordinate(g).mask());
  }
  {
    const golden g("masks-multimodal", "favor_block_causal");
    require_matrix(g, test::frames_of_tokens(g).mask());
    const mask::blocks_of frame{param(g, "tokens_per_frame")};
    require_matrix(g, mask::transposed{mask::by_label{mask::causal{}, frame, frame}}, "mask_released");
  }
  {
    const golden g("masks-multimodal", "var_scale_causal_1234");
    require_matrix(g, test::levels(g).mask());
  }
  {
    const golden g("masks-multimodal", "var_default_levels");
    const auto rows = g.load<std::int64_t, 1>("visible_per_row");
    const test::golden_labels labels = test::levels(g);
    const auto m = labels.mask();
    for (index_t i = 0; i < rows.size(); ++i) {
      index_t count = 0;
      for (index_t j = 0; j < rows.size(); ++j) count += m(i, j);
      REQUIRE(count == rows(i));
    }
  }
  for (const golden& g : {golden("masks-multimodal", "xar_cells_4x6"), golden("masks-multimodal", "xar_subsample_4x4"),
                          golden("masks-multimodal", "xar_token_3x3"), golden("masks-multimodal", "xar_whole_3x4")})
    require_matrix(g, test::entities(g).mask());
  {
    const golden g("masks-multimodal", "vidgpt_temporal_causal");
    require_matrix(g, mask::causal{});
    require_matrix(g, mask::shifted(mask::causal{}, param(g, "prompt_frames")), "mask_cached");
  }
  {
    const golden g("masks-multimodal", "phenaki_temporal_alibi");
    const index_t frame = param(g, "height") * param(g, "width");
    require_matrix(g, mask::causal{});
    require_matrix(g, mask::causal{} & mask::by_label{same_label, mask::residue_of{frame}, mask::residue_of{frame}},
                   "mask_flat_temporal");
    require_matrix(g, mask::by_label{same_label, mask::blocks_of{frame}, mask::blocks_of{frame}}, "mask_flat_spatial");
  }
}

TEST_CASE("golden labels: learned queries", "[mask][golden]") {
  for (const golden& g :
       {golden("masks-multimodal", "ccam_divisible"), golden("masks-multimodal", "ccam_more_frames_than_queries_ceil"),
        golden("masks-multimodal", "ccam_nondivisible_ceil"), golden("masks-multimodal", "ccam_nondivisible_floor")})
    require_matrix(g, test::queries_of_frames(g).mask());
  for (const golden& g :
       {golden("masks-multimodal", "seed_qformer_queries"), golden("masks-multimodal", "seed_qformer_joint"),
        golden("masks-multimodal", "seed_qformer_decoder_text")})
    require_matrix(g, test::causal_queries(g).mask());
  const golden g("masks-multimodal", "dar_encoder_and_groups");
  require_matrix(g, test::patches_and_queries(g).mask());
  require_matrix(g, mask::prefix{.length = param(g, "patches")});
}

TEST_CASE("golden labels: earlier modalities attend to later ones", "[mask][golden]") {
  for (const golden& g : {golden("masks-multimodal", "mma_single_image_official"),
                          golden("masks-multimodal", "mma_single_image_padded_official")}) {
    const index_t begin = param(g, "image_start"), end = param(g, "image_end"),
                  text_end = param(g, "unlocked_text_end");
    require_matrix(g, (mask::causal{} | (mask::query_range{begin, end} & mask::key_range{end, text_end})) &
                          mask::key_range{0, param(g, "seq") - param(g, "padding_right")});
  }
  {
    const golden g("masks-multimodal", "mma_ragged_batch_official");
    const auto rows = g.params.at("rows").get<std::vector<std::vector<index_t>>>();
    const auto lengths = g.load<std::int64_t, 1>("lengths");
    const auto visible = g.load<bool, 4>("mask");
    for (index_t b = 0; b < visible.extent(0); ++b) {
      const auto& row = rows.at(static_cast<std::size_t>(b));  // text, image, question, answer behind the marker
      const index_t begin = row.at(0), end = begin + row.at(1), text_end = end + row.at(2) + 1, real = lengths(b);
      require_pairs((mask::causal{} | (mask::query_range{begin, end} & mask::key_range{end, text_end})) &
                        mask::key_range{0, real} & mask::query_range{0, real},
                    visible.view()[b][0]);
    }
  }
  for (const golden& g : {golden("masks-multimodal", "mma_generic_audio_video_text"),
                          golden("masks-multimodal", "mma_generic_two_images_two_turns")}) {
    const auto unlock = g.load<bool, 2>("unlock");
    tensor<std::uint64_t, 2> table(unlock.extent(0), ceil_div(unlock.extent(1), 64));
    for (index_t s = 0; s < unlock.extent(0); ++s)
      for (index_t t = 0; t < unlock.extent(1); ++t)
        if (unlock(s, t)) table(s, t / 64) |= std::uint64_t{1} << t % 64;
    const mask::labels segment(labels_from(g.load<std::int64_t, 1>("segment_id")));
    require_matrix(g, mask::causal{} | mask::by_label{mask::row_words{table.view()}, segment.row(), segment.row()});
  }
}
