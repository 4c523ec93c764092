// SPDX-License-Identifier: Apache-2.0
#include <seqprim/nn/schedule.hpp>

#include <support/catch.hpp>

using namespace seqprim;

TEST_CASE("schedule: every schedule warms up in a line from zero and passes its corners", "[nn]") {
  const nn::linear_schedule line{.base = 2, .warmup = 4, .total = 14};
  const nn::cosine_schedule cosine{.base = 2, .warmup = 4, .total = 14, .min_ratio = 0.25};
  const nn::inverse_sqrt_schedule root{.base = 2, .warmup = 4};
  const nn::warmup_stable_decay_schedule stable{.base = 2, .warmup = 4, .total = 20, .min_ratio = 0.5};
  for (index_t step = 0; step <= 4; ++step) {
    const double expected = 0.5 * static_cast<double>(step);
    REQUIRE(line(step) == expected);
    REQUIRE(cosine(step) == expected);
    REQUIRE(root(step) == expected);
    REQUIRE(stable(step) == expected);
  }
  REQUIRE(line(9) == 1.0);
  REQUIRE(line(14) == 0.0);
  REQUIRE(line(99) == 0.0);
  REQUIRE(cosine(9) == Approx(2 * (0.25 + 0.75 * 0.5)));
  REQUIRE(cosine(14) == 0.5);
  REQUIRE(cosine(99) == 0.5);
  REQUIRE(root(16) == 1.0);
  REQUIRE(stable(15) == 2.0);  // decay begins at 0.8 total
  REQUIRE(stable(18) == Approx(1.5));
  REQUIRE(stable(20) == 1.0);
  REQUIRE(stable(99) == 1.0);
}

TEST_CASE("schedule: the public cosine rises again, and the warm-up may begin above zero", "[nn]") {
  const nn::cosine_schedule open{.base = 1, .warmup = 0, .total = 10, .clamped = false};
  REQUIRE(open(0) == 1.0);
  REQUIRE(open(10) == Approx(0.0).margin(1e-15));
  REQUIRE(open(20) == Approx(1.0));
  const nn::cosine_schedule warm{.base = 1, .warmup = 10, .total = 20, .warmup_from = 0.5};
  REQUIRE(warm(0) == 0.5);
  REQUIRE(warm(5) == 0.75);
  REQUIRE(warm(10) == 1.0);
}

TEST_CASE("schedule: numbers that make no schedule are errors", "[nn][errors]") {
  nn::linear_schedule{.base = 1, .warmup = 3, .total = 4}.validate();
  nn::inverse_sqrt_schedule{.base = 1, .warmup = 0}.validate();
  REQUIRE_THROWS_WITH((nn::linear_schedule{.base = 1, .warmup = 4, .total = 4}.validate()),
                      ContainsSubstring("total (4) must be more than warmup (4)"));
  REQUIRE_THROWS_AS((nn::linear_schedule{.base = 1, .warmup = -1, .total = 4}.validate()), precondition_error);
  REQUIRE_THROWS_AS((nn::cosine_schedule{.base = 1, .total = 4, .min_ratio = 1.5}.validate()), precondition_error);
  REQUIRE_THROWS_AS((nn::cosine_schedule{.base = 1.0 / 0.0, .total = 4}.validate()), precondition_error);
  REQUIRE_THROWS_AS((nn::cosine_schedule{.base = 1, .total = 4, .warmup_from = 0.0 / 0.0}.validate()),
                    precondition_error);
  REQUIRE_THROWS_AS((nn::inverse_sqrt_schedule{.base = 1, .warmup = -1}.validate()), precondition_error);
  REQUIRE_THROWS_AS((nn::warmup_stable_decay_schedule{.base = 1, .total = 4, .decay_start = 5}.validate()),
                    precondition_error);
}
