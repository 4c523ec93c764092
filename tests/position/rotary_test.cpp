// SPDX-License-Identifier: Apache-2.0
#include <seqprim/position/none.hpp>
#include <seqprim/position/rotary.hpp>
#include <seqprim/position/sequential.hpp>
#include <seqprim/position/token_ids.hpp>

#include <cmath>
#include <limits>
#include <support/catch.hpp>
#include <support/random.hpp>
#include <vector>

using namespace seqprim;

namespace {

/// The definition, in long double.
long double exact_angle(index_t position, index_t c, index_t rotary_dim, double theta) {
  return static_cast<long double>(position) *
         std::pow(static_cast<long double>(theta),
                  -2.0L * static_cast<long double>(c) / static_cast<long double>(rotary_dim));
}

template <class Layout>
void rotate_by_definition(const position::rotary<Layout>& r, index_t position, const double* x, double* y,
                          index_t head_dim) {
  for (index_t d = 0; d < head_dim; ++d) y[d] = x[d];
  for (index_t c = 0; c < r.rotary_dim / 2; ++c) {
    constexpr bool split = std::is_same_v<Layout, position::half_split>;
    const index_t i = r.begin + (split ? c : 2 * c), j = r.begin + (split ? c + r.rotary_dim / 2 : 2 * c + 1);
    const long double a = exact_angle(position, c, r.rotary_dim, r.frequencies.theta);
    const auto cosine = static_cast<double>(std::cos(a)) * static_cast<double>(r.attention_factor);
    const auto sine = static_cast<double>(std::sin(a)) * static_cast<double>(r.attention_factor);
    y[i] = x[i] * cosine - x[j] * sine;
    y[j] = x[j] * cosine + x[i] * sine;
  }
}

}  // namespace

TEST_CASE("rotary: cosines and sines are right to 1e-7 up to position 10^8, to 1e-6 up to 10^9",
          "[position][property]") {
  const auto theta = GENERATE(10000.0, 500000.0);
  const auto dim = GENERATE(as<index_t>{}, 2, 34, 128);
  const position::rotary<position::half_split> r{.rotary_dim = dim, .frequencies = {.theta = theta}};
  std::vector<float> table(static_cast<std::size_t>(dim));
  for (const index_t n : {0, 1, 2, 3, 100, 4095, -4095, 131071, 1048575, 99999989, 999999937}) {
    const long double tolerance = n <= 100000000 ? 1e-7L : 1e-6L;
    r.table(static_cast<double>(n), table.data());
    for (index_t c = 0; c < dim / 2; ++c) {
      const long double a = exact_angle(n, c, dim, theta);
      CAPTURE(theta, dim, n, c);
      REQUIRE(std::fabs(static_cast<long double>(table[static_cast<std::size_t>(c)]) - std::cos(a)) <= tolerance);
      REQUIRE(std::fabs(static_cast<long double>(table[static_cast<std::size_t>(dim / 2 + c)]) - std::sin(a)) <=
              tolerance);
    }
  }
}

TEST_CASE("rotary: double tables are right to 1e-14 at ordinary positions", "[position][property]") {
  const position::rotary<position::interleaved> r{.rotary_dim = 64};
  double table[64];
  for (index_t n = -50; n < 50; ++n) {
    r.table(static_cast<double>(n), table);
    for (index_t c = 0; c < 32; ++c) {
      const long double a = exact_angle(n, c, 64, 10000.0);
      REQUIRE(std::fabs(static_cast<double>(std::cos(a)) - table[c]) <= 4e-14);
      REQUIRE(std::fabs(static_cast<double>(std::sin(a)) - table[32 + c]) <= 4e-14);
    }
  }
}

TEMPLATE_TEST_CASE("rotary: rotates the pairs of its layout and passes the other channels", "[position][property]",
                   position::half_split, position::interleaved) {
  test::random_numbers random(11);
  for (const auto& [head_dim, dim, begin] :
       {std::tuple<index_t, index_t, index_t>{64, 64, 0}, {20, 8, 0}, {24, 8, 16}, {50, 34, 7}, {7, 2, 5}}) {
    const position::rotary<TestType> r{.rotary_dim = dim, .begin = begin, .attention_factor = 1.25f};
    r.validate();
    r.validate(head_dim);
    const auto size = static_cast<std::size_t>(head_dim);
    std::vector<float> x(size), y(size), table(size);
    std::vector<double> exact_x(size), exact_y(size);
    for (std::size_t d = 0; d < size; ++d) exact_x[d] = static_cast<double>(x[d] = random.normal());
    for (const index_t n : {0, 3, 1000}) {
      r.table(static_cast<double>(n), table.data());
      r.apply(x.data(), y.data(), table.data(), head_dim);
      rotate_by_definition(r, n, exact_x.data(), exact_y.data(), head_dim);
      for (std::size_t d = 0; d < size; ++d) {
        CAPTURE(head_dim, dim, begin, n, d);
        REQUIRE(std::fabs(static_cast<double>(y[d]) - exact_y[d]) <= 2e-6);
        const auto channel = static_cast<index_t>(d);
        if (channel < begin || channel >= begin + dim) REQUIRE(y[d] == x[d]);
      }
      std::vector<float> in_place = x;
      r.apply(in_place.data(), in_place.data(), table.data(), head_dim);
      REQUIRE(in_place == y);
    }
  }
}

