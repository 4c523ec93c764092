// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/mask.hpp>

#include <cstdint>
#include <mask/brute_force.hpp>
#include <support/catch.hpp>
#include <vector>

using namespace seqprim;

TEST_CASE("transposed: queries and keys exchange places, as exactly as before", "[mask][property]") {
  const auto with = [](const auto& m) {
    const mask::transposed t{m};
    test::require_exact(t, 61, 83);
    for (index_t q = -20; q < 61; ++q)
      for (index_t k = 0; k < 83; ++k) REQUIRE(t(q, k) == m(k, q));
  };
  with(mask::causal{});
  with(mask::causal_window(9));
  with(mask::prefix{.length = 12});
  with(mask::attention_sinks{.sinks = 3, .window = 8});
  with(mask::by_label{mask::causal{}, mask::blocks_of{7}, mask::blocks_of{5}});
}

TEST_CASE("transposed: the ancestors in a tree, from the ranges of its subtrees", "[mask][property]") {
  // Nodes in depth-first order: node n and what is below it are [n, end[n]).
  const std::vector<std::int32_t> begin = {0, 1, 2, 3, 4, 5}, end = {6, 4, 3, 4, 6, 6};
  const mask::transposed tree{mask::row_ranges{begin, end}};
  test::require_exact(tree, 6, 6);
  REQUIRE(tree(3, 1));        // 3 is below 1
  REQUIRE_FALSE(tree(3, 2));  // a sibling
  REQUIRE(tree(5, 4));
  REQUIRE_FALSE(tree(1, 3));
}

TEST_CASE("transposed: masks of a batch row", "[mask]") {
  const std::vector<std::int32_t> lengths = {3, 0};
  const mask::transposed t{mask::key_padding{.lengths = lengths, .k_len = 8}};
  REQUIRE(mask::bind(t, 0, 0)(2, 7));
  REQUIRE_FALSE(mask::bind(t, 0, 0)(3, 0));
  REQUIRE_FALSE(mask::bind(t, 1, 0)(0, 0));
}

TEST_CASE("transposed: rejects what the exchanged table does not have", "[mask][errors]") {
  const tensor<bool, 2> visible(5, 7);
  const mask::transposed t{mask::dense{visible.view()}};
  mask::validate(t, {.q_len = 7, .k_len = 5});
  mask::validate(t, {.q_len = 3, .k_len = 5, .start = 4});
  REQUIRE_THROWS_AS(mask::validate(t, {.q_len = 3, .k_len = 5, .start = 5}), precondition_error);
  REQUIRE_THROWS_AS(mask::validate(t, {.q_len = 3, .k_len = 5, .start = -1}), precondition_error);
  REQUIRE_THROWS_AS(mask::validate(t, {.q_len = 7, .k_len = 6}), precondition_error);
}
