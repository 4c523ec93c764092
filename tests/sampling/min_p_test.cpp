// SPDX-License-Identifier: Apache-2.0
#include "support/rows.hpp"

using namespace seqprim;
using namespace seqprim::sampling;
using test::applied;
using test::defined;

TEST_CASE("min_p: keeps what the definition keeps", "[sampling][property]") {
  test::random_numbers random(41);
  int compared = 0;
  for (int kind = 0; kind < 60; ++kind) {
    const auto row = test::random_row(random, random.integer(1, 300), kind);
    for (const float ratio : {0.0f, 1e-30f, 0.01f, 0.3f, 0.9f}) {
      const float max = *std::max_element(row.begin(), row.end());
      double margin = 1;
      for (const float x : row)
        margin = std::min(margin, std::fabs(static_cast<double>(x) - static_cast<double>(max) -
                                            std::log(static_cast<double>(ratio))));
      // The cutoff is rounded to a float of the size of the maximum.
      if (margin < 1e-5 + 1e-6 * std::fabs(static_cast<double>(max))) continue;
      CAPTURE(kind, ratio);
      REQUIRE(applied(min_p{ratio}, row) == defined(min_p{ratio}, row));
      ++compared;
    }
  }
  REQUIRE(compared > 250);
}

TEST_CASE("min_p: a ratio of one keeps the ties of the maximum, zero keeps everything", "[sampling]") {
  const float out = excluding_logit;
  REQUIRE(applied(min_p{1.0f}, {2.0f, 7.0f, 7.0f, 1.0f}) == std::vector<float>{out, 7.0f, 7.0f, out});
  REQUIRE(applied(min_p{0.0f}, {2.0f, -1e30f, out}) == std::vector<float>{2.0f, -1e30f, out});
}

TEST_CASE("min_p: commutes with top_k", "[sampling][property]") {
  test::random_numbers random(42);
  for (int round = 0; round < 50; ++round) {
    const auto row = test::random_row(random, 64, round);
    REQUIRE(applied(min_p{0.1f} | top_k{7}, row) == applied(top_k{7} | min_p{0.1f}, row));
  }
}

TEST_CASE("min_p: rejects ratios outside [0, 1] and NaN", "[sampling][errors]") {
  REQUIRE_THROWS_WITH(min_p{-0.25f}.validate(), ContainsSubstring("min_p: the ratio (-0.25) must be in [0, 1]"));
  REQUIRE_THROWS_AS(min_p{1.5f}.validate(), precondition_error);
  REQUIRE_THROWS_AS(min_p{test::not_a_number}.validate(), precondition_error);
}
