// SPDX-License-Identifier: Apache-2.0
#include <seqprim/score/soft_cap.hpp>

#include <cmath>
#include <limits>
#include <support/catch.hpp>

using namespace seqprim;

namespace {

constexpr score::site here{};

double unit_in_the_last_place(double x) { return std::ldexp(1.0, std::ilogb(x) - 23); }

}  // namespace

TEST_CASE("soft_cap: is cap * tanh(s / cap) to a few units in the last place", "[score][property]") {
  const auto cap = GENERATE(1.0f, 5.0f, 30.0f, 50.0f);
  const score::soft_cap f{cap};
  double worst = 0, worst_derivative = 0;
  for (float s = 1e-6f; s < 60.0f * cap; s *= 1.0007f) {
    const double c = static_cast<double>(cap);
    const double exact = c * std::tanh(static_cast<double>(s) / c);
    worst = std::fmax(worst, std::fabs(static_cast<double>(f(s, here)) - exact) / unit_in_the_last_place(exact));
    const double e = std::exp(-2.0 * static_cast<double>(s) / c);
    const double slope = 4.0 * e / ((1.0 + e) * (1.0 + e));
    // Beyond 20 caps the slope is below 1e-17. Before, s / cap is rounded once, and the slope amplifies that by 2 s / cap.
    if (s < 20.0f * cap)
      worst_derivative = std::fmax(worst_derivative, std::fabs(static_cast<double>(f.derivative(s, here)) - slope) /
                                                         (unit_in_the_last_place(slope) * (1.0 + s / cap)));
    REQUIRE(f(-s, here) == -f(s, here));
    REQUIRE(f.derivative(-s, here) == f.derivative(s, here));
  }
  CAPTURE(cap, worst, worst_derivative);
  REQUIRE(worst <= 6.0);  // tanh: 3, 5 without fma; the quotient by cap and the product: 1/2 each
  REQUIRE(worst_derivative <= 5.0);
}

TEST_CASE("soft_cap: in double it is the library's tanh", "[score][property]") {
  const score::soft_cap f{30.0f};
  for (double s = -400; s < 400; s += 0.37) {
    const double t = std::tanh(s / 30.0);
    REQUIRE(std::fabs(f(s, here) - 30.0 * t) <= 30.0 * 4e-16);
    REQUIRE(std::fabs(f.derivative(s, here) - (1 - t * t)) <= 4e-16);
  }
}

TEST_CASE("soft_cap: extreme logits saturate, NaN stays NaN", "[score]") {
  const score::soft_cap f{50.0f};
  constexpr float inf = std::numeric_limits<float>::infinity();
  REQUIRE(f(inf, here) == 50.0f);
  REQUIRE(f(-inf, here) == -50.0f);
  REQUIRE(f(3e38f, here) == 50.0f);
  REQUIRE(f(0.0f, here) == 0.0f);
  REQUIRE(f.derivative(0.0f, here) == 1.0f);
  REQUIRE(f.derivative(inf, here) < 1e-36f);
  const volatile float nan = std::numeric_limits<float>::quiet_NaN();
  REQUIRE(std::isnan(f(nan, here)));
  REQUIRE(std::isnan(f.derivative(nan, here)));
}

TEST_CASE("soft_cap: works in constant expressions", "[score]") {
  STATIC_REQUIRE(score::soft_cap{1.0f}(100.0f, here) == 1.0f);
  STATIC_REQUIRE(score::soft_cap{1.0f}(0.5f, here) > 0.4621f);
  STATIC_REQUIRE(score::soft_cap{1.0f}(0.5f, here) < 0.4622f);
}

TEST_CASE("soft_cap: rejects a cap that is not a finite number above zero", "[score][errors]") {
  for (const float cap :
       {0.0f, 1e-39f, -1.0f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    REQUIRE_THROWS_AS(score::validate(score::soft_cap{cap}), precondition_error);
  REQUIRE_THROWS_WITH(score::validate(score::soft_cap{-1.0f}), ContainsSubstring("must be a finite number > 0"));
  REQUIRE_NOTHROW(score::validate(score::soft_cap{50.0f}));
}
