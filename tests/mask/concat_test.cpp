// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/mask.hpp>

#include <cstdint>
#include <mask/brute_force.hpp>
#include <support/catch.hpp>
#include <vector>

using namespace seqprim;

TEST_CASE("key_concat: each mask decides about its keys", "[mask][property]") {
  const auto border = GENERATE(as<index_t>{}, 0, 1, 16, 40, 83, 100);
  CAPTURE(border);
  const mask::causal first;
  const mask::sliding_window second{.left = 30, .right = 6};
  const auto m = mask::key_concat(first, border, second);
  for (index_t q = 0; q < 61; ++q)
    for (index_t k = 0; k < 83; ++k) REQUIRE(m(q, k) == (k < border ? first(q, k) : second(q, k - border)));
  test::require_exact(m, 61, 83);
  test::require_exact(mask::key_concat(mask::full{}, border, mask::full{}), 61, 83);
  test::require_exact(mask::key_concat(first, border, mask::transposed{first}), 61, 83);
}

TEST_CASE("query_concat: each mask decides about its queries", "[mask][property]") {
  const auto border = GENERATE(as<index_t>{}, 0, 1, 16, 40, 61, 100);
  CAPTURE(border);
  const mask::causal first;
  const mask::sliding_window second{.left = 30, .right = 6};
  const auto m = mask::query_concat(first, border, second);
  for (index_t q = -20; q < 61; ++q)
    for (index_t k = 0; k < 83; ++k) REQUIRE(m(q, k) == (q < border ? first(q, k) : second(q - border, k)));
  test::require_exact(m, 61, 83);
  test::require_sound(mask::query_concat(first, border, mask::key_concat(second, 20, ~first)), 61, 83);
}

TEST_CASE("concat: masks of a batch row and head", "[mask][property]") {
  const std::vector<std::int32_t> lengths = {3, 20};
  const auto m = mask::key_concat(mask::key_padding{.lengths = lengths, .k_len = 20}, 20, mask::causal{});
  REQUIRE(mask::check(m, {.batch = 2, .q_len = 30, .k_len = 40}).ok());
  REQUIRE_FALSE(mask::bind(m, 0, 0)(5, 3));
  REQUIRE(mask::bind(m, 1, 0)(5, 3));
  REQUIRE(mask::bind(m, 0, 0)(5, 25));
}

TEST_CASE("concat: each part is validated for its side of the border", "[mask][errors]") {
  const tensor<bool, 2> left(10, 6), below(4, 9);
  const auto keys = mask::key_concat(mask::dense{left.view()}, 6, mask::causal{});
  mask::validate(keys, {.q_len = 10, .k_len = 500});
  REQUIRE_THROWS_AS(mask::validate(keys, {.q_len = 11, .k_len = 500}), precondition_error);
  REQUIRE_THROWS_AS(
      mask::validate(mask::key_concat(mask::dense{left.view()}, 7, mask::causal{}), {.q_len = 10, .k_len = 7}),
      precondition_error);
  const auto queries = mask::query_concat(mask::full{}, 20, mask::dense{below.view()});
  mask::validate(queries, {.q_len = 24, .k_len = 9});
  mask::validate(queries, {.q_len = 10, .k_len = 9, .start = 14});
  REQUIRE_THROWS_AS(mask::validate(queries, {.q_len = 25, .k_len = 9}), precondition_error);
  REQUIRE_THROWS_WITH(mask::validate(mask::key_concat(mask::full{}, -1, mask::full{})),
                      "mask::concat: length (-1) must be >= 0. See docs/reference/mask/concat.md");
}
