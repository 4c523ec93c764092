// SPDX-License-Identifier: Apache-2.0
#include "support/rows.hpp"

using namespace seqprim;
using namespace seqprim::sampling;
using test::applied;
using test::defined;

TEST_CASE("top_p: keeps what the definition keeps", "[sampling][property]") {
  test::random_numbers random(31);
  int compared = 0;
  for (int kind = 0; kind < 60; ++kind) {
    const auto vocab = kind % 10 == 9 ? index_t{30011} : random.integer(1, 300);
    const auto row = test::random_row(random, vocab, kind);
    for (const float mass : {0.0f, 1e-6f, 0.1f, 0.49f, 0.8f, 0.95f, 0.999f, 1.0f}) {
      // Weights are cut to 2^-32 of the likeliest token, each at most one unit: that much either answer is right.
      if (test::margin_of_mass(row, static_cast<double>(mass)) < static_cast<double>(vocab) * 0x1p-31 + 1e-6) continue;
      CAPTURE(kind, vocab, mass);
      REQUIRE(applied(top_p{mass}, row) == defined(top_p{mass}, row));
      ++compared;
    }
  }
  REQUIRE(compared > 300);
}

TEST_CASE("top_p: after another filter it asks about the probabilities that are left", "[sampling][property]") {
  test::random_numbers random(32);
  int compared = 0;
  for (int round = 0; round < 100; ++round) {
    const auto row = test::random_row(random, random.integer(2, 200), 0);
    const auto stages = temperature{0.7f} | top_k{random.integer(1, 30)};
    const auto left = defined(stages, row);
    if (test::margin_of_mass(left, 0.6) < 1e-5) continue;
    REQUIRE(applied(stages | top_p{0.6f}, row) == defined(stages | top_p{0.6f}, row));
    ++compared;
  }
  REQUIRE(compared > 80);
}

TEST_CASE("top_p: among equal logits the lower ids are kept, exactly as many as the mass needs", "[sampling]") {
  const float out = excluding_logit;
  const std::vector<float> eight(8, -3.0f);
  for (int kept = 1; kept <= 8; ++kept) {
    std::vector<float> expected(8, out);
    for (int i = 0; i < kept; ++i) expected[static_cast<std::size_t>(i)] = -3.0f;
    CAPTURE(kept);
    REQUIRE(applied(top_p{static_cast<float>(kept) / 8}, eight) == expected);  // before < mass, exactly
    REQUIRE(applied(top_p{static_cast<float>(kept) / 8 - 0.01f}, eight) == expected);
  }
  REQUIRE(applied(top_p{0.0f}, eight)[0] == -3.0f);
  REQUIRE(applied(top_p{0.0f}, eight)[1] == out);
}

TEST_CASE("top_p: adding a constant to the logits changes nothing when the sums are exact", "[sampling][property]") {
  test::random_numbers random(33);
  std::vector<float> row(100), shifted(100);
  for (std::size_t v = 0; v < row.size(); ++v) {
    row[v] = static_cast<float>(random.integer(-40, 40)) / 8.0f;
    shifted[v] = row[v] + 16.0f;
  }
  const auto a = applied(top_p{0.9f}, row), b = applied(top_p{0.9f}, shifted);
  for (std::size_t v = 0; v < row.size(); ++v) REQUIRE(excluded(a[v]) == excluded(b[v]));
}

TEST_CASE("top_p: rejects masses outside [0, 1] and NaN", "[sampling][errors]") {
  REQUIRE_THROWS_WITH(top_p{1.5f}.validate(), ContainsSubstring("top_p: the mass (1.5) must be in [0, 1]"));
  REQUIRE_THROWS_AS(top_p{-0.1f}.validate(), precondition_error);
  REQUIRE_THROWS_AS(top_p{test::not_a_number}.validate(), precondition_error);
  REQUIRE_NOTHROW(top_p{0.0f}.validate());
}
