// SPDX-License-Identifier: Apache-2.0
#include "support/rows.hpp"

using namespace seqprim;
using namespace seqprim::sampling;

TEST_CASE("greedy: takes the first token of the total order", "[sampling][property]") {
  test::random_numbers random(51);
  for (int kind = 0; kind < 60; ++kind) {
    const auto row = test::random_row(random, random.integer(1, 100), kind);
    const auto expected = static_cast<index_t>(reference::total_order(row).front());
    REQUIRE(sample(cpu{}, greedy{}, test::view_of(row), {}).token == expected);
    REQUIRE(sample(cpu{}, temperature{0.0f} | draw{}, test::view_of(row), {}).token == expected);
    REQUIRE(sample(cpu{}, temperature{0.0f} | gumbel_max{}, test::view_of(row), {}).token == expected);
    REQUIRE(sample(cpu{}, top_k{1} | draw{}, test::view_of(row), {}).token == expected);
    REQUIRE(sample(cpu{}, top_p{0.0f} | gumbel_max{}, test::view_of(row), {}).token == expected);
    std::vector<float> p(row.size());
    REQUIRE(probabilities(cpu{}, greedy{}, test::view_of(row), test::view_of(p)) == row_status::ok);
    for (std::size_t v = 0; v < p.size(); ++v) REQUIRE(p[v] == (static_cast<index_t>(v) == expected ? 1.0f : 0.0f));
  }
}
