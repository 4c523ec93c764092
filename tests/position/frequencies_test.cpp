// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/position/rotary.hpp>

#include <cmath>
#include <limits>
#include <support/catch.hpp>

using namespace seqprim;

TEST_CASE("frequencies: a list of the usual frequencies gives the usual tables", "[position][property]") {
  const auto dim = GENERATE(as<index_t>{}, 2, 34, 128);
  tensor<double, 1> list(dim / 2);
  tensor<double, 2> spaced(dim / 2, 3);
  for (index_t c = 0; c < dim / 2; ++c)
    spaced(c, 1) = list(c) = std::pow(10000.0, -2.0 * static_cast<double>(c) / static_cast<double>(dim));
  const position::rotary<position::half_split> usual{.rotary_dim = dim, .attention_factor = 1.25f};
  const position::rotary<position::half_split, position::listed> listed{
      .rotary_dim = dim, .frequencies = {.inv_freq = list.view()}, .attention_factor = 1.25f};
  const position::rotary<position::half_split, position::listed> strided{
      .rotary_dim = dim, .frequencies = {.inv_freq = spaced.view().transposed(0, 1)[1]}, .attention_factor = 1.25f};
  position::validate(listed, dim);
  tensor<float, 1> expected(dim), actual(dim), again(dim);
  for (const double n : {0.0, 1.0, -17.0, 4095.0, 99999989.0, 0.5}) {
    usual.table(n, expected.data());
    listed.table(n, actual.data());
    strided.table(n, again.data());
    for (index_t c = 0; c < dim; ++c) {
      CAPTURE(dim, n, c);
      REQUIRE(std::fabs(actual(c) - expected(c)) <= 2.5e-7f);  // each right to 1e-7, times 1.25
      REQUIRE(again(c) == actual(c));
    }
  }
}

TEST_CASE("frequencies: angles formed in float are those of a float list", "[position]") {
  const index_t dim = 16;
  tensor<double, 1> list(dim / 2);
  for (index_t c = 0; c < dim / 2; ++c)
    list(c) = static_cast<double>(
        1.0f / static_cast<float>(std::pow(10000.0, static_cast<double>(2 * c) / static_cast<double>(dim))));
  const position::rotary<position::interleaved> usual{.rotary_dim = dim, .frequencies = {.fp32_angles = true}};
  const position::rotary<position::interleaved, position::listed> listed{
      .rotary_dim = dim, .frequencies = {.inv_freq = list.view(), .fp32_angles = true}};
  const position::rotary<position::interleaved> exact{.rotary_dim = dim};
  float a[16], b[16], c[16];
  usual.table(1000003.0, a);
  listed.table(1000003.0, b);
  exact.table(1000003.0, c);
  float difference = 0;
  for (index_t i = 0; i < dim; ++i) {
    REQUIRE(a[i] == b[i]);
    difference = std::fmax(difference, std::fabs(a[i] - c[i]));
  }
  REQUIRE(difference > 1e-3f);
}

TEST_CASE("frequencies: wrong ones are rejected", "[position][errors]") {
  for (const double theta : {0.0, -1.0, std::numeric_limits<double>::infinity(), std::nan("")})
    REQUIRE_THROWS_AS(position::geometric{.theta = theta}.validate(8), precondition_error);
  const tensor<double, 1> list(4);
  const position::rotary<position::half_split, position::listed> rope{.frequencies = {.inv_freq = list.view()}};
  REQUIRE_NOTHROW(position::validate(rope, 8));
  REQUIRE_THROWS_WITH(position::validate(rope, 10), ContainsSubstring("4 frequencies for a rotary_dim of 10"));
}
