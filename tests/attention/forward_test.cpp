// SPDX-License-Identifier: Apache-2.0
#include <seqprim/attention/forward.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/score/score.hpp>

#include <attention/kernels.hpp>
#include <attention/problem.hpp>
#include <attention/tables.hpp>
#include <support/catch.hpp>

using namespace seqprim;
namespace kernels = test::kernels;
using test::attention_problem;
using test::random_numbers;

namespace {

/// Forward against the definition within the error budget: twice what the naive loop loses, plus two roundings of out.
template <class T, class Op> void require_close(const Op& op, const attention_problem<T>& p) {
  tensor<T, 4> out(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> lse(p.batch, p.heads, p.q_len);
  out.fill(T(77.0f));
  lse.fill(77.0f);
  kernels::forward(cpu{}, op, p.q, p.k, p.v, out, lse);

  tensor<double, 4> exact(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<double, 3> exact_lse(p.batch, p.heads, p.q_len);
  attention::reference::forward(op, p.q, p.k, p.v, exact, exact_lse);
  tensor<float, 4> naive(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> naive_lse(p.batch, p.heads, p.q_len);
  kernels::naive_forward(op, p, naive, naive_lse);

  const double size = std::max(1.0, test::largest(exact)), lse_size = std::max(1.0, test::largest(exact_lse));
  const double budget = 2 * test::distance(naive, exact) + 2 * (test::rounding<T> + test::rounding<float>)*size;
  const double lse_budget = 2 * test::distance(naive_lse, exact_lse) + 4 * test::rounding<float> * lse_size;
  CAPTURE(p.batch, p.heads, p.kv_heads, p.q_len, p.k_len, p.head_dim, p.value_dim, budget, lse_budget);
  REQUIRE(test::distance(out, exact) <= budget);
  REQUIRE(test::distance(lse, exact_lse) <= lse_budget);
}

}  // namespace

TEMPLATE_TEST_CASE("forward: agrees with the definition for random shapes and masks", "[attention][property]", float,
                   float16, bfloat16) {
  random_numbers random(101);
  for (int trial = 0; trial < 60; ++trial) {
    const auto p = test::random_problem<TestType>(random);
    const index_t offset = random.integer(0, 2) == 0 ? random.integer(-40, 40) : p.k_len - p.q_len;
    CAPTURE(trial, offset);
    switch (trial % 6) {
      case 0: require_close(attention::softmax{}, p); break;
      case 1: require_close(attention::softmax{mask::causal{}}.starting_at(offset), p); break;
      case 2:
        require_close(attention::softmax{mask::sliding_window{.left = random.integer(0, 60)}}.starting_at(offset), p);
        break;
      case 3:
        require_close(attention::softmax{mask::attention_sinks{.sinks = 3, .window = 20}}
                          .starting_at(offset)
                          .tiled_heads()
                          .with_sink(4 * random.uniform()),
                      p);
        break;
      case 4:
        require_close(attention::softmax{mask::causal{} & ~mask::key_range{random.integer(0, 9), 30},
                                         score::soft_cap{.cap = 2.0f}}
                          .starting_at(offset),
                      p);
        break;
      default:
        require_close(
            attention::softmax{mask::prefix{.length = random.integer(0, p.k_len)}, score::alibi{.heads = p.heads}}
                .starting_at(offset)
                .scaled(0.37f),
            p);
    }
  }
}

TEMPLATE_TEST_CASE("forward: scores that read tables agree with the definition", "[attention][property]", float,
                   float16, bfloat16) {
  random_numbers random(113);
  for (int trial = 0; trial < 30; ++trial) {
    const auto p = test::random_problem<TestType>(random);
    const index_t start = trial % 2 == 0 ? std::max<index_t>(p.k_len - p.q_len, 0) : random.integer(0, 30);
    const test::score_tables tables(random, p, start);
    CAPTURE(trial, start);
    test::with_table_score(tables, trial, [&](const auto& score) {
      if (trial % 3 == 0) {
        require_close(attention::softmax{mask::full{}, score}.starting_at(start), p);
      } else {
        require_close(attention::softmax{mask::causal_window(70), score}.starting_at(start), p);
      }
    });
  }
}

TEST_CASE("forward: a constant score gives the mean of the visible values", "[attention][property]") {
  random_numbers random(114);
  for (int trial = 0; trial < 6; ++trial) {
    const auto p = test::random_problem<float>(random);
    require_close(attention::softmax{mask::causal{}, score::constant{2.0f}}, p);
  }
}

TEST_CASE("forward: rows that see nothing give zeros and lse -inf, whatever lies in memory", "[attention][edge]") {
  random_numbers random(5);
  attention_problem<float> p(1, 2, 1, 70, 40, 16, 8);
  p.fill(random);
  tensor<float, 4> out(1, 2, 70, 8);
  tensor<float, 3> lse(1, 2, 70);
  out.fill(std::nanf(""));
  lse.fill(std::nanf(""));
  kernels::forward(cpu{}, attention::softmax{mask::causal{}}.starting_at(-30), p.q, p.k, p.v, out, lse);
  for (index_t i = 0; i < 70; ++i)
    for (index_t d = 0; d < 8; ++d) {
      REQUIRE(std::isfinite(out(0, 1, i, d)));
      if (i < 30) REQUIRE(out(0, 1, i, d) == 0.0f);
      REQUIRE(std::isinf(lse(0, 1, i)) == (i < 30));
    }
}

TEST_CASE("forward: no keys at all, no queries at all, no heads, no batch", "[attention][edge]") {
  for (const index_t zero : {0, 1, 2, 3}) {
    attention_problem<float> p(zero == 0 ? 0 : 2, zero == 1 ? 0 : 2, zero == 1 ? 0 : 2, zero == 2 ? 0 : 5,
                               zero == 3 ? 0 : 7, 4, 4);
    tensor<float, 4> out(p.batch, p.heads, p.q_len, 4);
    tensor<float, 3> lse(p.batch, p.heads, p.q_len);
    out.fill(3.0f);
    kernels::forward(cpu{}, attention::softmax{}, p.q, p.k, p.v, out, lse);
    for (const float x : out) REQUIRE(x == 0.0f);
    for (const float x : lse) REQUIRE(x == -std::numeric_limits<float>::infinity());
  }
}

TEST_CASE("forward: keys and values nobody sees are never used, even NaN and infinity", "[attention][edge]") {
  random_numbers random(6);
  attention_problem<float> p(2, 2, 2, 50, 150, 16, 24);
  p.fill(random);
  const attention_problem<float> clean = p;
  const index_t lengths[] = {33, 120};
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t j = lengths[b]; j < 150; ++j)
        for (index_t d = 0; d < 24; ++d) {
          p.v(b, h, j, d) = j % 2 == 0 ? std::nanf("") : std::numeric_limits<float>::infinity();
          if (d < 16) p.k(b, h, j, d) = std::nanf("");
        }
  const attention::softmax op{mask::key_padding{.lengths = {lengths, 2}, .k_len = 150}};
  tensor<float, 4> out(2, 2, 50, 24), expected(2, 2, 50, 24);
  kernels::forward(cpu{}, op, p.q, p.k, p.v, out);
  kernels::forward(cpu{}, op, clean.q, clean.k, clean.v, expected);
  REQUIRE(std::equal(out.begin(), out.end(), expected.begin()));
}

TEST_CASE("forward: a NaN stays in the rows that see it", "[attention][edge]") {
  random_numbers random(8);
  attention_problem<float> p(1, 1, 1, 100, 100, 16, 16);
  p.fill(random);
  tensor<float, 4> clean(1, 1, 100, 16), out(1, 1, 100, 16);
  const attention::softmax op{mask::causal{}};
  kernels::forward(cpu{}, op, p.q, p.k, p.v, clean);
  SECTION("in a query") {
    p.q(0, 0, 42, 3) = std::nanf("");
    kernels::forward(cpu{}, op, p.q, p.k, p.v, out);
    for (index_t i = 0; i < 100; ++i)
      for (index_t d = 0; d < 16; ++d) {
        if (i == 42) REQUIRE(std::isnan(out(0, 0, i, d)));
        if (i != 42) REQUIRE(out(0, 0, i, d) == clean(0, 0, i, d));
      }
  }
  SECTION("in a key or a value") {
    (GENERATE(false, true) ? p.k : p.v)(0, 0, 42, 3) = std::nanf("");
    kernels::forward(cpu{}, op, p.q, p.k, p.v, out);
    for (index_t i = 0; i < 100; ++i) {
      REQUIRE(std::isnan(out(0, 0, i, 3)) == (i >= 42));
      if (i < 42) REQUIRE(std::abs(out(0, 0, i, 3) - clean(0, 0, i, 3)) <= 1e-6f);
    }
  }
}

TEST_CASE("forward: equal scores average, huge logits select", "[attention][edge]") {
  attention_problem<float> p(1, 1, 1, 3, 200, 8, 1);
  for (index_t j = 0; j < 200; ++j) p.v(0, 0, j, 0) = static_cast<float>(j);
  tensor<float, 4> out(1, 1, 3, 1);
  tensor<float, 3> lse(1, 1, 3);
  kernels::forward(cpu{}, attention::softmax{}, p.q, p.k, p.v, out, lse);
  REQUIRE(out(0, 0, 0, 0) == Approx(99.5).epsilon(1e-6));
  REQUIRE(lse(0, 0, 0) == Approx(std::log(200.0)).epsilon(1e-6));

  p.q.fill(100.0f);
  for (index_t d = 0; d < 8; ++d) {
    p.k(0, 0, 7, d) = 100.0f;     // logit 8e4 / sqrt(8)
    p.k(0, 0, 150, d) = -100.0f;  // logit -8e4 / sqrt(8)
  }
  kernels::forward(cpu{}, attention::softmax{}, p.q, p.k, p.v, out, lse);
  REQUIRE(out(0, 0, 1, 0) == 7.0f);
  REQUIRE(lse(0, 0, 1) == Approx(8e4 / std::sqrt(8.0)).epsilon(1e-6));
}

TEST_CASE("forward: the number of threads and the place in the batch do not change a bit", "[attention][property]") {
  random_numbers random(9);
  attention_problem<float> p(3, 4, 2, 130, 170, 32, 32);
  p.fill(random);
  const auto op = attention::softmax{mask::causal{}}.starting_at(40);
  tensor<float, 4> one(3, 4, 130, 32), many(3, 4, 130, 32), alone(1, 4, 130, 32);
  kernels::forward(cpu{.threads = 1}, op, p.q, p.k, p.v, one);
  for (const int threads : {2, 5}) {
    kernels::forward(cpu{.threads = threads}, op, p.q, p.k, p.v, many);
    REQUIRE(std::equal(one.begin(), one.end(), many.begin()));
  }
  kernels::forward(cpu{}, op, p.q.view().slice(0, {2, 3}), p.k.view().slice(0, {2, 3}), p.v.view().slice(0, {2, 3}),
                   alone);
  REQUIRE(std::equal(alone.begin(), alone.end(), &one(2, 0, 0, 0)));
}

TEST_CASE("forward: reads and writes through strides", "[attention][property]") {
  random_numbers random(10);
  attention_problem<float> p(2, 3, 3, 20, 30, 16, 8);
  p.fill(random);
  tensor<float, 4> q(2, 20, 3, 16), out(2, 20, 3, 8), expected(2, 3, 20, 8);  // [batch, len, heads, dim] in memory
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 3; ++h)
      for (index_t i = 0; i < 20; ++i)
        for (index_t d = 0; d < 16; ++d) q(b, i, h, d) = p.q(b, h, i, d);
  kernels::forward(cpu{}, attention::softmax{}, p.q, p.k, p.v, expected);
  kernels::forward(cpu{}, attention::softmax{}, q.view().transposed(1, 2), p.k, p.v, out.view().transposed(1, 2));
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 3; ++h)
      for (index_t i = 0; i < 20; ++i)
        for (index_t d = 0; d < 8; ++d) REQUIRE(out(b, i, h, d) == expected(b, h, i, d));
}

