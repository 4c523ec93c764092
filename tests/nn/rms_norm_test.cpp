// SPDX-License-Identifier: Apache-2.0
#include "layers.hpp"
#include <seqprim/nn/rms_norm.hpp>

#include <limits>

using namespace seqprim;

TEMPLATE_TEST_CASE("rms_norm: gradients agree with finite differences", "[nn][property]", nn::rms_norm<double>,
                   nn::srms_norm<double>) {
  test::random_numbers random(41);
  const double offset = GENERATE(0.0, 1.0);
  TestType layer(7, {.eps = 1e-3, .offset = offset});
  test::randomize(layer, random);
  tensor<double, 3> x(2, 3, 7), y(2, 3, 7), dy(2, 3, 7), dx(2, 3, 7);
  random.fill(x);
  random.fill(dy);
  typename TestType::activations saved;
  const auto objective = [&] {
    layer.forward(cpu{}, x, y, saved);
    return test::weighted_sum(y, dy);
  };
  objective();
  layer.backward(cpu{}, x, dy, dx, saved);
  REQUIRE(test::gradient_error(x.data(), dx.data(), x.size(), objective) < test::gradient_budget);
  test::require_parameter_gradients(layer, objective);
}

TEST_CASE("rms_norm: gradients through the fused addition agree with finite differences", "[nn][property]") {
  test::random_numbers random(42);
  const double scale = GENERATE(1.0, 0.3);
  nn::rms_norm<double> layer(6);
  test::randomize(layer, random);
  tensor<double, 2> x(5, 6), residual(5, 6), sum(5, 6), y(5, 6), dy(5, 6), dsum(5, 6), dx(5, 6);
  for (auto* t : {&x, &residual, &dy, &dsum}) random.fill(*t);
  nn::rms_norm<double>::activations saved;
  const auto objective = [&] {
    layer.forward_add(cpu{}, x, residual, sum, y, saved, scale);
    return test::weighted_sum(y, dy) + test::weighted_sum(sum, dsum);
  };
  objective();
  dx = dsum;
  layer.backward(cpu{}, sum, dy, dx, saved, linalg::store::accumulate);
  REQUIRE(test::gradient_error(x.data(), dx.data(), x.size(), objective) < test::gradient_budget);
  for (double& g : dx) g *= scale;
  REQUIRE(test::gradient_error(residual.data(), dx.data(), residual.size(), objective) < test::gradient_budget);
  test::require_parameter_gradients(layer, objective);
}

TEST_CASE("rms_norm: the fused addition has the bits of adding and normalizing", "[nn][property]") {
  test::random_numbers random(43);
  for (const index_t dim : {1, 15, 16, 17, 64, 83}) {
    nn::rms_norm<> layer(dim);
    test::randomize(layer, random);
    tensor<float, 2> x(70, dim), residual(70, dim), sum(70, dim), y(70, dim), added(70, dim), expected(70, dim);
    random.fill(x);
    random.fill(residual);
    nn::rms_norm<>::activations saved;
    layer.forward_add(cpu{}, x, residual, sum, y, saved);
    for (index_t i = 0; i < x.size(); ++i) added.data()[i] = x.data()[i] + residual.data()[i];
    layer.forward(cpu{}, added, expected, saved);
    CAPTURE(dim);
    REQUIRE(test::same_bits(sum, added));
    REQUIRE(test::same_bits(y, expected));
  }
}

TEST_CASE("rms_norm: float stays within twice the error of the scalar engine, for any width", "[nn][property]") {
  test::random_numbers random(44);
  using naive = nn::rms_norm<float, arch::scalar>;
  for (const index_t dim : {1, 2, 15, 16, 17, 31, 33, 127, 260}) {
    const index_t rows = 67;
    nn::rms_norm<double> exact(dim);
    nn::rms_norm<> fast(dim);
    naive plain(dim);
    test::randomize(fast, random);
    test::copy_parameters(exact, fast);
    test::copy_parameters(plain, fast);
    for (auto* g : {&fast.weight.grad, &plain.weight.grad}) g->fill(0.0f);
    tensor<float, 2> x(rows, dim), dy(rows, dim), y(rows, dim), dx(rows, dim), plain_y(rows, dim), plain_dx(rows, dim);
    random.fill(x, 3.0f);
    random.fill(dy);
    tensor<double, 2> exact_y(rows, dim), exact_dx(rows, dim);
    nn::rms_norm<>::activations saved;
    naive::activations plain_kept;
    nn::rms_norm<double>::activations exact_kept;
    fast.forward(cpu{}, x, y, saved);
    fast.backward(cpu{}, x, dy, dx, saved);
    plain.forward(cpu{}, x, plain_y, plain_kept);
    plain.backward(cpu{}, x, dy, plain_dx, plain_kept);
    exact.forward(cpu{}, test::widened(x), exact_y, exact_kept);
    exact.backward(cpu{}, test::widened(x), test::widened(dy), exact_dx, exact_kept);
    CAPTURE(dim);
    REQUIRE(test::worst_error(y, exact_y) <= test::error_budget(test::worst_error(plain_y, exact_y)));
    REQUIRE(test::worst_error(dx, exact_dx) <= test::error_budget(test::worst_error(plain_dx, exact_dx)));
    REQUIRE(test::worst_error(fast.weight.grad, exact.weight.grad) <=
            test::error_budget(test::worst_error(plain.weight.grad, exact.weight.grad)));
  }
}

