// SPDX-License-Identifier: Apache-2.0
#include "support/rows.hpp"

using namespace seqprim;
using namespace seqprim::sampling;
using test::applied;
using test::defined;

TEST_CASE("top_k: keeps what the definition keeps, for every count", "[sampling][property]") {
  test::random_numbers random(21);
  for (int kind = 0; kind < 30; ++kind) {
    const auto vocab = random.integer(1, 90);
    const auto row = test::random_row(random, vocab, kind);
    for (index_t count = -1; count <= vocab + 1; ++count) {
      CAPTURE(kind, vocab, count);
      REQUIRE(applied(top_k{count}, row) == defined(top_k{count}, row));
    }
  }
}

TEST_CASE("top_k: keeps what the definition keeps in a large vocabulary", "[sampling][property]") {
  test::random_numbers random(22);
  for (int kind = 0; kind < 6; ++kind) {
    const auto row = test::random_row(random, 50257, kind);
    for (const index_t count : {1, 2, 50, 1000, 50256}) {
      CAPTURE(kind, count);
      REQUIRE(applied(top_k{count}, row) == defined(top_k{count}, row));
    }
  }
}

TEST_CASE("top_k: is exact, with ties by the lower token id", "[sampling]") {
  const float out = excluding_logit;
  REQUIRE(applied(top_k{2}, {1.0f, 4.0f, 4.0f, 4.0f}) == std::vector<float>{out, 4.0f, 4.0f, out});
  REQUIRE(applied(top_k{1}, {-0.0f, 0.0f}) == std::vector<float>{0.0f, out});  // both zeros are one value
  REQUIRE(applied(top_k{3}, {out, 1.0f, out}) == std::vector<float>{out, 1.0f, out});
}

TEST_CASE("top_k: rejects counts past 2^31 - 1", "[sampling][errors]") {
  REQUIRE_THROWS_WITH(top_k{index_t{1} << 31}.validate(), ContainsSubstring("top_k: the count (2147483648)"));
  REQUIRE_NOTHROW(top_k{-5}.validate());
}
