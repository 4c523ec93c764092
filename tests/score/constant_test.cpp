// SPDX-License-Identifier: Apache-2.0
#include <seqprim/attention/forward.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/score/constant.hpp>

#include <cmath>
#include <limits>
#include <support/catch.hpp>
#include <support/golden.hpp>
#include <support/random.hpp>

using namespace seqprim;

TEST_CASE("constant: every logit is the same, whatever it was", "[score]") {
  constexpr score::constant f{.logit = 1.5f};
  for (const float s : {-3.0f, 0.0f, 7.0f, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    REQUIRE(f(s, {3, 2}) == 1.5f);
    REQUIRE(f.derivative(s, {3, 2}) == 0.0f);
  }
  STATIC_REQUIRE(f(2.0, {}) == 1.5);
}

TEST_CASE("constant: attention is the mean of the visible values", "[score]") {
  const cpu executor;
  const index_t len = 37;
  tensor<float, 4> q(1, 1, len, 4), k(1, 1, len, 4), v(1, 1, len, 4), out(1, 1, len, 4);
  tensor<float, 3> lse(1, 1, len);
  test::random_numbers random(1);
  random.fill(q);
  random.fill(k);
  random.fill(v);
  // example-begin constant
  const attention::softmax uniform{mask::causal{}, score::constant{}};
  attention::forward(executor, uniform, q, k, v, out, lse);  // the mean of the values so far; lse = log(their number)
  // example-end constant
  double sum = 0;
  for (index_t i = 0; i < len; ++i) {
    sum += static_cast<double>(v(0, 0, i, 2));
    const auto count = static_cast<double>(i + 1);
    REQUIRE(std::fabs(out(0, 0, i, 2) - sum / count) <= 1e-6);
    REQUIRE(std::fabs(lse(0, 0, i) - std::log(count)) <= 1e-6);
  }
}

TEST_CASE("constant: golden values of uniform attention", "[score][golden]") {
  const golden g("masks-multimodal", "causalmm_vision_edits");
  const auto v = g.load<float, 4>("v"), expected = g.load<float, 4>("out_uniform");
  tensor<float, 4> q(v.extent(0), v.extent(1), v.extent(2), 1), out(v.extent(0), v.extent(1), v.extent(2), v.extent(3));
  attention::forward(cpu{}, attention::softmax{mask::full{}, score::constant{}}, q, q, v, out);
  for (index_t i = 0; i < out.size(); ++i) REQUIRE(std::fabs(out.data()[i] - expected.data()[i]) <= 1e-6f);
}

TEST_CASE("constant: rejects a logit that is not finite", "[score][errors]") {
  for (const float logit : {std::numeric_limits<float>::infinity(), std::nanf("")})
    REQUIRE_THROWS_WITH(score::validate(score::constant{logit}),
                        ContainsSubstring("score::constant: logit (") && ContainsSubstring(") must be finite"));
}
