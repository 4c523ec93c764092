// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/score/relative_bias.hpp>

#include <algorithm>
#include <limits>
#include <support/catch.hpp>
#include <support/random.hpp>

using namespace seqprim;

TEST_CASE("relative_bias: adds the entry of the distance, beyond the table that of the nearest", "[score]") {
  test::random_numbers random(5);
  for (const index_t heads : {1, 3})
    for (const index_t least : {-6, -2, 0, 3}) {
      tensor<float, 2> table(heads, 8);
      random.fill(table);
      const score::relative_bias f{table.view(), least};
      score::validate(f, {.batch = 2, .heads = 3, .q_len = 20, .k_len = 20});
      for (index_t h = 0; h < 3; ++h)
        for (index_t q = 0; q < 20; ++q)
          for (index_t k = 0; k < 20; ++k) {
            const auto bound = score::bind(f, 1, h);
            const float expected = table(h % heads, std::clamp<index_t>(k - q, least, least + 7) - least);
            REQUIRE(bound(2.0f, {q, k}) == 2.0f + expected);
            REQUIRE(bound(2.0, {q, k}) == 2.0 + static_cast<double>(expected));
            REQUIRE(bound.derivative(2.0f, {q, k}) == 1.0f);
          }
    }
}

TEST_CASE("relative_bias: rejects tables that do not fit the call", "[score][errors]") {
  // example-begin relative_bias
  tensor<float, 2> table(8, 33);                              // 8 heads, distances -32 .. 0
  const score::relative_bias m{table.view(), /*least=*/-32};  // keys more than 32 tokens back have the bias of -32
  // example-end relative_bias
  REQUIRE_NOTHROW(score::validate(m, {.batch = 4, .heads = 8, .q_len = 96, .k_len = 5000}));
  REQUIRE_THROWS_WITH(score::validate(m, {.heads = 4}),
                      ContainsSubstring("score::relative_bias: table has 8 heads (axis 0) but the call has 4. See "));
  REQUIRE_THROWS_WITH(score::validate(score::relative_bias{table.view().slice(1, {0, 0})}),
                      ContainsSubstring("table has no distances (axis 1)"));
  REQUIRE_THROWS_WITH(score::validate(score::relative_bias{table.view(), std::numeric_limits<index_t>::max() - 1}),
                      ContainsSubstring("least (9223372036854775806) must be in [-2^62, 2^62]"));
  REQUIRE_THROWS_WITH(score::validate(score::relative_bias{table.view().transposed(0, 1)}),
                      ContainsSubstring("the last axis of table must be contiguous, its stride is 33"));
}
