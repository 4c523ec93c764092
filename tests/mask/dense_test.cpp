// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/dense.hpp>
#include <seqprim/mask/packed.hpp>

#include <mask/brute_force.hpp>
#include <support/random.hpp>

using namespace seqprim;
using namespace seqprim::test;

TEST_CASE("dense: reads the matrix, and classifies exactly", "[mask][property]") {
  random_numbers random(7);
  tensor<bool, 2> matrix(37, 53);
  for (index_t q = 0; q < 37; ++q)
    for (index_t k = 0; k < 53; ++k) matrix(q, k) = (q / 9 + k / 11) % 3 == 0 || (k > 40 && random.integer(0, 3) == 0);
  const mask::dense m{.visible = matrix.view()};
  REQUIRE(m(0, 0));
  require_exact(m, 37, 53);
  require_exact(mask::dense{.visible = matrix.view().transposed(0, 1)}, 53, 37);
}

TEST_CASE("dense: a vector of columns is a matrix with a zero stride", "[mask]") {
  tensor<bool, 1> columns(20);
  for (index_t k = 0; k < 20; ++k) columns(k) = k % 3 != 0;
  const mask::dense m{.visible = {columns.data(), {12, 20}, {0, 1}}};
  REQUIRE(m(11, 4));
  REQUIRE_FALSE(m(11, 3));
  require_exact(m, 12, 20);
}

TEST_CASE("dense_per_head: binds to its matrix; an axis of extent one is shared", "[mask]") {
  tensor<bool, 4> matrices(2, 1, 5, 7);
  matrices(1, 0, 3, 4) = true;
  const mask::dense_per_head m{.visible = matrices.view()};
  REQUIRE_FALSE(mask::bind(m, 0, 2)(3, 4));
  REQUIRE(mask::bind(m, 1, 2)(3, 4));
  require_exact(m, {.batch = 2, .heads = 3, .q_len = 5, .k_len = 7});
}

TEST_CASE("dense: behind `packed`, the rows that are asked for must be there", "[mask][errors]") {
  // Bottom-right alignment asks about queries at positions keys - queries and up.
  const tensor<bool, 2> rows_of_call(2, 8), all_rows(8, 8), tall(6, 2);
  const index_t queries[] = {0, 2}, keys[] = {0, 8}, six[] = {0, 6}, two[] = {0, 2};
  const packing more_keys{{queries, 2}, {keys, 2}}, more_queries{{six, 2}, {two, 2}};
  REQUIRE_THROWS_WITH(
      mask::validate(mask::packed{more_keys, mask::dense{rows_of_call.view()}}, {1, 1, 2, 8}),
      ContainsSubstring("mask::dense: the table is for queries at [0, 2) but those of the call are at [6, 8)"));
  const mask::packed fits{more_keys, mask::dense{all_rows.view()}};
  mask::validate(fits, {1, 1, 2, 8});
  REQUIRE(mask::check(fits, 2, 8).ok());
  REQUIRE_THROWS_WITH(mask::validate(mask::packed{more_queries, mask::dense{tall.view()}}, {1, 1, 6, 2}),
                      ContainsSubstring("are at [-4, 2)"));
  const tensor<bool, 4> per_head(1, 1, 2, 8);
  REQUIRE_THROWS_AS(mask::validate(mask::packed{more_keys, mask::dense_per_head{per_head.view()}}, {1, 1, 2, 8}),
                    precondition_error);
}

TEST_CASE("dense: rejects a matrix smaller than the problem", "[mask][errors]") {
  const tensor<bool, 2> matrix(5, 7);
  const tensor<bool, 4> matrices(2, 1, 5, 7);
  REQUIRE_NOTHROW(mask::validate(mask::dense{.visible = matrix.view()}, {.q_len = 5, .k_len = 7}));
  REQUIRE_THROWS_WITH(
      mask::validate(mask::dense{.visible = matrix.view()}, {.q_len = 6, .k_len = 7}),
      ContainsSubstring("mask::dense: the table is for queries at [0, 5) but those of the call are at [0, 6)"));
  REQUIRE_THROWS_AS(mask::validate(mask::dense{.visible = matrix.view()}, {.q_len = 5, .k_len = 8}),
                    precondition_error);
  const mask::dense_per_head m{.visible = matrices.view()};
  REQUIRE_NOTHROW(mask::validate(m, {.batch = 2, .heads = 9, .q_len = 5, .k_len = 7}));
  REQUIRE_THROWS_AS(mask::validate(m, {.batch = 3, .heads = 9, .q_len = 5, .k_len = 7}), precondition_error);
  REQUIRE_THROWS_AS(mask::validate(m, {.batch = 2, .heads = 9, .q_len = 6, .k_len = 7}), precondition_error);
}
