// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/mask.hpp>

#include <cstdint>
#include <support/catch.hpp>
#include <vector>

using namespace seqprim;

TEST_CASE("per_head: each head has its mask", "[mask][property]") {
  const mask::sliding_window windows[] = {mask::causal_window(3), mask::causal_window(9), mask::causal_window(40)};
  const mask::per_head m{tensor_view<const mask::sliding_window, 1>(windows, 3)};
  REQUIRE(mask::check(m, {.batch = 2, .heads = 3, .q_len = 41, .k_len = 53}).exact());
  for (index_t h = 0; h < 3; ++h) REQUIRE(mask::bind(m, 1, h).left == windows[h].left);
  REQUIRE_THROWS_WITH(mask::validate(m, {.batch = 1, .heads = 4, .q_len = 1, .k_len = 1}),
                      "mask::per_head: 3 masks for 4 heads. See docs/reference/mask/per_head.md");
}

TEST_CASE("per_batch: each batch row has its mask, which may differ between heads", "[mask][property]") {
  const std::vector<std::int32_t> short_rows = {1, 2}, long_rows = {30, 40};
  const mask::prefix_per_batch masks[] = {{.lengths = short_rows}, {.lengths = long_rows}};
  const mask::per_batch m{tensor_view<const mask::prefix_per_batch, 1>(masks, 2)};
  REQUIRE(mask::check(m, {.batch = 2, .heads = 1, .q_len = 41, .k_len = 53}).ok());
  REQUIRE(mask::bind(m, 0, 0).length == 1);
  REQUIRE(mask::bind(m, 1, 0).length == 40);
  REQUIRE_THROWS_WITH(mask::validate(m, {.batch = 3, .q_len = 1, .k_len = 1}),
                      ContainsSubstring("2 masks for 3 batch rows"));
}

TEST_CASE("per_batch: the mask of each batch row is validated for the call", "[mask][errors]") {
  const std::vector<std::int32_t> four = {0, 0, 0, 0}, two = {0, 0};
  const mask::row_ranges masks[] = {{four, four}, {two, two}};
  const mask::per_batch m{tensor_view<const mask::row_ranges, 1>(masks, 2)};
  mask::validate(m, {.batch = 2, .q_len = 2, .k_len = 9});
  mask::validate(m, {.batch = 1, .q_len = 4, .k_len = 9});
  REQUIRE_THROWS_AS(mask::validate(m, {.batch = 2, .q_len = 3, .k_len = 9}), precondition_error);
}
