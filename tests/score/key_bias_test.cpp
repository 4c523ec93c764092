// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/score/key_bias.hpp>

#include <support/catch.hpp>
#include <support/random.hpp>

using namespace seqprim;

TEST_CASE("key_bias: adds the entry of the key, of its batch row and head where they differ", "[score]") {
  test::random_numbers random(3);
  for (const index_t batch : {1, 2})
    for (const index_t heads : {1, 3}) {
      tensor<float, 3> bias(batch, heads, 7);
      random.fill(bias);
      const score::key_bias f{bias.view()};
      score::validate(f, {.batch = 2, .heads = 3, .q_len = 9, .k_len = 7, .start = -2});
      for (index_t b = 0; b < 2; ++b)
        for (index_t h = 0; h < 3; ++h)
          for (index_t k = 0; k < 7; ++k) {
            const auto bound = score::bind(f, b, h);
            const float expected = bias(b % batch, h % heads, k);
            REQUIRE(bound(2.0f, {40, k}) == 2.0f + expected);
            REQUIRE(bound(2.0, {40, k}) == 2.0 + static_cast<double>(expected));
            REQUIRE(bound.derivative(2.0f, {40, k}) == 1.0f);
          }
    }
}

TEST_CASE("key_bias: rejects tables that do not fit the call", "[score][errors]") {
  // example-begin key_bias
  tensor<float, 3> log_weights(1, 1, 8);  // one weight for each of 8 keys, the same in every batch row and head
  const score::key_bias weighted{log_weights.view()};
  // example-end key_bias
  REQUIRE_NOTHROW(score::validate(weighted, {.batch = 4, .heads = 3, .q_len = 2, .k_len = 8}));
  REQUIRE_THROWS_WITH(score::validate(weighted, {.k_len = 9}),
                      ContainsSubstring("score::key_bias: bias is for 8 keys but k_len is 9. See "));
  const tensor<float, 3> other(2, 3, 8);
  REQUIRE_THROWS_WITH(score::validate(score::key_bias{other.view()}, {.batch = 3, .heads = 3, .k_len = 8}),
                      ContainsSubstring("bias has 2 batch rows (axis 0) but the call has 3"));
  REQUIRE_THROWS_WITH(score::validate(score::key_bias{other.view()}, {.batch = 2, .heads = 6, .k_len = 8}),
                      ContainsSubstring("bias has 3 heads (axis 1) but the call has 6"));
  REQUIRE_THROWS_WITH(
      score::validate(score::key_bias{other.view().transposed(1, 2)}, {.batch = 2, .heads = 8, .k_len = 3}),
      ContainsSubstring("the last axis of bias must be contiguous, its stride is 8"));
}
