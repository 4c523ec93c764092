// SPDX-License-Identifier: Apache-2.0
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
