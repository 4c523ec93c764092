// SPDX-License-Identifier: Apache-2.0
// Compiled with each instruction set, with contraction into fused multiply-adds allowed, and with -ffast-math.
#include <seqprim/sampling/det_math.hpp>

#include <cmath>
#include <support/catch.hpp>
#include <support/golden.hpp>

using namespace seqprim;

TEST_CASE("det_math: log, exp, exponential and Gumbel noise equal the golden files bit for bit", "[sampling][golden]") {
  const golden files[] = {golden("sampling", "detmath_a"), golden("sampling", "detmath_b")};
  const auto same = [](float a, float b) { return bit_cast<std::uint32_t>(a) == bit_cast<std::uint32_t>(b); };
  for (const golden& g : files) {
    const auto x = g.load<float, 1>("x"), log_x = g.load<float, 1>("log_x");
    const auto y = g.load<float, 1>("y"), exp_y = g.load<float, 1>("exp_y");
    const auto word = g.load<std::uint32_t, 1>("word");
    const auto exponential = g.load<float, 1>("exponential"), noise = g.load<float, 1>("gumbel");
    index_t wrong = 0;
    for (index_t i = 0; i < x.size(); ++i) wrong += !same(sampling::det_log(x(i)), log_x(i));
    for (index_t i = 0; i < y.size(); ++i) wrong += !same(sampling::det_exp(y(i)), exp_y(i));
    for (index_t i = 0; i < word.size(); ++i) {
      wrong += !same(sampling::unit_exponential(word(i)), exponential(i));
      wrong += !same(sampling::gumbel(word(i)), noise(i));
    }
    REQUIRE(x.size() + y.size() + word.size() > 2000);
    REQUIRE(wrong == 0);
  }
}

TEST_CASE("det_math: a constant expression has the bits of a run-time call", "[sampling][property]") {
  constexpr float log_of_three = sampling::det_log(3.0f), exp_of_minus_five = sampling::det_exp(-5.0f);
  constexpr float noise = sampling::gumbel(123456789u);
  volatile float three = 3.0f, minus_five = -5.0f;
  volatile std::uint32_t word = 123456789u;
  REQUIRE(sampling::det_log(three) == log_of_three);
  REQUIRE(sampling::det_exp(minus_five) == exp_of_minus_five);
  REQUIRE(sampling::gumbel(word) == noise);
}

// Sanitizers keep the product apart, so that there is nothing to fuse.
#if defined(__FMA__) && defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__)
TEST_CASE("det_math: the flags of this program do change a loop that does not defend itself", "[sampling]") {
  int changed = 0;
  for (std::uint32_t word = 1; word < 1000; ++word) {
    volatile float x = 1.0f / static_cast<float>(word), y = 1.0f / static_cast<float>(word + 777);
    volatile float product = x * y;
    changed += x * y - product != 0.0f;  // read anew and fused, this is what rounding the product lost
  }
  REQUIRE(changed > 0);
}
#endif
