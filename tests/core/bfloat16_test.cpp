// SPDX-License-Identifier: Apache-2.0
#include "support/rounding.hpp"
#include <seqprim/core/bfloat16.hpp>

#include <cmath>
#include <limits>
#include <support/catch.hpp>

using namespace seqprim;

namespace {
const test::small_format bf16{.exponent_bits = 8, .fraction_bits = 7};
}

TEST_CASE("bfloat16: every pattern means what its format says and survives the way through float", "[core][property]") {
  test::require_all_patterns_round_trip<bfloat16>(bf16);
}

TEST_CASE("bfloat16: rounding a float picks the nearest value, ties to even, for a dense sweep of floats",
          "[core][property]") {
  test::require_nearest_even<bfloat16>(bf16);
}

TEST_CASE("bfloat16: the borders of rounding fall where the format says", "[core]") {
  REQUIRE(bfloat16(std::numeric_limits<float>::max()).bits == 0x7f80);  // overflow becomes infinity
  REQUIRE(bfloat16(bit_cast<float>(0x7f7f7fffu)).bits == 0x7f7f);       // the last float that does not
  REQUIRE(bfloat16(bit_cast<float>(0x3f808000u)).bits == 0x3f80);       // tie, even below
  REQUIRE(bfloat16(bit_cast<float>(0x3f818000u)).bits == 0x3f82);       // tie, even above
  REQUIRE(bfloat16(bit_cast<float>(0x00008000u)).bits == 0x0000);       // tie among subnormals
  REQUIRE(bfloat16(bit_cast<float>(0x00008001u)).bits == 0x0001);
  REQUIRE(bfloat16(-0.0f).bits == 0x8000);
  REQUIRE(bfloat16(-std::numeric_limits<float>::infinity()).bits == 0xff80);
}

TEST_CASE("bfloat16: a NaN stays a NaN, quiet, with its sign and upper payload", "[core]") {
  REQUIRE(bfloat16(bit_cast<float>(0x7f810000u)).bits == 0x7fc1);  // signalling
  REQUIRE(bfloat16(bit_cast<float>(0x7f800001u)).bits == 0x7fc0);  // payload below the kept bits: still no infinity
  REQUIRE(bfloat16(bit_cast<float>(0xffffffffu)).bits == 0xffff);
}

TEST_CASE("bfloat16: conversions are constant expressions", "[core]") {
  STATIC_REQUIRE(bfloat16(1.5f).bits == 0x3fc0);
  STATIC_REQUIRE(float(bfloat16::from_bits(0x4000)) == 2.0f);
}
