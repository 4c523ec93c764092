// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/score/query_scale.hpp>

#include <cmath>
#include <support/catch.hpp>
#include <support/random.hpp>

using namespace seqprim;

TEST_CASE("query_scale: multiplies by the entry of the query, of its batch row and head where they differ", "[score]") {
  test::random_numbers random(4);
  for (const index_t batch : {1, 2})
    for (const index_t heads : {1, 3}) {
      tensor<float, 3> factors(batch, heads, 7);
      random.fill(factors);
      const score::query_scale f{factors.view()};
      score::validate(f, {.batch = 2, .heads = 3, .q_len = 4, .k_len = 90, .start = 3});
      for (index_t b = 0; b < 2; ++b)
        for (index_t h = 0; h < 3; ++h)
          for (index_t q = 0; q < 7; ++q) {
            const auto bound = score::bind(f, b, h);
            const float expected = factors(b % batch, h % heads, q);
            REQUIRE(bound(2.0f, {q, 40}) == 2.0f * expected);
            REQUIRE(bound(2.0, {q, 40}) == 2.0 * static_cast<double>(expected));
            REQUIRE(bound.derivative(2.0f, {q, 40}) == expected);
          }
    }
}

TEST_CASE("query_scale: rejects tables that do not fit the call", "[score][errors]") {
  // example-begin query_scale
  tensor<float, 3> factors(1, 1, 4096);  // longer contexts than 512 tokens, sharper logits
  for (index_t q = 0; q < 4096; ++q)
    factors(0, 0, q) = std::fmax(1.0f, std::log(static_cast<float>(q + 1)) / std::log(512.0f));
  const score::query_scale sharper{factors.view()};
  // example-end query_scale
  REQUIRE_NOTHROW(score::validate(sharper, {.batch = 4, .heads = 3, .q_len = 96, .k_len = 5000, .start = 4000}));
  REQUIRE_NOTHROW(score::validate(sharper, {.q_len = 0, .k_len = 5, .start = 5000}));
  REQUIRE_THROWS_WITH(score::validate(sharper, {.q_len = 97, .k_len = 5000, .start = 4000}),
                      ContainsSubstring("score::query_scale: factors is for queries at [0, 4096) but those of the call "
                                        "are at [4000, 4097); softmax::starting_at says where they are"));
  REQUIRE_THROWS_WITH(score::validate(sharper, {.q_len = 5, .k_len = 4, .start = -1}), ContainsSubstring("[-1, 4)"));
}
