// SPDX-License-Identifier: Apache-2.0
#include "support/rows.hpp"

using namespace seqprim;
using namespace seqprim::sampling;

namespace {

struct batch {
  batch(index_t rows, index_t vocab) : logits(rows, vocab), tokens(rows), status(rows), requests(rows), steps(rows) {
    for (index_t i = 0; i < rows; ++i) {
      requests(i) = static_cast<std::uint32_t>(100 + i);
      steps(i) = static_cast<std::uint32_t>(7 * i);
    }
  }
  template <class Chain> void run(const Chain& chain, int threads = 0) {
    sample(cpu{.threads = threads}, chain, logits, tokens, status, 42, requests, steps);
  }
  tensor<float, 2> logits;
  tensor<index_t, 1> tokens;
  tensor<row_status, 1> status;
  tensor<std::uint32_t, 1> requests, steps;
};

void fill(batch& b, std::uint64_t seed) {
  test::random_numbers random(seed);
  for (index_t i = 0; i < b.logits.extent(0); ++i) {
    const auto row = test::random_row(random, b.logits.extent(1), static_cast<int>(i));
    for (index_t v = 0; v < b.logits.extent(1); ++v) b.logits(i, v) = row[static_cast<std::size_t>(v)];
  }
}

template <class Chain> void require_same_tokens_everywhere(const Chain& chain) {
  batch all(37, 301);
  fill(all, 81);
  all.logits(5, 17) = test::not_a_number;
  all.run(chain, 1);
  for (const int threads : {2, 3, 8}) {
    batch other(37, 301);
    other.logits = all.logits;
    other.run(chain, threads);
    for (index_t i = 0; i < 37; ++i) REQUIRE(other.tokens(i) == all.tokens(i));
  }
  for (index_t i = 0; i < 37; ++i) {  // alone, and in another place of another batch
    const random_stream stream{.seed = 42, .request = all.requests(i), .step = all.steps(i)};
    const sampled one = sample(cpu{}, chain, all.logits.view()[i], stream);
    REQUIRE((one.token == all.tokens(i) && one.status == all.status(i)));
  }
  batch reversed(37, 301);
  for (index_t i = 0; i < 37; ++i) {
    for (index_t v = 0; v < 301; ++v) reversed.logits(36 - i, v) = all.logits(i, v);
    reversed.requests(36 - i) = all.requests(i);
    reversed.steps(36 - i) = all.steps(i);
  }
  reversed.run(chain, 2);
  for (index_t i = 0; i < 37; ++i) REQUIRE(reversed.tokens(36 - i) == all.tokens(i));
}

}  // namespace

TEST_CASE("sample: a token depends on its row and its stream only", "[sampling][property]") {
  require_same_tokens_everywhere(greedy{});
  require_same_tokens_everywhere(temperature{0.8f} | draw{});
  require_same_tokens_everywhere(temperature{0.8f} | gumbel_max{});
  require_same_tokens_everywhere(temperature{1.3f} | top_k{40} | top_p{0.9f} | min_p{0.01f} | draw{});
  require_same_tokens_everywhere(top_p{0.7f} | temperature{1.3f} | gumbel_max{});
}

TEST_CASE("sample: seed, request and step each lead to other tokens", "[sampling]") {
  const std::vector<float> row(1000, 0.0f);
  const auto token = [&](const random_stream& stream) {
    return sample(cpu{}, draw{}, test::view_of(row), stream).token;
  };
  const index_t base = token({.seed = 1, .request = 1, .step = 1});
  REQUIRE(token({.seed = 1, .request = 1, .step = 1}) == base);
  REQUIRE(token({.seed = 2, .request = 1, .step = 1}) != base);
  REQUIRE(token({.seed = 1, .request = 2, .step = 1}) != base);
  REQUIRE(token({.seed = 1, .request = 1, .step = 2}) != base);
}

TEST_CASE("sample: a broken row gets its status and token -1; its neighbors do not notice", "[sampling]") {
  batch healthy(6, 20), b(6, 20);
  fill(healthy, 82);
  b.logits = healthy.logits;
  b.logits(1, 3) = test::not_a_number;
  b.logits(2, 0) = test::infinity;
  for (index_t v = 0; v < 20; ++v) b.logits(3, v) = excluding_logit;
  b.logits(4, 1) = test::infinity;  // NaN wins
  b.logits(4, 2) = -test::not_a_number;
  const row_status expected[] = {row_status::ok,         row_status::nan, row_status::infinite,
                                 row_status::all_masked, row_status::nan, row_status::ok};
  const auto check = [&](const auto& chain) {
    healthy.run(chain);
    b.run(chain);
    for (index_t i = 0; i < 6; ++i) {
      CAPTURE(i);
      REQUIRE(b.status(i) == expected[i]);
      REQUIRE(b.tokens(i) == (expected[i] == row_status::ok ? healthy.tokens(i) : -1));
    }
  };
  check(greedy{});
  check(draw{});
  check(temperature{0.5f} | gumbel_max{});
  check(temperature{0.0f} | top_k{3} | top_p{0.5f} | min_p{0.5f} | draw{});
}