TEST_CASE("rms_norm: does not feel the size of x, and dx is orthogonal to x", "[nn][property]") {
  test::random_numbers random(45);
  nn::rms_norm<double> layer(9, {.eps = 0});
  test::randomize(layer, random);
  tensor<double, 2> x(4, 9), large(4, 9), y(4, 9), large_y(4, 9), dy(4, 9), dx(4, 9);
  random.fill(x);
  random.fill(dy);
  for (index_t i = 0; i < x.size(); ++i) large.data()[i] = 1e6 * x.data()[i];
  nn::rms_norm<double>::activations saved;
  layer.forward(cpu{}, large, large_y, saved);
  layer.forward(cpu{}, x, y, saved);
  layer.backward(cpu{}, x, dy, dx, saved);
  REQUIRE(test::worst_error(large_y, y) < 1e-12);
  for (index_t i = 0; i < 4; ++i) {
    double inner = 0;
    for (index_t d = 0; d < 9; ++d) inner += x(i, d) * dx(i, d);
    REQUIRE(std::abs(inner) < 1e-13);
  }
}

TEST_CASE("rms_norm: zero rows and NaN rows stay to themselves", "[nn]") {
  nn::rms_norm<> layer(3, {.eps = 0.25});
  REQUIRE(layer.weight.value(2) == 1.0f);
  REQUIRE(nn::rms_norm<>(3, {.offset = 1}).weight.value(2) == 0.0f);
  tensor<float, 2> x(3, 3), y(3, 3), dy(3, 3), dx(3, 3);
  x(1, 1) = std::numeric_limits<float>::quiet_NaN();
  for (index_t d = 0; d < 3; ++d) x(2, d) = 1.0f;
  dy.fill(1.0f);
  nn::rms_norm<>::activations saved;
  layer.forward(cpu{}, x, y, saved);
  layer.backward(cpu{}, x, dy, dx, saved);
  for (index_t d = 0; d < 3; ++d) {
    REQUIRE(y(0, d) == 0.0f);
    REQUIRE(dx(0, d) == 2.0f);  // dy / sqrt(eps)
    REQUIRE(std::isnan(y(1, d)));
    REQUIRE(y(2, d) == Approx(1 / std::sqrt(1.25)));
  }
  nn::rms_norm<> without_eps(3, {.eps = 0});
  without_eps.forward(cpu{}, x, y, saved);
  REQUIRE(std::isnan(y(0, 0)));
}

TEST_CASE("rms_norm: in place, and the same bits for any number of threads", "[nn][property]") {
  test::random_numbers random(46);
  nn::rms_norm<> one(33), many(33);
  test::randomize(one, random);
  test::copy_parameters(many, one);
  for (auto* g : {&one.weight.grad, &many.weight.grad}) g->fill(0.0f);
  tensor<float, 2> x(200, 33), y(200, 33), dy(200, 33), dx(200, 33);
  random.fill(x);
  random.fill(dy);
  nn::rms_norm<>::activations saved;
  one.forward(cpu{.threads = 1}, x, y, saved);
  one.backward(cpu{.threads = 1}, x, dy, dx, saved);
  tensor<float, 2> in_place = x, gradient = dy;
  many.forward(cpu{.threads = 3}, in_place, in_place.view(), saved);
  many.backward(cpu{.threads = 3}, x, gradient, gradient.view(), saved);
  REQUIRE(test::same_bits(in_place, y));
  REQUIRE(test::same_bits(gradient, dx));
  REQUIRE(test::same_bits(one.weight.grad, many.weight.grad));
}

TEST_CASE("rms_norm: wrong parameters and shapes are errors", "[nn][errors]") {
  REQUIRE_THROWS_AS(nn::rms_norm<>(0), precondition_error);
  REQUIRE_THROWS_AS(nn::srms_norm<>(-1), precondition_error);
  REQUIRE_THROWS_WITH(nn::rms_norm<>(3, {.eps = -1e-6}), ContainsSubstring("eps (-1e-06) must be finite and >= 0"));
  nn::rms_norm<> layer(3);
  nn::rms_norm<>::activations saved, other;
  tensor<float, 2> x(2, 3), y(2, 3), wrong(2, 4), few(1, 3);
  y.fill(9.0f);
  REQUIRE_THROWS_WITH(layer.forward(cpu{}, wrong, y, saved),
                      ContainsSubstring("the last axis of x is 4, but dim is 3"));
  REQUIRE_THROWS_AS(layer.forward(cpu{}, x, wrong, saved), precondition_error);
  REQUIRE_THROWS_AS(layer.forward(cpu{}, few, y, saved), precondition_error);
  REQUIRE_THROWS_AS(layer.forward_add(cpu{}, x, few, x, y, saved), precondition_error);
  REQUIRE_THROWS_AS(layer.forward_add(cpu{}, x, x, y, y, saved), precondition_error);
  REQUIRE_THROWS_AS(layer.forward(cpu{.threads = -1}, x, y, saved), precondition_error);
  REQUIRE(std::all_of(y.begin(), y.end(), [](float v) { return v == 9.0f; }));
  layer.forward(cpu{}, x, y, saved);
  REQUIRE_THROWS_AS(layer.backward(cpu{}, x, wrong, y, saved), precondition_error);
  REQUIRE_THROWS_AS(layer.backward(cpu{}, x, few, y, saved), precondition_error);
  REQUIRE_THROWS_WITH(layer.backward(cpu{}, few, few, few.view(), saved),
                      ContainsSubstring("requires the activations of a forward pass over the same rows"));
  REQUIRE_THROWS_AS(layer.backward(cpu{}, x, y, y, other), precondition_error);
}
