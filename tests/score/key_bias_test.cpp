// SPDX-License-Identifier: Apache-2.0
#include <seqprim/attention/backward.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/score/key_bias.hpp>

#include <limits>
#include <support/catch.hpp>
#include <support/random.hpp>

using namespace seqprim;

TEST_CASE("key_bias: adds the entry of the key, of its batch row and head where they differ", "[score]") {
  test::random_numbers random(3);
  for (const index_t batch : {1, 2})
    for (const index_t heads : {1, 3}) {
      tensor<float, 3> bias(batch, heads, 7);
      random.fill(bias);
      const score::key_bias f{bias.view()};
      score::validate(f, {.batch = 2, .heads = 3, .q_len = 9, .k_len = 7, .start = -2});
      for (index_t b = 0; b < 2; ++b)
        for (index_t h = 0; h < 3; ++h)
          for (index_t k = 0; k < 7; ++k) {
            const auto bound = score::bind(f, b, h);
            const float expected = bias(b % batch, h % heads, k);
            REQUIRE(bound(2.0f, {40, k}) == 2.0f + expected);
            REQUIRE(bound(2.0, {40, k}) == 2.0 + static_cast<double>(expected));
            REQUIRE(bound.derivative(2.0f, {40, k}) == 1.0f);
          }
    }
}

TEST_CASE("key_bias: rejects tables that do not fit the call", "[score][errors]") {
  // example-begin key_bias
  tensor<float, 3> log_weights(1, 1, 8);  // one weight for each of 8 keys, the same in every batch row and head
  const score::key_bias weighted{log_weights.view()};
  // example-end key_bias
  REQUIRE_NOTHROW(score::validate(weighted, {.batch = 4, .heads = 3, .q_len = 2, .k_len = 8}));
  REQUIRE_THROWS_WITH(score::validate(weighted, {.k_len = 9}),
                      ContainsSubstring("score::key_bias: bias is for 8 keys but k_len is 9. See "));
  const tensor<float, 3> other(2, 3, 8);
  REQUIRE_THROWS_WITH(score::validate(score::key_bias{other.view()}, {.batch = 3, .heads = 3, .k_len = 8}),
                      ContainsSubstring("bias has 2 batch rows (axis 0) but the call has 3"));
  REQUIRE_THROWS_WITH(score::validate(score::key_bias{other.view()}, {.batch = 2, .heads = 6, .k_len = 8}),
                      ContainsSubstring("bias has 3 heads (axis 1) but the call has 6"));
  REQUIRE_THROWS_WITH(
      score::validate(score::key_bias{other.view().transposed(1, 2)}, {.batch = 2, .heads = 8, .k_len = 3}),
      ContainsSubstring("the last axis of bias must be contiguous, its stride is 8"));
}

TEMPLATE_TEST_CASE("key_bias: rows that see keys of -inf alone take no part in backward, whatever dout holds there",
                   "[score][edge]", float, bfloat16) {
  using T = TestType;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  test::random_numbers random(5);
  const index_t len = 90, dim = 24;  // query heads 0 and 1 share a key head; rows 0 .. 69 of head 1 see keys of -inf
  tensor<T, 4> q(1, 2, len, dim), k(1, 1, len, dim), v(1, 1, len, dim), out(1, 2, len, dim), dout(1, 2, len, dim);
  for (auto* x : {&q, &k, &v, &dout}) random.fill(*x);
  tensor<float, 3> lse(1, 2, len), bias(1, 2, len);
  random.fill(bias);
  for (index_t j = 0; j < 70; ++j) bias(0, 1, j) = -infinity;
  const attention::softmax op{mask::causal{}, score::key_bias{bias.view()}};
  struct gradients {
    tensor<T, 4> dq{1, 2, 90, 24}, dk{1, 1, 90, 24}, dv{1, 1, 90, 24};
    tensor<float, 2> dtable{2, 90};
  };
  const auto backward = [&] {
    gradients g;
    attention::backward(cpu{}, op, q, k, v, out, lse, dout,
                        attention::gradients{}.dq(g.dq).dk(g.dk).dv(g.dv).dtable(g.dtable));
    return g;
  };
  attention::forward(cpu{}, op, q, k, v, out, lse);
  REQUIRE(lse(0, 1, 69) == -infinity);
  REQUIRE(lse(0, 1, 70) > -infinity);
  for (index_t i = 0; i < 70; ++i)
    for (index_t d = 0; d < dim; ++d) dout(0, 1, i, d) = T(0.0f);
  const gradients expected = backward();
  for (index_t i = 0; i < 70; ++i)
    for (index_t d = 0; d < dim; ++d) dout(0, 1, i, d) = T(i % 2 == 0 ? infinity : std::nanf(""));
  const gradients g = backward();
  const auto same = [](const auto& a, const auto& b) {
    for (index_t i = 0; i < a.size(); ++i) REQUIRE(static_cast<float>(a.data()[i]) == static_cast<float>(b.data()[i]));
  };
  same(g.dq, expected.dq);
  same(g.dk, expected.dk);
  same(g.dv, expected.dv);
  same(g.dtable, expected.dtable);
}
