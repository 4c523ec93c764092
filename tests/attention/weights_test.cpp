// SPDX-License-Identifier: Apache-2.0
#include <seqprim/attention/forward.hpp>
#include <seqprim/attention/weights.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/position/position.hpp>
#include <seqprim/score/score.hpp>

#include <attention/problem.hpp>
#include <cmath>
#include <limits>
#include <support/catch.hpp>
#include <support/random.hpp>

using namespace seqprim;
using test::attention_problem;
using test::random_numbers;

namespace {

/// out = weights v, for the weights of the second pass and the out of the first.
template <class T, class Op> void require_weights(const Op& op, const attention_problem<T>& p) {
  tensor<T, 4> out(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> lse(p.batch, p.heads, p.q_len);
  tensor<float, 4> weights(p.batch, p.heads, p.q_len, p.k_len);
  weights.fill(7.0f);
  attention::forward(cpu{}, op, p.q, p.k, p.v, out, lse);
  attention::weights(cpu{}, op, p.q, p.k, lse, weights);
  const double tolerance = 40 * test::rounding<T> + 1e-5;
  for (index_t b = 0; b < p.batch; ++b)
    for (index_t h = 0; h < p.heads; ++h)
      for (index_t i = 0; i < p.q_len; ++i) {
        const index_t g = h / (p.heads / p.kv_heads);
        double sum = 0;
        for (index_t j = 0; j < p.k_len; ++j) sum += static_cast<double>(weights(b, h, i, j));
        const double expected =
            std::isinf(lse(b, h, i)) ? 0 : 1 - std::exp(static_cast<double>(op.sink_of(h) - lse(b, h, i)));
        CAPTURE(b, h, i, sum, expected);
        REQUIRE(std::fabs(sum - expected) <= tolerance);
        for (index_t d = 0; d < p.value_dim; ++d) {
          double value = 0;
          for (index_t j = 0; j < p.k_len; ++j)
            value += static_cast<double>(weights(b, h, i, j)) * static_cast<double>(p.v(b, g, j, d));
          REQUIRE(std::fabs(value - static_cast<double>(out(b, h, i, d))) <= 4 * tolerance);
        }
      }
}

}  // namespace

TEMPLATE_TEST_CASE("weights: times the values they are what forward computes", "[attention][property]", float,
                   bfloat16) {
  random_numbers random(81);
  for (const auto& [q_len, k_len] : {std::pair<index_t, index_t>{70, 150}, {1, 129}, {65, 3}, {5, 0}}) {
    attention_problem<TestType> p(2, 4, 2, q_len, k_len, 16, 8);
    p.fill(random);
    require_weights(attention::softmax{mask::causal{}}, p);
    require_weights(
        attention::softmax{mask::causal{} & ~mask::key_range{3, 9}, score::alibi{.heads = 4}}.with_sink(0.5f), p);
    require_weights(attention::softmax{mask::attention_sinks{.sinks = 2, .window = 20}, score::soft_cap{.cap = 2},
                                       position::rotary<position::half_split>{.rotary_dim = 16}},
                    p);
  }
}

TEST_CASE("weights: with the lse of a softmax over more keys they are shares of it", "[attention]") {
  random_numbers random(82);
  attention_problem<float> p(1, 2, 2, 9, 40, 8, 8);
  p.fill(random);
  const auto whole = attention::softmax{mask::full{}};
  const auto part = attention::softmax{mask::key_range{10, 25}};
  tensor<float, 4> out(1, 2, 9, 8), all(1, 2, 9, 40), some(1, 2, 9, 40);
  tensor<float, 3> lse(1, 2, 9);
  const auto &q = p.q, &k = p.k, &v = p.v;
  // example-begin weights
  attention::forward(cpu{}, whole, q, k, v, out, lse);
  attention::weights(cpu{}, whole, q, k, lse, all);  // all [batch, heads, q_len, k_len]: rows sum to one
  // example-end weights
  attention::weights(cpu{}, part, p.q, p.k, lse, some);
  for (index_t h = 0; h < 2; ++h)
    for (index_t i = 0; i < 9; ++i)
      for (index_t j = 0; j < 40; ++j) REQUIRE(some(0, h, i, j) == (10 <= j && j < 25 ? all(0, h, i, j) : 0.0f));
}

TEST_CASE("weights: shapes that disagree and results that overlap are refused", "[attention][errors]") {
  tensor<float, 4> q(1, 2, 4, 8), k(1, 2, 6, 8), p(1, 2, 4, 5), right(1, 2, 4, 6);
  tensor<float, 3> lse(1, 2, 4), short_lse(1, 2, 3);
  REQUIRE_THROWS_WITH(attention::weights(cpu{}, attention::softmax{}, q, k, lse, p),
                      ContainsSubstring("attention::weights") && ContainsSubstring("weights"));
  REQUIRE_THROWS_AS(attention::weights(cpu{}, attention::softmax{}, q, k, short_lse, right), precondition_error);
  REQUIRE_THROWS_WITH(
      attention::weights(cpu{}, attention::softmax{}, q, k, lse, k.view().slice(3, {0, 6}).slice(2, {0, 4})),
      ContainsSubstring("overlaps"));
}