TEMPLATE_TEST_CASE("rotary: the score of two rotated vectors depends on the difference of their positions only",
                   "[position][property]", position::half_split, position::interleaved) {
  test::random_numbers random(12);
  const position::rotary<TestType> r{.rotary_dim = 32};
  double q[32], k[32], rotated_q[32], rotated_k[32], table[32];
  for (double& v : q) v = static_cast<double>(random.normal());
  for (double& v : k) v = static_cast<double>(random.normal());
  const auto score = [&](index_t n_q, index_t n_k) {
    r.table(static_cast<double>(n_q), table);
    r.apply(q, rotated_q, table, 32);
    r.table(static_cast<double>(n_k), table);
    r.apply(k, rotated_k, table, 32);
    double sum = 0;
    for (int d = 0; d < 32; ++d) sum += rotated_q[d] * rotated_k[d];
    return sum;
  };
  const double expected = score(17, 5);
  for (const index_t shift : {-40, 1, 100, 100000}) REQUIRE(std::fabs(score(17 + shift, 5 + shift) - expected) <= 1e-9);
  REQUIRE(std::fabs(score(18, 5) - expected) > 1e-3);
}

TEMPLATE_TEST_CASE("rotary: apply_transposed is the transpose of apply", "[position][property]", position::half_split,
                   position::interleaved) {
  test::random_numbers random(13);
  const position::rotary<TestType> r{.rotary_dim = 36, .begin = 2, .attention_factor = 0.75f};
  double x[40], g[40], y[40], back[40], table[36];
  for (double& v : x) v = static_cast<double>(random.normal());
  for (double& v : g) v = static_cast<double>(random.normal());
  r.table(77, table);
  r.apply(x, y, table, 40);
  r.apply_transposed(g, back, table, 40);
  double forward = 0, backward = 0, derivative_error = 0;
  for (int d = 0; d < 40; ++d) {
    forward += g[d] * y[d];
    backward += back[d] * x[d];
  }
  REQUIRE(std::fabs(forward - backward) <= 1e-13 * 40);
  // Central differences of <g, apply(x)>: a rotation is linear, so they are exact up to rounding.
  for (int d = 0; d < 40; ++d) {
    double moved[40], up[40], down[40];
    for (int e = 0; e < 40; ++e) moved[e] = x[e] + (e == d ? 0.5 : 0.0);
    r.apply(moved, up, table, 40);
    moved[d] -= 1.0;
    r.apply(moved, down, table, 40);
    double slope = 0;
    for (int e = 0; e < 40; ++e) slope += g[e] * (up[e] - down[e]);
    derivative_error = std::fmax(derivative_error, std::fabs(slope - back[d]));
  }
  REQUIRE(derivative_error <= 1e-13);
}

TEMPLATE_TEST_CASE("rotary: float16 and bfloat16 are rotated in float and rounded once", "[position]", float16,
                   bfloat16) {
  test::random_numbers random(14);
  const position::rotary<position::half_split> r{.rotary_dim = 38};
  TestType x[38], y[38];
  float wide[38], exact[38], table[38];
  for (int d = 0; d < 38; ++d) wide[d] = static_cast<float>(x[d] = static_cast<TestType>(random.normal()));
  r.table(123, table);
  r.apply(x, y, table, 38);
  r.apply(wide, exact, table, 38);
  for (int d = 0; d < 38; ++d) REQUIRE(y[d].bits == static_cast<TestType>(exact[d]).bits);
}

TEST_CASE("rotary: rejects odd or missing dimensions, a block that does not fit, and a senseless base",
          "[position][errors]") {
  using rotary = position::rotary<position::half_split>;
  REQUIRE_THROWS_WITH(position::validate(rotary{.rotary_dim = 7}), ContainsSubstring("rotary_dim (7) must be even"));
  REQUIRE_THROWS_AS(position::validate(rotary{.rotary_dim = 0, .begin = 6}, 6), precondition_error);
  REQUIRE_THROWS_AS(position::validate(rotary{}, 7), precondition_error);
  REQUIRE_THROWS_AS(position::validate(rotary{.rotary_dim = -2}), precondition_error);
  REQUIRE_THROWS_AS(position::validate(rotary{.rotary_dim = 8, .begin = -1}), precondition_error);
  for (const double theta : {0.0, -1.0, std::numeric_limits<double>::infinity(), std::nan("")})
    REQUIRE_THROWS_AS(position::validate(rotary{.rotary_dim = 8, .frequencies = {.theta = theta}}), precondition_error);
  REQUIRE_THROWS_AS(position::validate(rotary{.rotary_dim = 8, .attention_factor = std::nanf("")}), precondition_error);
  REQUIRE_NOTHROW(position::validate(rotary{.rotary_dim = 8, .begin = 4}, 12));
  REQUIRE_THROWS_WITH(position::validate(rotary{.rotary_dim = 8, .begin = 5}, 12),
                      ContainsSubstring("begin (5) + rotary_dim (8) must be <= head_dim (12)"));
}

TEST_CASE("none: changes nothing and is known to", "[position]") {
  STATIC_REQUIRE_FALSE(position::encodes<position::none>);
  STATIC_REQUIRE(position::encodes<position::rotary<position::interleaved>>);
  STATIC_REQUIRE(position::encoding<position::none>);
  REQUIRE(position::encoded_dim(position::none{}, 5) == 5);
  REQUIRE(position::keys_may_be_cached(position::none{}));
}
