// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/position/position.hpp>

#include <cmath>
#include <position/encodings.hpp>
#include <support/catch.hpp>
#include <support/random.hpp>

using namespace seqprim;
using position::side;

namespace {

struct problem {
  tensor<float, 2> theta;
  tensor<double, 2> places;
  tensor<double, 4> x, dy;

  problem(index_t batch, index_t heads, index_t len, index_t dim)
      : theta(heads, ceil_div(dim, index_t{2})),
        places(len, 2),
        x(batch, heads, len, dim),
        dy(batch, heads, len, 2 * dim) {
    test::random_numbers random(41);
    random.fill(theta);
    random.fill(x);
    random.fill(dy);
    for (index_t i = 0; i < len; ++i) {
      places(i, 0) = static_cast<double>(i / 9);
      places(i, 1) = 0.25 * static_cast<double>(i % 9);
    }
  }
  [[nodiscard]] test::cosine_lrpe<2> encoding() const { return {.theta = theta.view()}; }
  [[nodiscard]] position::coordinates<2> map() const { return {.values = places.view()}; }
};

}  // namespace

TEST_CASE("parameter_gradient: agrees with central differences of encode", "[position][property]") {
  problem p(2, 3, 70, 5);
  tensor<double, 1> gradient(9);
  gradient.fill(55);
  // example-begin gradient
  // x: queries before their encoding [batch, heads, len, head_dim]; dy: gradients of the encoded ones
  position::parameter_gradient(cpu{}, p.encoding(), p.map(), side::query, p.x, p.dy, gradient);  // [parameters]
  // example-end gradient
  const auto objective = [&] {
    tensor<double, 4> y(2, 3, 70, 10);
    position::encode(cpu{}, p.encoding(), p.map(), side::query, p.x, y);
    double sum = 0;
    for (index_t i = 0; i < y.size(); ++i) sum += y.data()[i] * p.dy.data()[i];
    return sum;
  };
  for (index_t n = 0; n < p.theta.size(); ++n) {
    float& theta = p.theta.data()[n];
    const float kept = theta, step = 0x1p-10f;
    theta = kept + step;
    const double high = objective(), above = static_cast<double>(theta);
    theta = kept - step;
    const double low = objective(), below = static_cast<double>(theta);
    theta = kept;
    CAPTURE(n);
    // step^2 / 6 times a third derivative: up to 7^3 per pair
    REQUIRE(gradient(n) == Approx((high - low) / (above - below)).margin(0.05).epsilon(1e-4));
  }
}

TEST_CASE("parameter_gradient: the same bits for any number of threads", "[position]") {
  const problem p(2, 2, 150, 8);
  tensor<double, 1> one(8), many(8);
  position::parameter_gradient(cpu{.threads = 1}, p.encoding(), p.map(), side::key, p.x, p.dy, one);
  position::parameter_gradient(cpu{.threads = 5}, p.encoding(), p.map(), side::key, p.x, p.dy, many);
  for (index_t n = 0; n < 8; ++n) REQUIRE(one(n) == many(n));
}

TEST_CASE("parameter_gradient: rejects what does not fit", "[position][errors]") {
  const problem p(1, 2, 6, 8);
  tensor<double, 1> gradient(8), shorter(7);
  const tensor<double, 4> narrow(1, 2, 6, 8);
  REQUIRE_THROWS_WITH(position::parameter_gradient(cpu{}, p.encoding(), p.map(), side::key, p.x, p.dy, shorter),
                      ContainsSubstring("gradient has parameters 7 (axis 0), but the encoding has parameters 8"));
  REQUIRE_THROWS_WITH(position::parameter_gradient(cpu{}, p.encoding(), p.map(), side::key, p.x, narrow, gradient),
                      ContainsSubstring("dy has head_dim 8 (axis 3), but encoded x has head_dim 16"));
}