TEMPLATE_TEST_CASE("forward: rows any distance apart, even and odd, and what lies between is never used",
                   "[attention][edge]", float, float16, bfloat16) {
  random_numbers random(13);
  for (const index_t dim : {1, 5, 6, 32, 64})
    for (const index_t gap : {0, 1, 2, 3}) {
      attention_problem<TestType> p(1, 2, 1, 20, 70, dim, dim);
      p.fill(random);
      tensor<TestType, 4> expected(1, 2, 20, dim), out = expected;
      const auto op = attention::softmax{mask::causal{}}.starting_at(45);
      kernels::forward(cpu{}, op, p.q, p.k, p.v, expected);
      const auto spread = [&](const tensor<TestType, 4>& x) {
        tensor<TestType, 4> wide(1, x.extent(1), x.extent(2), dim + gap);
        wide.fill(TestType(std::nanf("")));
        for (index_t h = 0; h < x.extent(1); ++h)
          for (index_t i = 0; i < x.extent(2); ++i)
            for (index_t d = 0; d < dim; ++d) wide(0, h, i, d + gap / 2) = x(0, h, i, d);
        return wide;
      };
      const auto q = spread(p.q), k = spread(p.k), v = spread(p.v);
      const auto part = [&](const auto& x) { return x.view().slice(3, {gap / 2, gap / 2 + dim}); };
      kernels::forward(cpu{}, op, part(q), part(k), part(v), out);
      CAPTURE(dim, gap);
      REQUIRE(test::distance(out, expected) == 0.0);
    }
}

