// SPDX-License-Identifier: Apache-2.0
#include <seqprim/score/score.hpp>

#include <cmath>
#include <support/catch.hpp>
#include <type_traits>

using namespace seqprim;

namespace {
constexpr score::site at{9, 4};
constexpr score::distance_bias bias{.slope = 0.5f};
constexpr score::soft_cap cap{6.0f};
}  // namespace

TEST_CASE("chain: applies its parts from left to right", "[score]") {
  constexpr float s = 5.0f;
  REQUIRE((cap | bias)(s, at) == cap(s, at) - 2.5f);
  REQUIRE((bias | cap)(s, at) == cap(2.5f, at));
  REQUIRE((cap | bias)(s, at) != (bias | cap)(s, at));
  REQUIRE((cap | bias | cap)(s, at) == cap(cap(s, at) - 2.5f, at));
}

TEST_CASE("chain: the derivative agrees with central differences in double", "[score][property]") {
  const auto f = cap | bias | cap | bias;
  // The error of a central difference: h^2 / 6 times a third derivative below 1, and rounding 1e-15 / h.
  constexpr double h = 1e-5;
  for (double s = -30; s < 30; s += 0.173) {
    const double slope = (f(s + h, at) - f(s - h, at)) / (2 * h);
    CAPTURE(s);
    REQUIRE(std::fabs(f.derivative(s, at) - slope) <= 1e-9);
    REQUIRE(std::fabs(static_cast<double>(f.derivative(static_cast<float>(s), at)) - slope) <= 2e-6);
  }
}

TEST_CASE("chain: identity disappears at compile time", "[score]") {
  STATIC_REQUIRE(std::is_same_v<decltype(score::identity{} | cap), score::soft_cap>);
  STATIC_REQUIRE(std::is_same_v<decltype(cap | score::identity{}), score::soft_cap>);
  STATIC_REQUIRE(std::is_same_v<decltype(score::identity{} | score::identity{}), score::identity>);
}

TEST_CASE("chain: binds the parts that depend on the head", "[score]") {
  const auto f = cap | score::alibi{.heads = 4} | cap;
  STATIC_REQUIRE(score::depends_on_batch_or_head<decltype(f)>);
  STATIC_REQUIRE_FALSE(score::modifier<decltype(f)>);
  const auto head = score::bind(f, 0, 2);
  STATIC_REQUIRE(score::modifier<decltype(head)>);
  REQUIRE(head(1.0f, at) == cap(score::bind(score::alibi{.heads = 4}, 0, 2)(cap(1.0f, at), at), at));
}

TEST_CASE("chain: errors of the parts reach through", "[score][errors]") {
  REQUIRE_THROWS_AS(score::validate(cap | score::soft_cap{0.0f}), precondition_error);
  REQUIRE_THROWS_AS(score::validate(score::soft_cap{0.0f} | cap), precondition_error);
  REQUIRE_NOTHROW(score::validate(cap | score::alibi{.heads = 4}, {.batch = 1, .heads = 4}));
  REQUIRE_THROWS_AS(score::validate(cap | score::alibi{.heads = 4}, {.batch = 1, .heads = 8}), precondition_error);
}

TEST_CASE("identity: leaves logits alone", "[score]") {
  REQUIRE(score::identity{}(3.5f, at) == 3.5f);
  REQUIRE(score::identity{}.derivative(3.5f, at) == 1.0f);
}
