// SPDX-License-Identifier: Apache-2.0
#include "layers.hpp"
#include <seqprim/nn/embedding.hpp>

#include <cstdint>

using namespace seqprim;

TEST_CASE("embedding: gradients agree with finite differences, repeated ids included", "[nn][property]") {
  test::random_numbers random(31);
  nn::embedding<double> layer(6, 5, {.scale = 1.7});
  test::randomize(layer, random);
  tensor<index_t, 2> ids(3, 4);
  for (index_t& id : ids) id = random.integer(0, 4);  // id 5 never appears
  tensor<double, 3> y(3, 4, 5), dy(3, 4, 5);
  random.fill(dy);
  nn::embedding<double>::activations saved;
  layer.backward(cpu{}, ids, dy, saved);
  test::require_parameter_gradients(layer, [&] {
    layer.forward(cpu{}, ids, y);
    return test::weighted_sum(y, dy);
  });
}

TEST_CASE("embedding: the gradient of a row is the sum over its tokens in their order, for any number of threads",
          "[nn][property]") {
  test::random_numbers random(32);
  const index_t vocab = 37, dim = 19;
  tensor<std::int32_t, 2> ids(9, 71);
  for (auto& id : ids) id = static_cast<std::int32_t>(random.integer(0, 3) == 0 ? 5 : random.integer(0, vocab - 1));
  tensor<float, 3> dy(9, 71, dim);
  random.fill(dy);
  tensor<float, 2> expected(vocab, dim);
  for (index_t b = 0; b < 9; ++b)
    for (index_t t = 0; t < 71; ++t)
      for (index_t d = 0; d < dim; ++d) expected(ids(b, t), d) += dy(b, t, d);
  for (const int threads : {1, 2, 5}) {
    nn::embedding<> layer(vocab, dim);
    nn::embedding<>::activations saved;
    layer.backward(cpu{.threads = threads}, ids, dy, saved);
    REQUIRE(test::same_bits(layer.weight.grad, expected));
  }
}

TEST_CASE("embedding: the padding row gets no gradient", "[nn]") {
  nn::embedding<> layer(3, 2, {.padding = 1});
  nn::embedding<>::activations saved;
  tensor<index_t, 2> ids(1, 3);
  for (index_t t = 0; t < 3; ++t) ids(0, t) = t;
  tensor<float, 3> dy(1, 3, 2);
  dy.fill(2.0f);
  layer.backward(cpu{}, ids, dy, saved);
  REQUIRE(layer.weight.grad(0, 0) == 2.0f);
  REQUIRE(layer.weight.grad(1, 0) == 0.0f);
  REQUIRE(layer.weight.grad(2, 1) == 2.0f);
}

TEST_CASE("embedding: ids may have any strides", "[nn]") {
  nn::embedding<> layer(10, 3);
  test::random_numbers random(33);
  test::randomize(layer, random);
  tensor<index_t, 2> wide(2, 8);
  for (index_t i = 0; i < 16; ++i) wide.data()[i] = i % 10;
  tensor<float, 3> y(2, 4, 3);
  layer.forward(cpu{}, wide.view().slice(1, {3, 7}), y);
  for (index_t b = 0; b < 2; ++b)
    for (index_t t = 0; t < 4; ++t) REQUIRE(y(b, t, 1) == layer.weight.value((b * 8 + t + 3) % 10, 1));
}

TEST_CASE("embedding: ids outside the vocabulary and wrong shapes are errors", "[nn][errors]") {
  nn::embedding<> layer(4, 2);
  nn::embedding<>::activations saved;
  tensor<index_t, 2> ids(1, 3);
  tensor<float, 3> y(1, 3, 2), wrong(1, 3, 5);
  y.fill(9.0f);
  ids(0, 2) = 4;
  REQUIRE_THROWS_WITH(layer.forward(cpu{}, ids, y),
                      ContainsSubstring("nn::embedding: id (4) of token 2 must be in [0, vocab (4))"));
  ids(0, 2) = -1;
  REQUIRE_THROWS_AS(layer.forward(cpu{}, ids, y), precondition_error);
  REQUIRE_THROWS_AS(layer.backward(cpu{}, ids, y, saved), precondition_error);
  ids(0, 2) = 0;
  REQUIRE_THROWS_WITH(layer.forward(cpu{}, ids, wrong),
                      ContainsSubstring("out has dim 5 (axis 2), but weight has dim 2"));
  REQUIRE_THROWS_AS(layer.forward(cpu{}, ids, wrong.view().slice(2, {0, 2})), precondition_error);
  REQUIRE_THROWS_WITH(layer.forward(cpu{}, ids.view().slice(1, {2, 1}), y.view().slice(1, {2, 1})),
                      ContainsSubstring("nn::embedding: axis 1 of ids has the negative length -1"));
  REQUIRE_THROWS_AS(layer.forward(cpu{.threads = -1}, ids, y), precondition_error);
  REQUIRE(std::all_of(y.begin(), y.end(), [](float v) { return v == 9.0f; }));
  REQUIRE_THROWS_AS(nn::embedding<>(0, 2), precondition_error);
  REQUIRE_THROWS_AS(nn::embedding<>(2, 0), precondition_error);
  REQUIRE_THROWS_AS(nn::embedding<>(3, 2, {.padding = 3}), precondition_error);
  REQUIRE_THROWS_AS(nn::embedding<>(3, 2, {.padding = -2}), precondition_error);
}
