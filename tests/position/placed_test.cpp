// SPDX-License-Identifier: Apache-2.0
#include <seqprim/position/placed.hpp>
#include <seqprim/position/rotary.hpp>
#include <seqprim/position/token_ids.hpp>

#include <array>
#include <cstdint>
#include <support/catch.hpp>

using namespace seqprim;

TEST_CASE("placed: a bare encoding puts keys at 0, 1, 2 ... and the last query at the last key", "[position]") {
  const position::rotary<position::half_split> rotary{.rotary_dim = 8};
  const auto at = position::place(rotary, 3, 10);
  REQUIRE(at.encoding.rotary_dim == 8);
  REQUIRE(at.queries(0) == 7);
  REQUIRE(at.queries(2) == at.keys(9));
  REQUIRE(at.keys(0) == 0);
  REQUIRE(position::place(rotary, 10, 3).queries(0) == -7);
}

TEST_CASE("placed: maps that are given stay", "[position]") {
  const std::array<std::int32_t, 3> ids = {5, 0, 2};
  const position::placed given{position::rotary<position::interleaved>{.rotary_dim = 8},
                               position::token_ids{.ids = ids}, position::sequential{.start = 4}};
  const auto at = position::place(given, 3, 10);
  REQUIRE(at.queries(2) == 2);
  REQUIRE(at.keys(2) == 6);
  STATIC_REQUIRE(position::is_placed<decltype(given)> == position::is_placed<decltype(at)>);
  STATIC_REQUIRE(position::part_of_op<position::none>);
  STATIC_REQUIRE_FALSE(position::part_of_op<position::sequential>);
}
