// SPDX-License-Identifier: Apache-2.0
// Attention under masks of labels, ranges and bits: forward, backward and decode against the definition and golden files.
#include <seqprim/attention/attention.hpp>
#include <seqprim/attention/reference.hpp>
#include <seqprim/mask/mask.hpp>

#include <attention/problem.hpp>
#include <cstdint>
#include <mask/golden_labels.hpp>
#include <string>
#include <support/catch.hpp>
#include <support/golden.hpp>
#include <vector>

using namespace seqprim;
using test::attention_problem;
using test::distance;
using test::largest;
using test::random_numbers;

namespace {

std::vector<std::int32_t> random_labels(random_numbers& random, index_t count, index_t largest_label) {
  return test::labels_from(count, [&](index_t) { return random.integer(0, largest_label); });
}

/// Forward, backward and decode against the definition in double.
template <class T, class Op> void require_close(random_numbers& random, const Op& op, const attention_problem<T>& p) {
  tensor<T, 4> out(p.batch, p.heads, p.q_len, p.value_dim), decoded(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> lse(p.batch, p.heads, p.q_len);
  attention::forward(cpu{}, op, p.q, p.k, p.v, out, lse);
  attention::decode(cpu{}, op, p.q, p.k, p.v, decoded);
  tensor<double, 4> exact(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<double, 3> exact_lse(p.batch, p.heads, p.q_len);
  attention::reference::forward(op, p.q, p.k, p.v, exact, exact_lse);
  tensor<float, 4> naive(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> naive_lse(p.batch, p.heads, p.q_len);
  test::naive_forward(op, p, naive, naive_lse);
  const double budget =
      2 * distance(naive, exact) + 2 * (test::rounding<T> + test::rounding<float>)*std::max(1.0, largest(exact));
  REQUIRE(distance(out, exact) <= budget);
  REQUIRE(distance(decoded, exact) <= budget);
  REQUIRE(distance(lse, exact_lse) <=
          2 * distance(naive_lse, exact_lse) + 4 * test::rounding<float> * std::max(1.0, largest(exact_lse)));

  tensor<T, 4> dout(p.batch, p.heads, p.q_len, p.value_dim);
  random.fill(dout);
  tensor<T, 4> dq(p.batch, p.heads, p.q_len, p.head_dim), dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
      dv(p.batch, p.kv_heads, p.k_len, p.value_dim);
  attention::backward(cpu{}, op, p.q, p.k, p.v, out, lse, dout, attention::gradients{}.dq(dq).dk(dk).dv(dv));
  tensor<double, 4> exact_dq(p.batch, p.heads, p.q_len, p.head_dim), exact_dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
      exact_dv(p.batch, p.kv_heads, p.k_len, p.value_dim);
  attention::reference::backward(op, p.q, p.k, p.v, dout, exact_dq, exact_dk, exact_dv);
  // A sum over a few hundred pairs, each rounded to T.
  const double step = 30 * test::rounding<T>;
  REQUIRE(distance(dq, exact_dq) <= step * std::max(1.0, largest(exact_dq)));
  REQUIRE(distance(dk, exact_dk) <= step * std::max(1.0, largest(exact_dk)));
  REQUIRE(distance(dv, exact_dv) <= step * std::max(1.0, largest(exact_dv)));
}

}  // namespace

TEMPLATE_TEST_CASE("label masks: forward, backward and decode agree with the definition", "[attention][property]",
                   float, bfloat16) {
  random_numbers random(801);
  for (int trial = 0; trial < 6; ++trial) {
    const index_t k_len = random.integer(150, 300), q_len = random.integer(1, k_len);
    attention_problem<TestType> p(2, 2, 1, q_len, k_len, 24, 16);
    p.fill(random);
    CAPTURE(trial, q_len, k_len);
    tensor<std::int32_t, 2> rows(2, k_len);
    for (std::int32_t& x : rows) x = static_cast<std::int32_t>(random.integer(0, 40));
    const mask::labels labels(rows);
    require_close(random, attention::softmax{mask::by_label{mask::causal{}, labels.rows(), labels.rows()}}, p);
    const mask::residue_of phase{random.integer(2, 70)};
    require_close(random,
                  attention::softmax{mask::causal_window(random.integer(20, 200)) &
                                     mask::by_label{mask::sliding_window{.left = 0}, phase, phase}},
                  p);
  }
}

TEST_CASE("label masks: ranges, bits and their compositions agree with the definition", "[attention][property]") {
  random_numbers random(802);
  const index_t k_len = 190, q_len = 90;
  attention_problem<float> p(1, 2, 1, q_len, k_len, 16, 16);
  p.fill(random);
  const auto begin = random_labels(random, k_len, 150), labels = random_labels(random, k_len, 9);
  const auto end = test::labels_from(k_len, [&](index_t i) { return begin[static_cast<std::size_t>(i)] + i % 70; });
  tensor<std::uint64_t, 2> words(q_len, 2);
  for (std::uint64_t& word : words) word = std::uint64_t{random.word()} << 32 | random.word();
  // A cache of 100 tokens, then 90 new ones: the queries.
  require_close(random,
                attention::softmax{mask::key_concat(mask::full{}, k_len - q_len, mask::row_words{words.view()})}, p);
  const mask::labels owner(labels);
  require_close(random,
                attention::softmax{mask::transposed{mask::row_ranges{begin, end}} |
                                   mask::by_label{mask::causal{} & ~mask::key_range{3, 5}, owner.row(), owner.row()}},
                p);
}

TEST_CASE("label masks: golden files of frames, scales, learned queries and blocks", "[attention][golden]") {
  using labels_of = test::golden_labels (*)(const golden&);
  const auto check = [](const golden& g, labels_of make) {
    CAPTURE(g.source());
    const test::golden_labels labels = make(g);
    const attention::softmax op = attention::softmax{labels.mask()}.starting_at(0);
    const auto q = g.load<float, 4>("q"), k = g.load<float, 4>("k"), v = g.load<float, 4>("v"),
               out = g.load<float, 4>("out");
    const auto lse = g.load<float, 3>("lse");
    tensor<float, 4> actual(out.extent(0), out.extent(1), out.extent(2), out.extent(3));
    tensor<float, 3> actual_lse(lse.extent(0), lse.extent(1), lse.extent(2));
    attention::forward(cpu{}, op, q, k, v, actual, actual_lse);
    REQUIRE(distance(actual, out) <= 4e-6 * std::max(1.0, largest(out)));
    REQUIRE(distance(actual_lse, lse) <= 4e-6 * std::max(1.0, largest(lse)));
  };
  check(golden("masks-multimodal", "fwbc_text_video_text"), test::frames);
  check(golden("masks-multimodal", "fwbc_two_videos"), test::frames);
  check(golden("masks-multimodal", "favor_block_causal"), test::frames_of_tokens);
  check(golden("masks-multimodal", "var_scale_causal_1234"), test::levels);
  check(golden("masks-multimodal", "ccam_divisible"), test::queries_of_frames);
  check(golden("masks-multimodal", "ccam_nondivisible_floor"), test::queries_of_frames);
  check(golden("masks-multimodal", "ccam_nondivisible_ceil"), test::queries_of_frames);
  check(golden("masks-multimodal", "ccam_more_frames_than_queries_ceil"), test::queries_of_frames);
  check(golden("masks-multimodal", "seed_qformer_queries"), test::causal_queries);
  check(golden("masks-multimodal", "seed_qformer_joint"), test::causal_queries);
  check(golden("masks-multimodal", "seed_qformer_decoder_text"), test::causal_queries);
  check(golden("masks-multimodal", "dar_encoder_and_groups"), test::patches_and_queries);
}

TEST_CASE("label masks: too few labels are refused before anything is written", "[attention][errors]") {
  const mask::labels labels(std::vector<std::int32_t>(20, 0));
  const attention::softmax op{mask::by_label{mask::causal{}, labels.rows(), labels.rows()}};
  tensor<float, 4> q(1, 1, 5, 8), k(1, 1, 21, 8), out(1, 1, 5, 8);
  out.fill(9.0f);
  REQUIRE_THROWS_WITH(attention::forward(cpu{}, op, q, k, k, out),
                      ContainsSubstring("mask::by_label: the table is for"));
  for (const float x : out) REQUIRE(x == 9.0f);
}
