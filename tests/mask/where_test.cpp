// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/where.hpp>

#include <mask/brute_force.hpp>

using namespace seqprim;
using namespace seqprim::test;

TEST_CASE("where: asks the predicate, claims nothing about tiles", "[mask][property]") {
  const mask::where m{[](index_t q, index_t k) { return (q + 2 * k) % 3 == 0; }};
  REQUIRE(m(1, 1));
  REQUIRE_FALSE(m(1, 2));
  const mask::check_report report = mask::check(m, 30, 41);
  REQUIRE(report.ok());
  REQUIRE(report.loose > 0);
}

TEST_CASE("where: composes with masks that do know tiles", "[mask]") {
  const auto m = mask::causal{} & mask::where{[](index_t q, index_t k) { return (q ^ k) % 2 == 0; }};
  REQUIRE(m.classify({0, 8}, {8, 16}) == mask::tile_kind::empty);
  REQUIRE(m.classify({8, 16}, {0, 8}) == mask::tile_kind::partial);
  require_sound(m, 30, 41);
}

TEST_CASE("where: a predicate that reads a table says where it ends", "[mask][errors]") {
  const tensor<bool, 2> blocks(2, 3);
  const mask::where m{[view = blocks.view()](index_t q, index_t k) { return view(q / 16, k / 16); },
                      {.queries = {0, 32}, .keys = {0, 48}}};
  mask::validate(m, {.q_len = 10, .k_len = 48, .start = 22});
  REQUIRE(mask::check(m, 32, 48).ok());
  REQUIRE_THROWS_WITH(mask::validate(m, {.q_len = 10, .k_len = 48, .start = 23}),
                      ContainsSubstring("mask::where: the table is for queries at [0, 32)"));
  REQUIRE_THROWS_AS(mask::validate(m, {.q_len = 10, .k_len = 49}), precondition_error);
  REQUIRE_THROWS_AS(mask::validate(m, {.q_len = 10, .k_len = 48, .start = -1}), precondition_error);
}