TEMPLATE_TEST_CASE("sample: float16 and bfloat16 logits are widened on load", "[sampling]", float16, bfloat16) {
  test::random_numbers random(83);
  tensor<TestType, 2> narrow(5, 200);
  random.fill(narrow, 3.0f);
  batch wide(5, 200);
  for (index_t i = 0; i < 5; ++i)
    for (index_t v = 0; v < 200; ++v) wide.logits(i, v) = static_cast<float>(narrow(i, v));
  const auto chain = temperature{0.9f} | top_k{50} | top_p{0.9f} | draw{};
  wide.run(chain);
  tensor<std::int32_t, 1> tokens(5);
  sample(cpu{}, chain, narrow, tokens, wide.status, 42, wide.requests, wide.steps);
  for (index_t i = 0; i < 5; ++i) REQUIRE(tokens(i) == wide.tokens(i));
}

TEST_CASE("sample: logits may be strided, tokens 32-bit, and there may be no rows", "[sampling]") {
  batch b(4, 50);
  fill(b, 84);
  const auto chain = temperature{0.9f} | top_p{0.8f} | gumbel_max{};
  b.run(chain);
  tensor<float, 2> columns(50, 4);
  for (index_t i = 0; i < 4; ++i)
    for (index_t v = 0; v < 50; ++v) columns(v, i) = b.logits(i, v);
  tensor<std::int32_t, 1> tokens(4);
  sample(cpu{}, chain, columns.view().transposed(0, 1), tokens, b.status, 42, b.requests, b.steps);
  for (index_t i = 0; i < 4; ++i) REQUIRE(tokens(i) == b.tokens(i));
  batch none(0, 50);
  REQUIRE_NOTHROW(none.run(chain));
}

TEST_CASE("sample: working memory of the caller gives the same tokens, and is enough", "[sampling]") {
  batch b(9, 700);
  fill(b, 85);
  const auto chain = temperature{0.9f} | top_k{50} | draw{};
  b.run(chain);
  const cpu executor{.threads = 3};
  tensor<std::byte, 1> workspace(workspace_bytes(executor, chain, 9, 700));
  tensor<index_t, 1> tokens(9);
  sample(executor, chain, b.logits, tokens, b.status, 42, b.requests, b.steps, workspace.view());
  for (index_t i = 0; i < 9; ++i) REQUIRE(tokens(i) == b.tokens(i));
  REQUIRE(workspace_bytes(executor, greedy{}, 9, 700) < workspace_bytes(executor, chain, 9, 700));
  REQUIRE(workspace_bytes(executor, chain, 1, 700) == 2 * 704 * 4);
  auto small = workspace.view().slice(0, {0, workspace.size() - 64});
  REQUIRE_THROWS_WITH(sample(executor, chain, b.logits, tokens, b.status, 42, b.requests, b.steps, small),
                      ContainsSubstring(message("sampling::sample: the workspace has ", small.size(), " bytes, ",
                                                workspace.size(), " are required")));
  tensor<std::byte, 1> larger(workspace.size() + 64);
  REQUIRE_THROWS_WITH(sample(executor, chain, b.logits, tokens, b.status, 42, b.requests, b.steps,
                             larger.view().slice(0, {8, larger.size()})),
                      ContainsSubstring("aligned to 64 bytes"));
  const tensor_view<std::byte, 1> logits_as_memory(reinterpret_cast<std::byte*>(b.logits.data()), workspace.size());
  REQUIRE_THROWS_WITH(sample(executor, chain, b.logits, tokens, b.status, 42, b.requests, b.steps, logits_as_memory),
                      ContainsSubstring("workspace overlaps logits. See docs/reference/sampling/sample.md"));
}