TEMPLATE_TEST_CASE("forward: a negative scale, with and without a modifier", "[attention][property]", float, float16,
                   bfloat16) {
  random_numbers random(14);
  for (int trial = 0; trial < 6; ++trial) {
    const auto p = test::random_problem<TestType>(random);
    require_close(attention::softmax{mask::causal{}}.starting_at(p.k_len - p.q_len).scaled(-0.3f), p);
    require_close(attention::softmax{mask::full{}, score::soft_cap{.cap = 2.0f}}.scaled(-0.3f), p);
  }
}

TEMPLATE_TEST_CASE("forward: values that are not finite spoil their channels in the rows that see them, nothing else",
                   "[attention][edge]", float, float16, bfloat16) {
  random_numbers random(15);
  const auto p = test::problem_with_wild_values<TestType>(random);
  const attention::softmax op{mask::causal_window(30)};
  tensor<TestType, 4> out(1, 1, 150, 24);
  tensor<double, 4> exact(1, 1, 150, 24);
  tensor<double, 3> lse(1, 1, 150);
  kernels::forward(cpu{}, op, p.q, p.k, p.v, out);
  attention::reference::forward(op, p.q, p.k, p.v, exact, lse);
  REQUIRE(test::same_numbers(out, exact, 8 * test::rounding<TestType> + 1e-5));
}

