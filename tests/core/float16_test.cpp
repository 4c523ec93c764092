// SPDX-License-Identifier: Apache-2.0
#include "support/rounding.hpp"
#include <seqprim/core/float16.hpp>

#include <cmath>
#include <limits>
#include <support/catch.hpp>

using namespace seqprim;

namespace {
const test::small_format binary16{.exponent_bits = 5, .fraction_bits = 10};
}

TEST_CASE("float16: every pattern means what IEEE 754 says and survives the way through float", "[core][property]") {
  test::require_all_patterns_round_trip<float16>(binary16);
}

TEST_CASE("float16: rounding a float picks the nearest value, ties to even, for a dense sweep of floats",
          "[core][property]") {
  test::require_nearest_even<float16>(binary16);
}

TEST_CASE("float16: the borders of rounding fall where the format says", "[core]") {
  REQUIRE(float16(65504.0f).bits == 0x7bff);
  REQUIRE(float16(std::nextafter(65520.0f, 0.0f)).bits == 0x7bff);
  REQUIRE(float16(65520.0f).bits == 0x7c00);
  REQUIRE(float16(-1e30f).bits == 0xfc00);
  REQUIRE(float16(0x1p-24f).bits == 0x0001);
  REQUIRE(float16(0x1p-25f).bits == 0x0000);  // a tie
  REQUIRE(float16(std::nextafter(0x1p-25f, 1.0f)).bits == 0x0001);
  REQUIRE(float16(0x1.8p-24f).bits == 0x0002);                      // a tie between two subnormals
  REQUIRE(float16(std::nextafter(0x1p-14f, 0.0f)).bits == 0x0400);  // rounds up into the normal numbers
  REQUIRE(float16(-0.0f).bits == 0x8000);
  REQUIRE(float16(std::numeric_limits<float>::denorm_min()).bits == 0);
  REQUIRE(float16(-std::numeric_limits<float>::infinity()).bits == 0xfc00);
}

TEST_CASE("float16: a NaN stays a NaN, quiet, with its sign and upper payload", "[core]") {
  REQUIRE(float16(bit_cast<float>(0x7f802000u)).bits == 0x7e01);  // signalling
  REQUIRE(float16(bit_cast<float>(0xffc00000u)).bits == 0xfe00);
  REQUIRE(float16(bit_cast<float>(0x7f800001u)).bits == 0x7e00);  // payload below the kept bits: still no infinity
  REQUIRE(float16(bit_cast<float>(0x7fffffffu)).bits == 0x7fff);
}

TEST_CASE("float16: conversions are constant expressions", "[core]") {
  STATIC_REQUIRE(float16(1.5f).bits == 0x3e00);
  STATIC_REQUIRE(float(float16::from_bits(0x0001)) == 0x1p-24f);
  STATIC_REQUIRE(sizeof(float16) == 2);
}
