// SPDX-License-Identifier: Apache-2.0
#include "support/rows.hpp"

using namespace seqprim;
using namespace seqprim::sampling;
using test::applied;

namespace {

struct ban {  // an elementwise stage of a user
  index_t token;
  float operator()(float logit, index_t at) const { return at == token ? excluding_logit : logit; }
};
struct above_zero {  // a threshold of a user
  float cutoff(const row_summary&) const { return 0.0f; }
};
struct joint {  // two limits on the same probabilities
  index_t count;
  float mass;
  prefix limit(const row_summary&) const { return {.count = count, .mass = mass}; }
};
struct temperature_per_row {
  const float* values;
  temperature bind(index_t row) const { return {values[row]}; }
};
struct last_token {  // a terminal stage of a user
  index_t choose(const candidates& row, const random_stream&) const { return row.token(row.count - 1); }
  void law(const candidates& row, tensor_view<float, 1> out) const { out(row.token(row.count - 1)) = 1.0f; }
};

}  // namespace

TEST_CASE("stage: the three kinds and the terminal ones are told apart at compile time", "[sampling]") {
  STATIC_REQUIRE((elementwise<ban> && !threshold<ban> && !order<ban> && !terminal<ban>));
  STATIC_REQUIRE((threshold<min_p> && order<top_k> && order<top_p> && elementwise<temperature>));
  STATIC_REQUIRE((terminal<draw> && terminal<greedy> && terminal<gumbel_max> && !transforming<draw>));
  STATIC_REQUIRE((stage<ban> && stage<draw> && stage<temperature_per_row> && !stage<int> && !stage<row_summary>));
  auto sampler = temperature{1.0f} | top_k{2} | draw{};
  STATIC_REQUIRE(require_sampler<decltype(sampler)>());
  STATIC_REQUIRE(std::is_trivially_copyable_v<decltype(sampler)>);
  STATIC_REQUIRE(require_transforms<decltype(temperature{1.0f} | top_k{2})>());
  const auto front = temperature{1.0f} | top_k{2};
  const auto back = top_p{0.5f} | draw{};
  STATIC_REQUIRE(require_sampler<decltype(front | back)>());  // chains compose like stages
}

TEST_CASE("stage: the order of the chain is the order of the operations", "[sampling]") {
  const std::vector<float> row{3.0f, 2.0f, 1.0f, 0.0f};
  const float out = excluding_logit;
  REQUIRE(applied(ban{0} | top_k{2}, row) == std::vector<float>{out, 2.0f, 1.0f, out});
  REQUIRE(applied(top_k{2} | ban{0}, row) == std::vector<float>{out, 2.0f, out, out});
  // At temperature 1, 0.64 + 0.24 reaches 0.8 with two tokens; at temperature 4 it takes three.
  REQUIRE(applied(top_p{0.8f} | temperature{4.0f}, row) == std::vector<float>{0.75f, 0.5f, out, out});
  REQUIRE(applied(temperature{4.0f} | top_p{0.8f}, row) == std::vector<float>{0.75f, 0.5f, 0.25f, out});
}

TEST_CASE("stage: stages of the user take part like those of the library", "[sampling]") {
  const std::vector<float> row{3.0f, -2.0f, 1.0f, 0.0f};
  const float out = excluding_logit;
  REQUIRE(applied(above_zero{}, row) == std::vector<float>{3.0f, out, 1.0f, 0.0f});
  REQUIRE(applied(joint{2, 1.0f}, row) == std::vector<float>{3.0f, out, 1.0f, out});
  const sampled last = sample(cpu{}, above_zero{} | last_token{}, test::view_of(row), {});
  REQUIRE((last.token == 3 && last.status == row_status::ok));
  const auto bias = [](float logit, index_t token) { return token == 1 ? logit + 10.0f : logit; };
  REQUIRE(sample(cpu{}, bias | greedy{}, test::view_of(row), {}).token == 1);
}

TEST_CASE("stage: two limits at once ask about the same probabilities", "[sampling]") {
  // p = 0.64 0.24 0.09 0.03. Alone, mass 0.95 keeps three tokens; after top_k{2} it would keep two of two.
  const std::vector<float> row{3.0f, 2.0f, 1.0f, 0.0f};
  const float out = excluding_logit;
  REQUIRE(applied(joint{2, 0.95f}, row) == std::vector<float>{3.0f, 2.0f, out, out});
  REQUIRE(applied(joint{3, 0.7f}, row) == std::vector<float>{3.0f, 2.0f, out, out});
  // 0.72 and 0.28 after top_k{2}: a mass of 0.7 is reached by the first token, 0.64 of the whole row is not.
  REQUIRE(applied(top_k{2} | top_p{0.7f}, row) == std::vector<float>{3.0f, out, out, out});
  REQUIRE(applied(joint{2, 0.7f}, row) == std::vector<float>{3.0f, 2.0f, out, out});
}

TEST_CASE("stage: parameters may differ between rows", "[sampling]") {
  const float values[] = {0.0f, 1.0f, 0.5f};
  const auto sampler = temperature_per_row{values} | draw{};
  tensor<float, 2> logits(3, 50);
  test::random_numbers random(1);
  random.fill(logits);
  tensor<index_t, 1> tokens(3);
  tensor<row_status, 1> status(3);
  tensor<std::uint32_t, 1> requests(3), steps(3);
  sample(cpu{}, sampler, logits, tokens, status, 5, requests, steps);
  for (index_t i = 0; i < 3; ++i) {
    const auto expected = sample(cpu{}, temperature{values[i]} | draw{}, logits.view()[i], {.seed = 5});
    REQUIRE(tokens(i) == expected.token);
  }
}

TEST_CASE("stage: a stage that breaks a row gives it a status, not a token", "[sampling]") {
  const std::vector<float> row{1.0f, 2.0f};
  const auto to_nan = [](float, index_t) { return test::not_a_number; };
  const auto to_infinity = [](float, index_t) { return test::infinity; };
  const auto to_nothing = [](float, index_t) { return excluding_logit; };
  REQUIRE(sample(cpu{}, to_nan | top_k{1} | draw{}, test::view_of(row), {}).status == row_status::nan);
  REQUIRE(sample(cpu{}, to_infinity | top_p{0.5f} | draw{}, test::view_of(row), {}).status == row_status::infinite);
  const sampled none = sample(cpu{}, to_nothing | min_p{0.5f} | draw{}, test::view_of(row), {});
  REQUIRE((none.status == row_status::all_masked && none.token == -1));
}