TEST_CASE("forward: a sink for each head serves its head; one that is +inf or NaN is refused, as one for all is",
          "[attention][edge]") {
  random_numbers random(16);
  attention_problem<float> p(1, 2, 2, 70, 70, 16, 8);
  p.fill(random);
  tensor<float, 1> sinks(2);
  sinks(0) = 0.5f;
  sinks(1) = -std::numeric_limits<float>::infinity();  // none
  const auto op = attention::softmax{mask::causal{}}.starting_at(-1);
  tensor<float, 4> out(1, 2, 70, 8), first = out, second = out;
  kernels::forward(cpu{}, op.with_sinks(sinks.view()), p.q, p.k, p.v, out);
  kernels::forward(cpu{}, op.with_sink(0.5f), p.q, p.k, p.v, first);
  kernels::forward(cpu{}, op, p.q, p.k, p.v, second);
  for (index_t i = 0; i < 70; ++i)
    for (index_t d = 0; d < 8; ++d) {
      REQUIRE(out(0, 0, i, d) == first(0, 0, i, d));
      REQUIRE(out(0, 1, i, d) == second(0, 1, i, d));
    }
  out.fill(9.0f);
  for (const float wrong : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    sinks(1) = wrong;
    REQUIRE_THROWS_WITH(
        kernels::forward(cpu{}, op.with_sinks(sinks.view()), p.q, p.k, p.v, out),
        ContainsSubstring("attention::softmax: sinks[1] (") && ContainsSubstring(") must be finite, or -inf for none"));
    REQUIRE_THROWS_WITH(kernels::forward(cpu{}, op.with_sink(wrong), p.q, p.k, p.v, out),
                        ContainsSubstring("attention::softmax: the sink ("));
    REQUIRE_THROWS_AS(kernels::decode(cpu{}, op.with_sinks(sinks.view()), p.q, p.k, p.v, out), precondition_error);
  }
  for (const float x : out) REQUIRE(x == 9.0f);
}

