// SPDX-License-Identifier: Apache-2.0
#include <seqprim/position/placed.hpp>
#include <seqprim/position/rotary.hpp>
#include <seqprim/position/token_ids.hpp>

#include <array>
#include <cstdint>
#include <support/catch.hpp>

using namespace seqprim;

TEST_CASE("placed: a bare encoding gives every token its index", "[position]") {
  const position::rotary<position::half_split> rotary{.rotary_dim = 8};
  const auto at = position::place(rotary);
  REQUIRE(at.encoding.rotary_dim == 8);
  REQUIRE(at.queries(7) == 7);
  REQUIRE(at.keys(9) == 9);
}

TEST_CASE("placed: maps that are given stay", "[position]") {
  const std::array<std::int32_t, 3> ids = {5, 0, 2};
  const position::placed given{position::rotary<position::interleaved>{.rotary_dim = 8},
                               position::token_ids{.ids = ids}, position::sequential{.start = 4}};
  const auto at = position::place(given);
  REQUIRE(at.queries(2) == 2);
  REQUIRE(at.keys(2) == 6);
  STATIC_REQUIRE(position::is_placed<decltype(given)> == position::is_placed<decltype(at)>);
  STATIC_REQUIRE(position::part_of_op<position::none>);
  STATIC_REQUIRE_FALSE(position::part_of_op<position::sequential>);
}
