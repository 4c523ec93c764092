// SPDX-License-Identifier: Apache-2.0
#include "layers.hpp"
#include <seqprim/nn/clip.hpp>
#include <seqprim/nn/linear.hpp>

#include <limits>

using namespace seqprim;

TEST_CASE("clip: the norm is over all parameters, and clipping brings it down to the limit", "[nn][property]") {
  test::random_numbers random(131);
  nn::linear<> layer(211, 173, {.bias = true});
  const auto fill = [&] { layer.visit_parameters([&](const std::string&, auto& p) { random.fill(p.grad); }); };
  fill();
  double squares = 0;
  layer.visit_parameters([&](const std::string&, const auto& p) {
    for (const float g : p.grad) squares += static_cast<double>(g) * static_cast<double>(g);
  });
  const auto loose = nn::clip_gradients(cpu{}, layer, 1e6);
  REQUIRE(loose.norm == Approx(std::sqrt(squares)).epsilon(1e-12));
  REQUIRE(loose.factor == 1.0);
  REQUIRE(loose.finite);
  const float before = layer.weight.grad(3, 5);
  const auto clipped = nn::clip_gradients(cpu{}, layer, 2.0);
  REQUIRE(clipped.norm == loose.norm);
  REQUIRE(clipped.factor == Approx(2.0 / (loose.norm + 1e-6)));
  REQUIRE(layer.weight.grad(3, 5) == Approx(before * static_cast<float>(clipped.factor)));
  REQUIRE(nn::measure_gradients(cpu{}, layer, 2.0).norm == Approx(2.0).epsilon(1e-6));
}

TEST_CASE("clip: same bits for any number of threads", "[nn][property]") {
  test::random_numbers random(132);
  nn::linear<> layer(300, 301);
  random.fill(layer.weight.grad);
  const auto one = nn::measure_gradients(cpu{.threads = 1}, layer, 1.0);
  for (const int threads : {2, 3, 6})
    REQUIRE(nn::measure_gradients(cpu{.threads = threads}, layer, 1.0).norm == one.norm);
}

TEST_CASE("clip: a gradient that is not finite is reported and left alone", "[nn]") {
  const float bad = GENERATE(std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN());
  nn::linear<> layer(3, 2);
  layer.weight.grad.fill(2.0f);
  layer.weight.grad(1, 1) = bad;
  const auto result = nn::clip_gradients(cpu{}, layer, 1.0);
  REQUIRE_FALSE(result.finite);
  REQUIRE(result.factor == 0.0);
  REQUIRE(layer.weight.grad(0, 0) == 2.0f);
}

TEST_CASE("clip: large gradients do not overflow, a limit that is not positive is an error", "[nn][errors]") {
  nn::linear<> layer(3, 2);
  layer.weight.grad.fill(3e38f);
  REQUIRE(nn::measure_gradients(cpu{}, layer, 1.0).finite);
  REQUIRE_THROWS_AS(nn::measure_gradients(cpu{}, layer, 0.0), precondition_error);
  REQUIRE_THROWS_AS(nn::clip_gradients(cpu{}, layer, -1.0), precondition_error);
  REQUIRE_THROWS_AS(nn::clip_gradients(cpu{}, layer, std::nan("")), precondition_error);
  REQUIRE_THROWS_AS(nn::scale_gradients(cpu{.threads = -1}, layer, 0.5), precondition_error);
}