TEST_CASE("sample: refuses shapes that disagree, an empty vocabulary, overlap and bad parameters, and writes nothing",
          "[sampling][errors]") {
  batch b(3, 10);
  fill(b, 86);
  b.tokens.fill(77);
  const cpu executor;
  const auto chain = temperature{1.0f} | draw{};
  tensor<index_t, 1> two(2);
  tensor<row_status, 1> two_status(2);
  tensor<std::uint32_t, 1> two_words(2);
  REQUIRE_THROWS_WITH(sample(executor, chain, b.logits, two, b.status, 1, b.requests, b.steps),
                      ContainsSubstring("tokens has rows 2 (axis 0), but logits has rows 3"));
  REQUIRE_THROWS_AS(sample(executor, chain, b.logits, b.tokens, two_status, 1, b.requests, b.steps),
                    precondition_error);
  REQUIRE_THROWS_AS(sample(executor, chain, b.logits, b.tokens, b.status, 1, two_words, b.steps), precondition_error);
  REQUIRE_THROWS_AS(sample(executor, chain, b.logits, b.tokens, b.status, 1, b.requests, two_words),
                    precondition_error);
  REQUIRE_THROWS_WITH(sample(executor, chain, b.logits.view().slice(0, {2, 1}), b.tokens.view().slice(0, {2, 1}),
                             b.status, 1, b.requests, b.steps),
                      ContainsSubstring("axis 0 of logits has the negative length -1"));
  const tensor<float, 2> no_vocab(3, 0);
  REQUIRE_THROWS_WITH(sample(executor, chain, no_vocab, b.tokens, b.status, 1, b.requests, b.steps),
                      ContainsSubstring("vocab (0) must be in [1, 2147483647]"));
  tensor<std::int32_t, 1> words(3);
  const tensor_view<const std::uint32_t, 1> same(reinterpret_cast<const std::uint32_t*>(words.data()), 3);
  REQUIRE_THROWS_WITH(sample(executor, chain, b.logits, words, b.status, 1, same, b.steps),
                      ContainsSubstring("tokens overlaps requests. See docs/reference/sampling/sample.md"));
  REQUIRE_THROWS_AS(b.run(temperature{-1.0f} | draw{}), precondition_error);
  REQUIRE_THROWS_AS(b.run(top_k{4} | top_p{2.0f} | draw{}), precondition_error);
  REQUIRE_THROWS_AS(b.run(min_p{2.0f} | draw{}), precondition_error);
  REQUIRE_THROWS_AS(b.run(top_k{index_t{1} << 33} | draw{}), precondition_error);
  REQUIRE_THROWS_AS(b.run(chain, -1), precondition_error);
  for (const index_t token : b.tokens) REQUIRE(token == 77);
  std::vector<float> out(9);
  REQUIRE_THROWS_WITH(probabilities(executor, chain, b.logits.view()[0], test::view_of(out)),
                      ContainsSubstring("sampling::probabilities: out (9) must have the 10 tokens of logits"));
  REQUIRE_THROWS_AS(apply(executor, top_p{2.0f}, b.logits.view()[0], test::view_of(out)), precondition_error);
}

TEST_CASE("probabilities: are those of the definition for chains of every kind", "[sampling][property]") {
  test::random_numbers random(87);
  int compared = 0;
  for (int kind = 0; kind < 60; ++kind) {
    const auto row = test::random_row(random, random.integer(1, 400), kind);
    const auto front = temperature{0.8f} | top_k{random.integer(1, 60)};
    if (test::margin_of_mass(test::defined(front, row), 0.9) < 1e-5) continue;
    const auto chain = front | top_p{0.9f};
    const auto expected = reference::probabilities(chain, row);
    std::vector<float> p(row.size()), exact(row.size());
    REQUIRE(probabilities(cpu{}, chain, test::view_of(row), test::view_of(p)) == row_status::ok);
    REQUIRE(probabilities(cpu{}, chain | draw{}, test::view_of(row), test::view_of(exact)) == row_status::ok);
    for (std::size_t v = 0; v < row.size(); ++v) {
      CAPTURE(kind, v);
      const double exponent = -std::log(std::max(expected[v], 1e-40));  // rounded to float before det_exp
      REQUIRE(std::fabs(static_cast<double>(p[v]) - expected[v]) <=
              (3e-7 + exponent * 0x1p-24) * expected[v] + 1.7e-38);
      REQUIRE(std::fabs(static_cast<double>(exact[v]) - expected[v]) <= 3e-7 * expected[v] + 0x1p-32);
      REQUIRE((p[v] == 0.0f) == (expected[v] < 1.7e-38));
    }
    ++compared;
  }
  REQUIRE(compared > 40);
}

TEST_CASE("probabilities: zeros and a status for a broken row; in place is allowed", "[sampling]") {
  std::vector<float> row{1.0f, test::not_a_number, 2.0f};
  REQUIRE(probabilities(cpu{}, top_k{2}, test::view_of(row), test::view_of(row)) == row_status::nan);
  REQUIRE(row == std::vector<float>{0.0f, 0.0f, 0.0f});
  row = {0.0f, 0.0f, excluding_logit};
  REQUIRE(probabilities(cpu{}, gumbel_max{}, test::view_of(row), test::view_of(row)) == row_status::ok);
  REQUIRE(row == std::vector<float>{0.5f, 0.5f, 0.0f});
}