TEST_CASE("forward: every broken precondition is named and nothing is written", "[attention][errors]") {
  attention_problem<float> p(2, 6, 3, 5, 7, 8, 4);
  tensor<float, 4> out(2, 6, 5, 4);
  tensor<float, 3> lse(2, 6, 5);
  out.fill(9.0f);
  const attention::softmax op{};
  const auto message_of = [&](const auto& call) {
    try {
      call();
    } catch (const precondition_error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  tensor<float, 4> k4(2, 4, 7, 8), v4(2, 4, 7, 4), v_short(2, 3, 6, 4), k_wide(2, 3, 7, 9), out_long(2, 6, 6, 4);
  REQUIRE(message_of([&] { kernels::forward(cpu{}, op, p.q, k4, v4, out); }) ==
          "attention::forward: heads (6) must be a multiple of kv_heads (4). See docs/reference/attention/forward.md");
  REQUIRE_THAT(message_of([&] { kernels::forward(cpu{}, op, p.q, p.k, v_short, out); }),
               ContainsSubstring("v has k_len 6 (axis 2), but k has k_len 7"));
  REQUIRE_THAT(message_of([&] { kernels::forward(cpu{}, op, p.q, k_wide, p.v, out); }),
               ContainsSubstring("k has head_dim 9 (axis 3), but q has head_dim 8"));
  REQUIRE_THAT(message_of([&] { kernels::forward(cpu{}, op, p.q, p.k, p.v, out_long); }),
               ContainsSubstring("out has q_len 6 (axis 2), but q has q_len 5"));
  REQUIRE_THAT(message_of([&] { kernels::forward(cpu{}, op, p.q, p.k, p.v, p.v.view()); }),
               ContainsSubstring("out has heads 3 (axis 1), but q has heads 6"));
  REQUIRE_THAT(message_of([&] {
                 kernels::forward(cpu{}, op, p.q, p.k.view().slice(3, {0, 8}).transposed(2, 3).transposed(2, 3), p.v,
                                  out, lse.view().slice(2, {0, 4}));
               }),
               ContainsSubstring("lse has q_len 4 (axis 2), but q has q_len 5"));
  tensor<float, 4> square(2, 6, 4, 4);
  REQUIRE_THAT(message_of([&] { kernels::forward(cpu{}, op, square, square, square, square.view()); }),
               ContainsSubstring("out overlaps q"));
  tensor<float, 4> flipped(2, 6, 8, 5);
  REQUIRE_THAT(message_of([&] { kernels::forward(cpu{}, op, flipped.view().transposed(2, 3), p.k, p.v, out); }),
               ContainsSubstring("the last axis of q must be contiguous, its stride is 5"));
  REQUIRE_THAT(
      message_of([&] { kernels::forward(cpu{}, attention::softmax{}.scaled(std::nanf("")), p.q, p.k, p.v, out); }),
      ContainsSubstring("scale must be finite"));
  REQUIRE_THAT(message_of([&] { kernels::forward(cpu{.threads = -2}, op, p.q, p.k, p.v, out); }),
               ContainsSubstring("threads (-2)"));
  REQUIRE_THAT(message_of([&] {
                 kernels::forward(cpu{}, attention::softmax{mask::sliding_window{.left = -1}}, p.q, p.k, p.v, out);
               }),
               ContainsSubstring("sliding_window"));
  REQUIRE_THAT(message_of([&] { kernels::forward(cpu{}, op, p.q, p.k, p.v, out, tensor<float, 3>()); }),
               ContainsSubstring("lse has batch 0 (axis 0), but q has batch 2"));
  const auto backwards = [](auto& x, int axis) { return x.view().slice(axis, {3, 2}); };
  REQUIRE_THAT(message_of([&] { kernels::forward(cpu{}, op, p.q, backwards(p.k, 2), backwards(p.v, 2), out); }),
               ContainsSubstring("attention::forward: axis 2 of k has the negative length -1"));
  REQUIRE_THAT(message_of([&] { kernels::forward(cpu{}, op, backwards(p.q, 2), p.k, p.v, backwards(out, 2), lse); }),
               ContainsSubstring("axis 2 of q has the negative length -1"));
  REQUIRE_THAT(message_of([&] { kernels::forward(cpu{}, op, p.q, p.k, backwards(p.v, 3), backwards(out, 3)); }),
               ContainsSubstring("axis 3 of v has the negative length -1"));
  const tensor_view<float, 4> folded(out.data(), {2, 6, 5, 4}, {0, 20, 4, 1});
  REQUIRE_THAT(message_of([&] { kernels::forward(cpu{}, op, p.q, p.k, p.v, folded); }),
               ContainsSubstring("elements of out share memory: axis 0 steps by 0"));
  for (const float x : out) REQUIRE(x == 9.0f);
}

TEST_CASE("forward: a mask whose empty rows stand anywhere", "[attention][edge]") {
  // Rows past the third see nothing, and say so with a run far beyond all keys.
  struct first_rows {
    bool operator()(index_t q, index_t k) const noexcept { return q < 3 && k <= q; }
    range visible_keys(index_t q) const noexcept {
      constexpr index_t beyond = std::numeric_limits<index_t>::max();
      return q < 3 ? range{0, q + 1} : range{beyond, beyond};
    }
    mask::tile_kind classify(range, range) const noexcept { return mask::tile_kind::partial; }
  };
  random_numbers random(12);
  attention_problem<float> p(1, 1, 1, 40, 40, 8, 8);
  p.fill(random);
  require_close(attention::softmax{first_rows{}}, p);
}
