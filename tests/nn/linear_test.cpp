// SPDX-License-Identifier: Apache-2.0
#include "layers.hpp"
#include <seqprim/nn/linear.hpp>

using namespace seqprim;

TEST_CASE("linear: gradients agree with finite differences", "[nn][property]") {
  test::random_numbers random(21);
  const bool bias = GENERATE(false, true);
  nn::linear<double> layer(5, 7, {.bias = bias});
  test::randomize(layer, random);
  tensor<double, 3> x(2, 3, 5), y(2, 3, 7), dy(2, 3, 7), dx(2, 3, 5);
  random.fill(x);
  random.fill(dy);
  const auto objective = [&] {
    layer.forward(cpu{}, x, y);
    return test::weighted_sum(y, dy);
  };
  nn::linear<double>::activations saved;
  layer.backward(cpu{}, x, dy, dx, saved);
  REQUIRE(test::gradient_error(x.data(), dx.data(), x.size(), objective) < test::gradient_budget);
  test::require_parameter_gradients(layer, objective);
}

TEST_CASE("linear: forward is the definition, overwriting or adding", "[nn][property]") {
  test::random_numbers random(22);
  nn::linear<double> layer(9, 4, {.bias = true});
  test::randomize(layer, random);
  tensor<double, 2> x(6, 9), once(6, 4), twice(6, 4);
  random.fill(x);
  layer.forward(cpu{}, x, once);
  layer.forward(cpu{}, x, twice);
  layer.forward(cpu{}, x, twice, linalg::store::accumulate);
  for (index_t i = 0; i < 6; ++i)
    for (index_t o = 0; o < 4; ++o) {
      double expected = layer.bias.value(o);
      for (index_t k = 0; k < 9; ++k) expected += x(i, k) * layer.weight.value(o, k);
      REQUIRE(once(i, o) == Approx(expected).epsilon(1e-13));
      REQUIRE(twice(i, o) == Approx(2 * expected).epsilon(1e-13));
    }
}

TEST_CASE("linear: rows may be apart, as slices of a fused projection are", "[nn]") {
  test::random_numbers random(23);
  nn::linear<> layer(6, 5);
  test::randomize(layer, random);
  tensor<float, 2> wide(4, 14), narrow(4, 6), apart(4, 9), dense(4, 5);
  random.fill(wide);
  apart.fill(7.0f);
  const auto x = wide.view().slice(1, {3, 9});
  for (index_t i = 0; i < 4; ++i)
    for (index_t d = 0; d < 6; ++d) narrow(i, d) = x(i, d);
  layer.forward(cpu{}, x, apart.view().slice(1, {2, 7}));
  layer.forward(cpu{}, narrow, dense);
  for (index_t i = 0; i < 4; ++i) {
    for (index_t d = 0; d < 9; ++d) REQUIRE(apart(i, d) == (d < 2 || d >= 7 ? 7.0f : dense(i, d - 2)));
  }
}

TEST_CASE("linear: the bias gradient sums many rows in a fixed order", "[nn][property]") {
  test::random_numbers random(24);
  tensor<float, 2> x(333, 3), dy(333, 21);
  random.fill(x);
  random.fill(dy);
  nn::linear<> one(3, 21, {.bias = true}), many(3, 21, {.bias = true});
  nn::linear<>::activations saved;
  one.backward_parameters(cpu{.threads = 1}, x, dy, saved);
  many.backward_parameters(cpu{.threads = 3}, x, dy, saved);
  REQUIRE(test::same_bits(one.bias.grad, many.bias.grad));
  REQUIRE(test::same_bits(one.weight.grad, many.weight.grad));
  for (index_t j = 0; j < 21; ++j) {
    double sum = 0, size = 0;
    for (index_t i = 0; i < 333; ++i) {
      sum += static_cast<double>(dy(i, j));
      size += std::abs(static_cast<double>(dy(i, j)));
    }
    REQUIRE(std::abs(static_cast<double>(one.bias.grad(j)) - sum) <= 70 * 0x1p-24 * size);  // 64 + 6 additions deep
  }
}

TEST_CASE("linear: no rows is no work", "[nn]") {
  nn::linear<> layer(3, 2, {.bias = true});
  nn::linear<>::activations saved;
  tensor<float, 3> x(0, 4, 3), y(0, 4, 2), dx(0, 4, 3);
  layer.forward(cpu{}, x, y);
  layer.backward(cpu{}, x, y, dx, saved);
  REQUIRE(layer.bias.grad(0) == 0.0f);
  REQUIRE(layer.weight.grad(1, 2) == 0.0f);
}

TEST_CASE("linear: wrong shapes are named before anything is written", "[nn][errors]") {
  nn::linear<> layer(3, 2);
  nn::linear<>::activations saved;
  tensor<float, 2> x(4, 3), y(4, 2), wrong(4, 5), short_y(3, 2);
  y.fill(9.0f);
  REQUIRE_THROWS_WITH(layer.forward(cpu{}, wrong, y),
                      ContainsSubstring("nn::linear: the last axis of x is 5, but in is 3"));
  REQUIRE_THROWS_WITH(layer.forward(cpu{}, x, short_y), ContainsSubstring("nn::linear: y has 3 rows, but x has 4"));
  REQUIRE_THROWS_AS(layer.forward(cpu{}, x, wrong), precondition_error);
  REQUIRE_THROWS_AS(layer.backward_parameters(cpu{}, x, wrong, saved), precondition_error);
  REQUIRE_THROWS_AS(layer.backward_input(cpu{}, wrong, x), precondition_error);
  REQUIRE_THROWS_AS(layer.backward_input(cpu{}, y, wrong), precondition_error);
  REQUIRE_THROWS_AS(layer.forward(cpu{}, x.view().transposed(0, 1), y), precondition_error);
  REQUIRE_THROWS_WITH(layer.forward(cpu{}, x.view().slice(0, {3, 1}), y.view().slice(0, {3, 1})),
                      ContainsSubstring("nn::linear: axis 0 of x has the negative length -2"));
  REQUIRE_THROWS_AS(layer.forward(cpu{.threads = -1}, x, y), precondition_error);
  REQUIRE_THROWS_AS(nn::linear<>(0, 2), precondition_error);
  REQUIRE_THROWS_AS(nn::linear<>(2, -1), precondition_error);
  nn::linear<> square(2, 2, {.bias = true});
  REQUIRE_THROWS_WITH(square.forward(cpu{}, y, y.view()), ContainsSubstring("y overlaps x"));
  REQUIRE(std::all_of(y.begin(), y.end(), [](float v) { return v == 9.0f; }));
}
