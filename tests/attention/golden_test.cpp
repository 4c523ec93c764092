// SPDX-License-Identifier: Apache-2.0
#include <seqprim/attention/attention.hpp>
#include <seqprim/attention/reference.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/position/position.hpp>
#include <seqprim/score/score.hpp>

#include <attention/problem.hpp>
#include <cmath>
#include <support/catch.hpp>
#include <support/golden.hpp>
#include <utility>
#include <vector>

using namespace seqprim;

namespace {

/// The files hold float64 results rounded to float32; a float kernel may be off by a few roundings of the largest number.
constexpr double tolerance = 4e-6;

struct inputs {
  tensor<float, 4> q, k, v;

  inputs(tensor<float, 4> queries, tensor<float, 4> keys, tensor<float, 4> values)
      : q(std::move(queries)), k(std::move(keys)), v(std::move(values)) {}
  explicit inputs(const golden& g) : q(g.load<float, 4>("q")), k(g.load<float, 4>("k")), v(g.load<float, 4>("v")) {}
};

void require_same(const tensor<float, 4>& actual, const tensor<float, 4>& expected) {
  REQUIRE(test::distance(actual, expected) <= tolerance * std::max(1.0, test::largest(expected)));
}
void require_same(const tensor<float, 3>& actual, const tensor<float, 3>& expected) {
  REQUIRE(test::distance(actual, expected) <= tolerance * std::max(1.0, test::largest(expected)));
}

/// forward, decode and the reference all give what the file says.
template <class Op>
void check(const Op& op, const inputs& in, const tensor<float, 4>& out, const tensor<float, 3>& lse) {
  tensor<float, 4> actual(out.extent(0), out.extent(1), out.extent(2), out.extent(3));
  tensor<float, 3> actual_lse(lse.extent(0), lse.extent(1), lse.extent(2));
  attention::reference::forward(op, in.q, in.k, in.v, actual, actual_lse);
  require_same(actual, out);
  require_same(actual_lse, lse);
  attention::forward(cpu{}, op, in.q, in.k, in.v, actual, actual_lse);
  require_same(actual, out);
  require_same(actual_lse, lse);
  attention::decode(cpu{}, op, in.q, in.k, in.v, actual, actual_lse);
  require_same(actual, out);
  require_same(actual_lse, lse);
}
template <class Op> void check(const Op& op, const golden& g) {
  check(op, inputs(g), g.load<float, 4>("out"), g.load<float, 3>("lse"));
}

std::vector<index_t> running_sum(const std::vector<index_t>& lengths) {
  std::vector<index_t> sums = {0};
  for (const index_t n : lengths) sums.push_back(sums.back() + n);
  return sums;
}

}  // namespace

TEST_CASE("attention golden: causal with more queries than keys", "[attention][golden]") {
  const golden g("masks-text", "attn_causal_tall");
  check(attention::softmax{mask::causal{}}.starting_at(g.params.at("offset")).scaled(g.params.at("scale")), g);
}

TEST_CASE("attention golden: sinks with appended queries", "[attention][golden]") {
  const golden g("masks-text", "attn_sinks_append");
  check(attention::softmax{mask::attention_sinks{.sinks = g.params.at("sinks"), .window = g.params.at("window")}}
            .starting_at(g.params.at("offset")),
        g);
}

TEST_CASE("attention golden: a prefix length for each batch row, value_dim unlike head_dim", "[attention][golden]") {
  const golden g("masks-text", "attn_prefix_batch");
  const auto lengths = g.params.at("prefix").get<std::vector<index_t>>();
  check(attention::softmax{mask::prefix_per_batch{.lengths = lengths}}, g);
}

TEST_CASE("attention golden: packed documents", "[attention][golden]") {
  const golden g("masks-text", "attn_doc_causal");
  const auto offsets = running_sum(g.params.at("lengths").get<std::vector<index_t>>());
  check(attention::softmax{mask::documents(offsets) & mask::causal{}}, g);
  check(attention::softmax{mask::packed{packing{offsets, offsets}, mask::causal{}}}, g);
}

TEST_CASE("attention golden: suppressed keys at the beginning leave rows empty", "[attention][golden]") {
  const golden g("masks-text", "attn_suppress_first");
  const auto part = g.params.at("range").get<std::vector<index_t>>();
  check(attention::softmax{mask::causal{} & ~mask::key_range{part[0], part[1]}}, g);
}

TEST_CASE("attention golden: parts of the keys and their merge", "[attention][golden]") {
  const golden g("masks-text", "attn_split_merge_a");
  const inputs in(g);
  const auto cuts = g.params.at("cuts").get<std::vector<index_t>>();
  const auto base = mask::attention_sinks{.sinks = g.params.at("sinks"), .window = g.params.at("window")};
  check(attention::softmax{base}, g);
  const auto parts = g.load<float, 5>("part_out");
  const auto parts_lse = g.load<float, 4>("part_lse");
  tensor<float, 4> total(1, 2, 50, 8);
  tensor<float, 3> total_lse(1, 2, 50);
  total_lse.fill(-std::numeric_limits<float>::infinity());
  for (index_t n = 0; n + 1 < static_cast<index_t>(cuts.size()); ++n) {
    const auto at = static_cast<std::size_t>(n);
    tensor<float, 4> out(1, 2, 50, 8), expected(1, 2, 50, 8);
    tensor<float, 3> lse(1, 2, 50), expected_lse(1, 2, 50);
    std::copy_n(&parts(n, 0, 0, 0, 0), expected.size(), expected.data());
    std::copy_n(&parts_lse(n, 0, 0, 0), expected_lse.size(), expected_lse.data());
    attention::forward(cpu{}, attention::softmax{base & mask::key_range{cuts[at], cuts[at + 1]}}, in.q, in.k, in.v, out,
                       lse);
    require_same(out, expected);
    require_same(lse, expected_lse);
    attention::merge(cpu{}, total, total_lse, out, lse);
  }
  require_same(total, g.load<float, 4>("out"));
  require_same(total_lse, g.load<float, 3>("lse"));
}

