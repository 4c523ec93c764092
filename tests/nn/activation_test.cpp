// SPDX-License-Identifier: Apache-2.0
#include "layers.hpp"
#include <seqprim/nn/activation.hpp>

#include <limits>

using namespace seqprim;

TEMPLATE_TEST_CASE("activation: derivatives agree with finite differences", "[nn][property]", nn::identity, nn::relu,
                   nn::relu2, nn::gelu_erf, nn::gelu_tanh, nn::gelu_quick, nn::silu, nn::sigmoid, nn::tanh,
                   nn::softplus) {
  test::random_numbers random(51);
  tensor<double, 2> x(3, 37), y(3, 37), dy(3, 37), dx(3, 37);
  random.fill(x, 2.0f);
  random.fill(dy);
  nn::activate_backward<TestType>(cpu{}, x, dy, dx);
  const auto objective = [&] {
    nn::activate<TestType>(cpu{}, x, y);
    return test::weighted_sum(y, dy);
  };
  REQUIRE(test::gradient_error(x.data(), dx.data(), x.size(), objective, 200) < test::gradient_budget);
}

TEMPLATE_TEST_CASE("activation: float agrees with double and stays finite, far out too", "[nn][property]", nn::identity,
                   nn::relu, nn::relu2, nn::gelu_erf, nn::gelu_tanh, nn::gelu_quick, nn::silu, nn::sigmoid, nn::tanh,
                   nn::softplus) {
  tensor<float, 2> x(1, 2003), y(1, 2003), dy(1, 2003), dx(1, 2003);
  for (index_t i = 0; i < 2003; ++i) x(0, i) = -100.0f + 0.1f * static_cast<float>(i);  // -100 .. 100.2
  dy.fill(1.0f);
  tensor<double, 2> exact(1, 2003), exact_dx(1, 2003);
  nn::activate<TestType>(cpu{}, x, y);
  nn::activate_backward<TestType>(cpu{}, x, dy, dx);
  nn::activate<TestType>(cpu{}, test::widened(x), exact);
  nn::activate_backward<TestType>(cpu{}, test::widened(x), test::widened(dy), exact_dx);
  // exp2 is right to 2e-7 and its argument x log2(e) is rounded once: 0.7 * 2^-24 |x| more, which counts only where the
  // exponential does, |x| < 20.
  REQUIRE(test::worst_error(y, exact) < 2e-6);
  REQUIRE(test::worst_error(dx, exact_dx) < 4e-6);
}

TEST_CASE("activation: relu is exact, zero and subnormals included", "[nn]") {
  constexpr float tiny = std::numeric_limits<float>::denorm_min();
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const float in[] = {0.0f, -0.0f, tiny, -tiny, 1e-37f, -1.0f, 3e38f, infinity, nan};
  tensor<float, 2> x(1, 9), y(1, 9), dx(1, 9), dy(1, 9);
  std::copy(std::begin(in), std::end(in), x.begin());
  dy.fill(1.0f);
  nn::activate<nn::relu>(cpu{}, x, y);
  nn::activate_backward<nn::relu>(cpu{}, x, dy, dx);
  for (index_t i = 0; i < 8; ++i) {
    CAPTURE(i, x(0, i));
    REQUIRE(y(0, i) == (x(0, i) > 0 ? x(0, i) : 0.0f));
    REQUIRE(dx(0, i) == (x(0, i) > 0 ? 1.0f : 0.0f));
  }
  REQUIRE(std::isnan(y(0, 8)));
  REQUIRE(std::isnan(dx(0, 8)));
}

TEST_CASE("activation: shapes must agree", "[nn][errors]") {
  tensor<float, 2> x(2, 3), wrong(3, 2);
  REQUIRE_THROWS_AS(nn::activate<nn::silu>(cpu{}, x, wrong), precondition_error);
  REQUIRE_THROWS_AS(nn::activate_backward<nn::silu>(cpu{}, x, wrong, x.view()), precondition_error);
  REQUIRE_THROWS_AS(nn::activate_backward<nn::silu>(cpu{}, x, x, wrong), precondition_error);
  REQUIRE_THROWS_AS(nn::activate<nn::silu>(cpu{.threads = -2}, x, x.view()), precondition_error);
}
