// SPDX-License-Identifier: Apache-2.0
#include "support/rows.hpp"

using namespace seqprim;
using namespace seqprim::sampling;
using test::applied;
using test::defined;

TEST_CASE("temperature: scales the logits as the definition does, bit for bit", "[sampling][property]") {
  test::random_numbers random(11);
  for (int kind = 0; kind < 24; ++kind) {
    const auto row = test::random_row(random, 1 + 13 * kind, kind);
    for (const float value : {1.0f, 0.7f, 3.0f, 1e-3f, 1e-30f, 1e-37f, 1e-44f, 0.0f}) {
      CAPTURE(kind, value);
      REQUIRE(applied(temperature{value}, row) == defined(temperature{value}, row));
    }
  }
}

TEST_CASE("temperature: zero keeps the first token of the total order, infinity makes tokens equal", "[sampling]") {
  const std::vector<float> ties{1.0f, 5.0f, 5.0f, excluding_logit};
  const float out = excluding_logit;
  REQUIRE(applied(temperature{0.0f}, ties) == std::vector<float>{out, 5.0f, out, out});
  std::vector<float> p(4);
  REQUIRE(probabilities(cpu{}, temperature{test::infinity}, test::view_of(ties), test::view_of(p)) == row_status::ok);
  REQUIRE(p == std::vector<float>{1.0f / 3.0f, 1.0f / 3.0f, 1.0f / 3.0f, 0.0f});
}

TEST_CASE("temperature: values too small for a float act like zero, for maxima of any sign", "[sampling]") {
  const float out = excluding_logit;
  for (const float tiny : {1e-38f, 1e-40f, std::numeric_limits<float>::denorm_min()})
    for (const float shift : {0.0f, 100.0f, -100.0f}) {
      CAPTURE(tiny, shift);
      const auto kept = applied(temperature{tiny}, {shift + 1.0f, shift + 8.0f, shift - 30.0f});
      REQUIRE((kept[0] == out && kept[1] != out && kept[2] == out));
    }
}

TEST_CASE("temperature: rejects negative values and NaN", "[sampling][errors]") {
  REQUIRE_THROWS_WITH(temperature{-0.5f}.validate(), ContainsSubstring("temperature: the value (-0.5) must be >= 0"));
  REQUIRE_THROWS_AS(temperature{test::not_a_number}.validate(), precondition_error);
  REQUIRE_NOTHROW(temperature{0.0f}.validate());
  REQUIRE_NOTHROW(temperature{test::infinity}.validate());
}