TEST_CASE("attention golden: cross attention, query heads grouped and tiled", "[attention][golden]") {
  const golden g("masks-text", "attn_cross_gqa_a");
  const inputs in(g);
  const auto lengths = g.load<std::int64_t, 1>("source_lengths");
  const attention::softmax op{mask::key_padding{.lengths = lengths.view(), .k_len = 19}};
  check(op, in, g.load<float, 4>("out_grouped"), g.load<float, 3>("lse_grouped"));
  check(op.tiled_heads(), in, g.load<float, 4>("out_tiled"), g.load<float, 3>("lse_tiled"));
}

TEST_CASE("attention golden: a sink, the same for all heads and one for each", "[attention][golden]") {
  const golden g("masks-text", "attn_sink_logit_a");
  const inputs in(g);
  const auto visible = g.load<bool, 4>("mask");
  const attention::softmax op{mask::dense_per_head{visible.view()}};
  const auto sinks = g.load<float, 1>("sink");
  check(op.with_sink(0.0f), in, g.load<float, 4>("out_zero"), g.load<float, 3>("lse_zero"));
  check(op.with_sinks(sinks.view()), in, g.load<float, 4>("out_learned"), g.load<float, 3>("lse_learned"));
}

TEST_CASE("attention golden: rotary positions, from any common start, and the last row as a decode step",
          "[attention][golden]") {
  const golden g("positions", "rope_attention_causal");
  const inputs in(g);
  const auto expected = g.load<float, 4>("out");
  const position::rotary<position::half_split> rope{.rotary_dim = 16, .frequencies = {.theta = g.params.at("theta")}};
  const auto start = GENERATE(as<index_t>{}, 0, 7, 1000);
  tensor<float, 4> out(1, 2, 9, 16), last(1, 2, 1, 16), k_cache(1, 2, 9, 16), v_cache(1, 2, 9, 16);
  const position::placed at{rope, position::sequential{start}, position::sequential{start}};
  attention::forward(cpu{}, attention::softmax{mask::causal{}, score::identity{}, at}, in.q, in.k, in.v, out);
  // The angles reach 1000 radians; rounded to float, cosines are good to 6e-8 and logits to some 1e-6.
  REQUIRE(test::distance(out, expected) <= 2e-5);
  const auto step = attention::softmax{mask::causal{}, score::identity{}, rope}.starting_at(8);
  attention::append(cpu{}, step, in.k, in.v, 0, k_cache, v_cache);
  attention::decode(cpu{}, step, in.q.view().slice(2, {8, 9}), k_cache, v_cache, last);
  for (index_t h = 0; h < 2; ++h)
    for (index_t d = 0; d < 16; ++d) REQUIRE(std::abs(last(0, h, 0, d) - expected(0, h, 8, d)) <= 2e-5f);
}

TEST_CASE("attention golden: ALiBi, causal, decoding and in both directions", "[attention][golden]") {
  const auto check_file = [](const golden& g) {
    const index_t heads = g.params.at("heads"), q_len = g.params.at("q_len"), k_len = g.params.at("k_len");
    const index_t offset = k_len - q_len;
    check(attention::softmax{mask::causal{}, score::alibi{.heads = heads}}.starting_at(offset), g);
    check(attention::softmax{mask::full{}, score::alibi{.heads = heads, .bidirectional = true}}.starting_at(offset),
          inputs(g), g.load<float, 4>("out_bidirectional"), g.load<float, 3>("lse_bidirectional"));
  };
  check_file(golden("positions", "alibi_attention_causal"));
  check_file(golden("positions", "alibi_attention_decode"));
}

TEST_CASE("attention golden: a bias by the distance of labels is a bias of keys", "[attention][golden]") {
  const golden g("masks-multimodal", "far_flexrope");
  const inputs in(g.load<float, 4>("q_rot"), g.load<float, 4>("k_rot"), g.load<float, 4>("v"));
  const auto visible = g.load<bool, 2>("mask");
  const auto bias = g.load<float, 2>("bias");
  const float slope = g.params.at("slope");
  const index_t frame = g.params.at("height").get<index_t>() * g.params.at("width").get<index_t>();
  const index_t len = visible.extent(0);
  tensor<float, 3> of_key(1, 1, len);
  for (index_t k = 0; k < len; ++k) of_key(0, 0, k) = slope * static_cast<float>(k / frame);
  for (index_t q = 0; q < len; ++q)
    for (index_t k = 0; k < len; ++k)
      if (visible(q, k)) REQUIRE(std::fabs(of_key(0, 0, k) - of_key(0, 0, q) - bias(q, k)) <= 1e-6f);
  auto lse = g.load<float, 3>("lse");
  for (index_t h = 0; h < lse.extent(1); ++h)
    for (index_t q = 0; q < len; ++q) lse(0, h, q) += of_key(0, 0, q);
  check(attention::softmax{mask::dense{visible.view()}, score::key_bias{of_key.view()}}, in, g.load<float, 4>("out"),
        lse);
}
