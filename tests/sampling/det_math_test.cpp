// SPDX-License-Identifier: Apache-2.0
#include <seqprim/sampling/det_math.hpp>

#include <cmath>
#include <support/catch.hpp>

using namespace seqprim;

TEST_CASE("det_log: within 1e-7 of the logarithm, for a sweep of all positive floats", "[sampling][property]") {
  double worst = 0;
  for (std::uint32_t bits = 1; bits < 0x7f800000u; bits += 4099) {
    const auto x = bit_cast<float>(bits);
    const double exact = std::log(static_cast<double>(x));
    const double error = std::fabs(static_cast<double>(sampling::det_log(x)) - exact);
    worst = std::max(worst, error / std::max(1.0, std::fabs(exact)));
  }
  REQUIRE(worst < 1e-7);
  REQUIRE(sampling::det_log(1.0f) == 0.0f);
}

TEST_CASE("det_exp: within 1e-7 of the exponential, zero below -87, infinite above the floats",
          "[sampling][property]") {
  double worst = 0;
  for (float x = -87.0f; x < 88.7f; x += 0.0007f) {
    const double exact = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::fabs(static_cast<double>(sampling::det_exp(x)) - exact) / exact);
  }
  REQUIRE(worst < 1e-7);
  REQUIRE(sampling::det_exp(0.0f) == 1.0f);
  REQUIRE(sampling::det_exp(std::nextafter(-87.0f, -88.0f)) == 0.0f);
  REQUIRE(sampling::det_exp(-HUGE_VALF) == 0.0f);
  REQUIRE(std::isinf(sampling::det_exp(88.75f)));
  REQUIRE(std::isinf(sampling::det_exp(89.5f)));
}

TEST_CASE("unit_exponential: is monotone in the word and -log(1 - u) of a 24-bit uniform", "[sampling][property]") {
  float last = 0;
  double worst = 0;
  for (std::uint64_t word = 0; word < 0x100000000u; word += 65537) {
    const float e = sampling::unit_exponential(static_cast<std::uint32_t>(word));
    REQUIRE(e >= last);
    last = e;
    const float u = std::min((static_cast<float>(word) + 0.5f) * 0x1p-32f, 1.0f - 0x1p-24f);
    const double exact = -std::log1p(-static_cast<double>(u));
    worst = std::max(worst, std::fabs(static_cast<double>(e) - exact) / exact);
  }
  REQUIRE(worst < 4e-7);  // the logarithm, the quotient and the product
  REQUIRE(sampling::unit_exponential(0) == Approx(1.1641532e-10).epsilon(1e-6));
  REQUIRE(sampling::unit_exponential(~0u) == Approx(16.635532).epsilon(1e-6));
}

TEST_CASE("gumbel: ends where the specification says", "[sampling]") {
  REQUIRE(sampling::gumbel(0) == Approx(22.874).epsilon(1e-4));
  REQUIRE(sampling::gumbel(~0u) == Approx(-2.8116).epsilon(1e-4));
}
