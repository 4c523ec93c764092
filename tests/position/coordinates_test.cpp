// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/position/coordinates.hpp>

#include <support/catch.hpp>
#include <type_traits>

using namespace seqprim;

TEST_CASE("coordinates: one axis is a number, more are a point", "[position]") {
  tensor<double, 2> values(4, 2);
  for (index_t i = 0; i < 4; ++i) {
    values(i, 0) = 0.5 * static_cast<double>(i);
    values(i, 1) = -static_cast<double>(i);
  }
  const position::coordinates<2> points{.values = values.view()};
  REQUIRE(points(3) == position::point<2>{{1.5, -3}});
  const position::coordinates<1> times{.values = values.view().slice(1, {1, 2})};
  REQUIRE(times(2) == -2);
  STATIC_REQUIRE(std::is_same_v<position::coordinate_of<position::coordinates<1>>, double>);
}

TEST_CASE("coordinates: a list for each batch row", "[position]") {
  tensor<double, 3> values(2, 3, 1);
  for (index_t i = 0; i < 6; ++i) values.data()[i] = static_cast<double>(i);
  const position::coordinates_per_batch<1> map{.values = values.view()};
  REQUIRE(position::bind(map, 1)(2) == 5);
  REQUIRE_NOTHROW(position::validate_map(map, 2, 3));
  REQUIRE_THROWS_WITH(position::validate_map(map, 3, 3),
                      ContainsSubstring("[2, 3, 1] but [batch, len, axes] is [3, 3, 1]"));
  REQUIRE_THROWS_AS(position::validate_map(map, 2, 4), precondition_error);
}

TEST_CASE("coordinates: too few rows or other axes are rejected", "[position][errors]") {
  const tensor<double, 2> values(4, 2);
  REQUIRE_NOTHROW(position::validate_map(position::coordinates<2>{.values = values.view()}, 1, 4));
  REQUIRE_THROWS_WITH(position::validate_map(position::coordinates<2>{.values = values.view()}, 1, 5),
                      ContainsSubstring("values are [4, 2] but [len, axes] is [5, 2]"));
  REQUIRE_THROWS_AS(position::validate_map(position::coordinates<3>{.values = values.view()}, 1, 4),
                    precondition_error);
}
