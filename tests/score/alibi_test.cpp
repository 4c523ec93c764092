// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/score/alibi.hpp>

#include <cmath>
#include <support/catch.hpp>

using namespace seqprim;

TEST_CASE("alibi: the slopes of a power of two of heads are a geometric ladder", "[score]") {
  for (const index_t heads : {1, 2, 8, 16, 64})
    for (index_t h = 0; h < heads; ++h) {
      CAPTURE(heads, h);
      const auto exact = static_cast<float>(std::exp2(-8.0 * static_cast<double>(h + 1) / static_cast<double>(heads)));
      REQUIRE(score::alibi_slope(h, heads) == exact);
    }
}

TEST_CASE("alibi: other numbers of heads continue with every second rung of the longer ladder", "[score]") {
  for (index_t h = 0; h < 4; ++h) REQUIRE(score::alibi_slope(h, 6) == score::alibi_slope(h, 4));
  REQUIRE(score::alibi_slope(4, 6) == score::alibi_slope(0, 8));
  REQUIRE(score::alibi_slope(5, 6) == score::alibi_slope(2, 8));
  REQUIRE(score::alibi_slope(3, 4, 16.0f) == 0x1p-16f);
}

TEST_CASE("alibi: lowers a logit by slope times distance", "[score]") {
  const auto bias = score::bind(score::alibi{.heads = 4}, 0, 1);
  REQUIRE(bias.slope == 1.0f / 16);
  REQUIRE(bias(2.0f, {13, 5}) == 2.0f - 8.0f / 16);
  REQUIRE(bias(2.0f, {13, 13}) == 2.0f);
  REQUIRE(bias(2.0f, {13, 15}) == 2.0f + 2.0f / 16);
  REQUIRE(bias.derivative(2.0f, {13, 5}) == 1.0f);
  const auto both = score::bind(score::alibi{.heads = 4, .bidirectional = true}, 0, 1);
  REQUIRE(both(2.0f, {13, 15}) == 2.0f - 2.0f / 16);
  REQUIRE(both(2.0, {13, 15}) == 2.0 - 2.0 / 16);
}

TEST_CASE("alibi_table: takes the slope of the head from the table", "[score]") {
  tensor<float, 1> slopes(3);
  slopes(2) = 0.75f;
  const score::alibi_table m{.slopes = slopes.view()};
  REQUIRE(score::bind(m, 5, 2)(0.0f, {5, 1}) == -3.0f);
  REQUIRE(score::bind(m, 5, 1)(0.0f, {5, 1}) == 0.0f);
}

TEST_CASE("alibi: rejects wrong numbers of heads and a slope range out of bounds", "[score][errors]") {
  REQUIRE_THROWS_AS(score::validate(score::alibi{.heads = 0}), precondition_error);
  REQUIRE_THROWS_AS(score::validate(score::alibi{.heads = 4, .max_bias = 0.0f}), precondition_error);
  REQUIRE_THROWS_AS(score::validate(score::alibi{.heads = 4, .max_bias = 2000.0f}), precondition_error);
  REQUIRE_THROWS_AS(score::validate(score::alibi{.heads = 4, .max_bias = std::nanf("")}), precondition_error);
  REQUIRE_NOTHROW(score::validate(score::alibi{.heads = 4}, {.batch = 2, .heads = 4}));
  REQUIRE_THROWS_WITH(score::validate(score::alibi{.heads = 4}, {.batch = 2, .heads = 6}),
                      ContainsSubstring("heads (4) is not the number of query heads (6)"));
  const tensor<float, 1> slopes(3);
  REQUIRE_NOTHROW(score::validate(score::alibi_table{.slopes = slopes.view()}, {.batch = 2, .heads = 3}));
  REQUIRE_THROWS_WITH(score::validate(score::alibi_table{.slopes = slopes.view()}, {.batch = 2, .heads = 4}),
                      ContainsSubstring("3 slopes for 4 query heads"));
}
