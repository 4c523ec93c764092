// SPDX-License-Identifier: Apache-2.0
#include "layers.hpp"
#include <seqprim/nn/embedding.hpp>
#include <seqprim/nn/gated_mlp.hpp>
#include <seqprim/nn/initialize.hpp>
#include <seqprim/nn/rms_norm.hpp>

using namespace seqprim;

namespace {

struct moments {
  double mean, deviation, kurtosis;
};
template <class T> moments moments_of(const tensor<T, 2>& x) {
  double mean = 0, square = 0, fourth = 0;
  const auto n = static_cast<double>(x.size());
  for (const T v : x) mean += static_cast<double>(v) / n;
  for (const T v : x) {
    const double d = static_cast<double>(v) - mean;
    square += d * d / n;
    fourth += d * d * d * d / n;
  }
  return {mean, std::sqrt(square), fourth / (square * square)};
}

}  // namespace

TEST_CASE("initialize: matrices are normal with the asked deviation, residual projections are smaller",
          "[nn][statistical]") {
  nn::swiglu<> layer(64, {.hidden = 160});
  nn::initialize(cpu{}, layer, {.seed = 7, .stddev = 0.05, .layers = 8});
  // 10240 numbers: 5 deviations of the mean, the deviation (relative 1 / sqrt(2 n)) and the kurtosis (sqrt(24 / n)).
  const double n = 10240;
  const auto require_normal = [&](const nn::parameter<float, 2>& p, double deviation) {
    const auto m = moments_of(p.value);
    REQUIRE(std::abs(m.mean) < 5 * deviation / std::sqrt(n));
    REQUIRE(std::abs(m.deviation / deviation - 1) < 5 / std::sqrt(2 * n));
    REQUIRE(std::abs(m.kurtosis - 3) < 5 * std::sqrt(24 / n));
  };
  require_normal(layer.gate_proj.weight, 0.05);
  require_normal(layer.up_proj.weight, 0.05);
  require_normal(layer.down_proj.weight, 0.0125);  // 0.05 / sqrt(2 * 8)
  REQUIRE_FALSE(test::same_bits(layer.gate_proj.weight.value, layer.up_proj.weight.value));
}

TEST_CASE("initialize: depends on the seed alone, not on the threads", "[nn][property]") {
  nn::embedding<> one(301, 77), many(301, 77), other(301, 77);
  nn::initialize(cpu{.threads = 1}, one, {.seed = 1, .layers = 1});
  nn::initialize(cpu{.threads = 3}, many, {.seed = 1, .layers = 1});
  nn::initialize(cpu{}, other, {.seed = 2, .layers = 1});
  REQUIRE(test::same_bits(one.weight.value, many.weight.value));
  REQUIRE_FALSE(test::same_bits(one.weight.value, other.weight.value));
}

TEST_CASE("initialize: norms and biases keep their values", "[nn]") {
  nn::rms_norm<> norm(5);
  nn::linear<> layer(3, 4, {.bias = true});
  nn::initialize(cpu{}, norm, {.layers = 1});
  nn::initialize(cpu{}, layer, {.layers = 1});
  REQUIRE(std::all_of(norm.weight.value.begin(), norm.weight.value.end(), [](float w) { return w == 1.0f; }));
  REQUIRE(std::all_of(layer.bias.value.begin(), layer.bias.value.end(), [](float b) { return b == 0.0f; }));
  REQUIRE(layer.weight.value(0, 0) != 0.0f);
}

TEST_CASE("initialize: wrong options are errors", "[nn][errors]") {
  nn::linear<> layer(3, 4);
  REQUIRE_THROWS_WITH(nn::initialize(cpu{}, layer), ContainsSubstring("layers (0) must be >= 1"));
  REQUIRE_THROWS_AS(nn::initialize(cpu{}, layer, {.stddev = -1, .layers = 1}), precondition_error);
  REQUIRE_THROWS_AS(nn::initialize(cpu{.threads = -1}, layer, {.layers = 1}), precondition_error);
  REQUIRE(layer.weight.value(0, 0) == 0.0f);
}
