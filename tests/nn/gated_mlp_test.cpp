// SPDX-License-Identifier: Apache-2.0
#include "layers.hpp"
#include <seqprim/nn/gated_mlp.hpp>

using namespace seqprim;

TEMPLATE_TEST_CASE("gated_mlp: gradients agree with finite differences", "[nn][property]", nn::silu, nn::gelu_tanh,
                   nn::gelu_erf, nn::sigmoid, nn::identity) {
  test::random_numbers random(61);
  using layer_type = nn::gated_mlp<TestType, double>;
  layer_type layer(5, {.hidden = 7});
  test::randomize(layer, random);
  tensor<double, 3> x(2, 4, 5), y(2, 4, 5), dy(2, 4, 5), dx(2, 4, 5);
  random.fill(x);
  random.fill(dy);
  typename layer_type::activations saved;
  const auto objective = [&] {
    layer.forward(cpu{}, x, y, saved);
    return test::weighted_sum(y, dy);
  };
  objective();
  layer.backward(cpu{}, x, dy, dx, saved);
  REQUIRE(test::gradient_error(x.data(), dx.data(), x.size(), objective) < test::gradient_budget);
  test::require_parameter_gradients(layer, objective);
}

TEST_CASE("gated_mlp: with the identity gate and up are interchangeable", "[nn][property]") {
  test::random_numbers random(62);
  nn::gated_mlp<nn::identity> layer(4, {.hidden = 6});
  test::randomize(layer, random);
  tensor<float, 2> x(5, 4), y(5, 4), exchanged(5, 4);
  random.fill(x);
  nn::gated_mlp<nn::identity>::activations saved;
  layer.forward(cpu{}, x, y, saved);
  std::swap(layer.gate_proj.weight, layer.up_proj.weight);
  layer.forward(cpu{}, x, exchanged, saved);
  REQUIRE(test::same_bits(y, exchanged));
}

TEST_CASE("gated_mlp: float stays within the error budget of two products", "[nn][property]") {
  test::random_numbers random(63);
  for (const index_t hidden : {15, 64, 100}) {
    nn::swiglu<> fast(24, {.hidden = hidden});
    nn::swiglu<float, arch::scalar> plain(24, {.hidden = hidden});
    nn::swiglu<double> exact(24, {.hidden = hidden});
    test::randomize(fast, random);
    test::copy_parameters(plain, fast);
    test::copy_parameters(exact, fast);
    tensor<float, 2> x(50, 24), dy(50, 24), y(50, 24), dx(50, 24), plain_y(50, 24), plain_dx(50, 24);
    tensor<double, 2> exact_y(50, 24), exact_dx(50, 24);
    random.fill(x);
    random.fill(dy);
    nn::swiglu<>::activations saved;
    nn::swiglu<float, arch::scalar>::activations plain_kept;
    nn::swiglu<double>::activations exact_kept;
    fast.forward(cpu{}, x, y, saved);
    fast.backward(cpu{}, x, dy, dx, saved);
    plain.forward(cpu{}, x, plain_y, plain_kept);
    plain.backward(cpu{}, x, dy, plain_dx, plain_kept);
    exact.forward(cpu{}, test::widened(x), exact_y, exact_kept);
    exact.backward(cpu{}, test::widened(x), test::widened(dy), exact_dx, exact_kept);
    CAPTURE(hidden);
    // Two products follow each other, and the second carries on what the first lost: the budget of one, twice.
    REQUIRE(test::worst_error(y, exact_y) <=
            test::error_budget(test::error_budget(test::worst_error(plain_y, exact_y))));
    REQUIRE(test::worst_error(dx, exact_dx) <=
            test::error_budget(test::error_budget(test::worst_error(plain_dx, exact_dx))));
  }
}

TEST_CASE("gated_mlp: the default width is 8/3 dim rounded up to 64", "[nn]") {
  REQUIRE(nn::swiglu<>(256).hidden() == 704);
  REQUIRE(nn::swiglu<>(24).hidden() == 64);
  REQUIRE(nn::swiglu<>(24, {.hidden = 5}).hidden() == 5);
}

TEST_CASE("gated_mlp: wrong shapes and a backward without its forward are errors", "[nn][errors]") {
  REQUIRE_THROWS_AS(nn::swiglu<>(0), precondition_error);
  REQUIRE_THROWS_AS(nn::swiglu<>(-1), precondition_error);
  REQUIRE_THROWS_AS(nn::swiglu<>(4, {.hidden = -1}), precondition_error);
  nn::swiglu<> layer(4, {.hidden = 3});
  nn::swiglu<>::activations saved;
  tensor<float, 2> x(2, 4), y(2, 4), wrong(2, 3), few(1, 4);
  REQUIRE_THROWS_AS(layer.forward(cpu{}, wrong, y, saved), precondition_error);
  REQUIRE_THROWS_AS(layer.forward(cpu{}, x, wrong, saved), precondition_error);
  REQUIRE_THROWS_AS(layer.forward(cpu{}, x, few, saved), precondition_error);
  tensor<float, 2> out(2, 4), dx(2, 4);
  REQUIRE_THROWS_WITH(layer.backward(cpu{}, x, y, dx, saved),
                      ContainsSubstring("requires the activations of a forward pass"));
  REQUIRE_THROWS_WITH(layer.backward(cpu{}, x, y, y.view(), saved), ContainsSubstring("dx overlaps dy"));
  layer.forward(cpu{}, x, out, saved);
  REQUIRE_THROWS_AS(layer.backward(cpu{}, few, few, few.view(), saved), precondition_error);
  REQUIRE_THROWS_AS(layer.backward(cpu{}, x, wrong, dx, saved), precondition_error);
  layer.backward(cpu{}, x, y, dx, saved);
  REQUIRE_THROWS_AS(layer.backward(cpu{}, x, y, dx, saved), precondition_error);  // the activations are spent
}
