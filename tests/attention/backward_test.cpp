// SPDX-License-Identifier: Apache-2.0
#include <seqprim/attention/backward.hpp>
#include <seqprim/attention/decode.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/attention/sink_gradient.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/position/position.hpp>
#include <seqprim/score/score.hpp>

#include <attention/kernels.hpp>
#include <attention/problem.hpp>
#include <attention/tables.hpp>
#include <cstring>
#include <support/catch.hpp>
#include <support/gradients.hpp>

using namespace seqprim;
namespace kernels = test::kernels;
using test::attention_problem;
using test::random_numbers;

namespace {

/// What forward leaves behind and backward needs.
template <class T> struct trained {
  tensor<T, 4> out, dout, dq, dk, dv;
  tensor<accumulator<T>, 3> lse;

  explicit trained(const attention_problem<T>& p)
      : out(p.batch, p.heads, p.q_len, p.value_dim),
        dout(p.batch, p.heads, p.q_len, p.value_dim),
        dq(p.batch, p.heads, p.q_len, p.head_dim),
        dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
        dv(p.batch, p.kv_heads, p.k_len, p.value_dim),
        lse(p.batch, p.heads, p.q_len) {}

  template <class Op> void run(const cpu& executor, const Op& op, const attention_problem<T>& p) {
    kernels::forward(executor, op, p.q, p.k, p.v, out, lse);
    kernels::backward(executor, op, p.q, p.k, p.v, out, lse, dout, attention::gradients{}.dq(dq).dk(dk).dv(dv));
  }
};

/// A mask that kernels ask pair by pair.
template <class M> struct without_hints {
  M mask;
  bool operator()(index_t q, index_t k) const noexcept { return mask(q, k); }
  mask::tile_kind classify(range q, range k) const noexcept { return mask.classify(q, k); }
};

template <class T> bool is_nan(T x) { return std::isnan(static_cast<float>(x)); }

/// Backward against the definition within the error budget: twice what the naive loop loses, plus two roundings of the result.
template <class T, class Op> void require_close(const Op& op, attention_problem<T> p, random_numbers& random) {
  trained<T> t(p);
  random.fill(t.dout);
  t.dq.fill(T(55.0f));
  t.dk.fill(T(55.0f));
  t.dv.fill(T(55.0f));
  t.run(cpu{}, op, p);
  tensor<double, 4> dq(p.batch, p.heads, p.q_len, p.head_dim), dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
      dv(p.batch, p.kv_heads, p.k_len, p.value_dim);
  attention::reference::backward(op, p.q, p.k, p.v, t.dout, dq, dk, dv);
  tensor<float, 4> naive_dq(p.batch, p.heads, p.q_len, p.head_dim), naive_dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
      naive_dv(p.batch, p.kv_heads, p.k_len, p.value_dim);
  kernels::naive_gradients(op, p, t.out, t.lse, t.dout, naive_dq, naive_dk, naive_dv);
  CAPTURE(p.batch, p.heads, p.kv_heads, p.q_len, p.k_len, p.head_dim, p.value_dim);
  const auto check = [](const tensor<T, 4>& actual, const tensor<double, 4>& exact, const tensor<float, 4>& naive) {
    const double size = std::max(1.0, test::largest(exact));
    // A score chosen at run time costs two roundings of each logit that naive does not have: of the scaled one, and of its change
    // to units of log 2 afterwards.
    const double budget = 2 * test::distance(naive, exact) + 2 * (test::rounding<T> + 3 * test::rounding<float>)*size;
    REQUIRE(test::distance(actual, exact) <= budget);
  };
  check(t.dq, dq, naive_dq);
  check(t.dk, dk, naive_dk);
  check(t.dv, dv, naive_dv);
}

}  // namespace

TEMPLATE_TEST_CASE("backward: agrees with the definition for random shapes and masks", "[attention][property]", float,
                   float16, bfloat16) {
  random_numbers random(201);
  for (int trial = 0; trial < 50; ++trial) {
    const auto p = test::random_problem<TestType>(random, 150);
    const index_t offset = random.integer(0, 2) == 0 ? random.integer(-40, 40) : p.k_len - p.q_len;
    CAPTURE(trial, offset);
    switch (trial % 5) {
      case 0: require_close(attention::softmax{}, p, random); break;
      case 1:
        require_close(
            attention::softmax{mask::causal{}}.starting_at(offset).tiled_heads().with_sink(4 * random.uniform()), p,
            random);
        break;
      case 2:
        require_close(attention::softmax{mask::sliding_window{.left = random.integer(0, 60)}}.starting_at(offset), p,
                      random);
        break;
      case 3:
        require_close(attention::softmax{mask::causal{} & ~mask::key_range{random.integer(0, 9), 30},
                                         score::soft_cap{.cap = 2.0f}}
                          .starting_at(offset),
                      p, random);
        break;
      default:
        require_close(attention::softmax{mask::attention_sinks{.sinks = 3, .window = 20},
                                         score::soft_cap{.cap = 5.0f} | score::alibi{.heads = p.heads}}
                          .starting_at(offset)
                          .scaled(0.37f),
                      p, random);
    }
  }
}

TEMPLATE_TEST_CASE("backward: scores that read tables agree with the definition", "[attention][property]", float,
                   float16, bfloat16) {
  random_numbers random(213);
  for (int trial = 0; trial < 20; ++trial) {
    const auto p = test::random_problem<TestType>(random, 150);
    const index_t start = trial % 2 == 0 ? std::max<index_t>(p.k_len - p.q_len, 0) : random.integer(0, 30);
    const test::score_tables tables(random, p, start);
    CAPTURE(trial, start);
    test::with_table_score(tables, trial, [&](const auto& score) {
      if (trial % 3 == 0) {
        require_close(attention::softmax{mask::full{}, score}.starting_at(start), p, random);
      } else {
        require_close(attention::softmax{mask::causal_window(70), score}.starting_at(start), p, random);
      }
    });
  }
}

TEST_CASE("backward: agrees with central differences of forward, in double", "[attention][property]") {
  random_numbers random(202);
  attention_problem<double> p(1, 2, 1, 5, 6, 4, 3);
  p.fill(random);
  tensor<double, 4> weight(1, 2, 5, 3);
  random.fill(weight);
  const auto check = [&](const auto& op) {
    const auto objective = [&] {
      tensor<double, 4> out(1, 2, 5, 3);
      kernels::forward(cpu{}, op, p.q, p.k, p.v, out);
      double sum = 0;
      for (index_t i = 0; i < out.size(); ++i) sum += out.data()[i] * weight.data()[i];
      return sum;
    };
    trained<double> t(p);
    t.dout = weight;
    t.run(cpu{}, op, p);
    const auto compare = [&](tensor<double, 4>& x, const tensor<double, 4>& gradient) {
      for (index_t i = 0; i < x.size(); ++i) {
        const double kept = x.data()[i], step = 1e-5;
        x.data()[i] = kept + step;
        const double above = objective();
        x.data()[i] = kept - step;
        const double below = objective();
        x.data()[i] = kept;
        REQUIRE(gradient.data()[i] ==
                Approx((above - below) / (2 * step)).margin(1e-8));  // step^2 times a third derivative
      }
    };
    compare(p.q, t.dq);
    compare(p.k, t.dk);
    compare(p.v, t.dv);
  };
  SECTION("causal") { check(attention::softmax{mask::causal{}}.starting_at(1)); }
  SECTION("a score with a derivative") { check(attention::softmax{mask::causal{}, score::soft_cap{.cap = 1.5f}}); }
  SECTION("rotary positions") {
    check(attention::softmax{mask::causal{}, score::identity{},
                             position::rotary<position::half_split>{.rotary_dim = 4, .frequencies = {.theta = 100}}}
              .starting_at(1));
  }
  SECTION("a window that leaves rows empty") { check(attention::softmax{mask::causal{}}.starting_at(-2)); }
}

TEMPLATE_TEST_CASE("backward: gradients by the parameters of a score agree with the definition",
                   "[attention][property]", float, float16, bfloat16) {
  using T = TestType;
  random_numbers random(209);
  double error = 0, naive_error = 0;
  for (int trial = 0; trial < 24; ++trial) {
    auto p = test::random_problem<T>(random, 150);
    tensor<float, 1> slopes(p.heads);
    for (float& slope : slopes) slope = 0.1f * random.uniform();
    const index_t offset = p.k_len - p.q_len;
    const score::alibi_table bias{.slopes = slopes.view(), .bidirectional = trial % 2 == 0};
    const auto check = [&](const auto& op, index_t parameters) {
      trained<T> t(p);
      random.fill(t.dout);
      tensor<float, 2> dscore(p.heads, parameters), naive(p.heads, parameters);
      dscore.fill(9.0f);
      kernels::forward(cpu{}, op, p.q, p.k, p.v, t.out, t.lse);
      kernels::backward(cpu{}, op, p.q, p.k, p.v, t.out, t.lse, t.dout,
                        attention::gradients{}.dq(t.dq).dk(t.dk).dv(t.dv).dscore(dscore));
      tensor<double, 4> dq(p.batch, p.heads, p.q_len, p.head_dim), dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
          dv(p.batch, p.kv_heads, p.k_len, p.value_dim);
      tensor<double, 2> exact(p.heads, parameters);
      attention::reference::backward(op, p.q, p.k, p.v, t.dout, dq, dk, dv, &exact);
      tensor<float, 4> naive_dq(p.batch, p.heads, p.q_len, p.head_dim),
          naive_dk(p.batch, p.kv_heads, p.k_len, p.head_dim), naive_dv(p.batch, p.kv_heads, p.k_len, p.value_dim);
      kernels::naive_gradients(op, p, t.out, t.lse, t.dout, naive_dq, naive_dk, naive_dv, {.dscore = &naive});
      CAPTURE(trial, p.batch, p.heads, p.kv_heads, p.q_len, p.k_len, p.head_dim, p.value_dim);
      // One case has a handful of numbers, each a sum with much cancellation: the budget holds for all cases together.
      const double size = std::max(1.0, test::largest(exact));
      error += std::pow(test::distance(dscore, exact) / size, 2);
      naive_error += std::pow(test::distance(naive, exact) / size, 2);

      trained<T> without(p);  // asking changes nothing else
      without.dout = t.dout;
      without.run(cpu{}, op, p);
      REQUIRE(test::distance(without.dv, t.dv) == 0.0);
      REQUIRE(test::distance(without.dq, dq) <= 2 * test::distance(t.dq, dq) + test::rounding<float>);
    };
    switch (trial % 3) {
      case 0: check(attention::softmax{mask::causal{}, bias}.starting_at(offset), 1); break;
      case 1: check(attention::softmax{mask::full{}, score::soft_cap{.cap = 1.5f}}, 1); break;
      default:
        check(attention::softmax{mask::causal_window(30), score::soft_cap{.cap = 2.0f} | bias}
                  .starting_at(offset)
                  .tiled_heads(),
              2);
    }
  }
  REQUIRE(std::isfinite(error));
  REQUIRE(std::sqrt(error) <= 2 * std::sqrt(naive_error));
}

TEST_CASE("backward: gradients by the parameters of a score agree with central differences, in double",
          "[attention][property]") {
  random_numbers random(210);
  const index_t heads = 3;
  attention_problem<double> p(2, heads, 1, 5, 6, 4, 3);
  p.fill(random);
  tensor<double, 4> weight(2, 3, 5, 3);
  random.fill(weight);
  tensor<float, 1> slopes(3);
  float cap = 1.5f;
  slopes(0) = 0.25f;
  slopes(1) = -0.125f;
  slopes(2) = 0.5f;
  const auto make = [&] {
    return attention::softmax{mask::causal{}, score::alibi_table{.slopes = slopes.view()} | score::soft_cap{.cap = cap}}
        .starting_at(1);
  };
  const auto objective = [&] {
    tensor<double, 4> result(2, 3, 5, 3);
    kernels::forward(cpu{}, make(), p.q, p.k, p.v, result);
    double sum = 0;
    for (index_t i = 0; i < result.size(); ++i) sum += result.data()[i] * weight.data()[i];
    return sum;
  };
  trained<double> t(p);
  t.dout = weight;
  const cpu executor;
  auto &q = p.q, &k = p.k, &v = p.v, &out = t.out, &dout = t.dout, &dq = t.dq, &dk = t.dk, &dv = t.dv;
  auto& lse = t.lse;
  // example-begin score-gradient
  const auto op =
      attention::softmax{mask::causal{}, score::alibi_table{.slopes = slopes.view()} | score::soft_cap{.cap = cap}}
          .starting_at(1);
  tensor<double, 2> dscore(heads, 2);  // [head, slope and cap]; float where the operands are
  attention::forward(executor, op, q, k, v, out, lse);
  attention::backward(executor, op, q, k, v, out, lse, dout,
                      attention::gradients{}.dq(dq).dk(dk).dv(dv).dscore(dscore));
  // example-end score-gradient
  const auto slope_of = [&](float& parameter) {
    const float kept = parameter, step = 0x1p-8f;  // exact in float
    parameter = kept + step;
    const double above = objective();
    parameter = kept - step;
    const double below = objective();
    parameter = kept;
    return (above - below) / (2 * static_cast<double>(step));
  };
  // step^2 times a third derivative
  for (index_t h = 0; h < 3; ++h) REQUIRE(dscore(h, 0) == Approx(slope_of(slopes(h))).margin(2e-4));
  REQUIRE(dscore(0, 1) + dscore(1, 1) + dscore(2, 1) == Approx(slope_of(cap)).margin(2e-4));  // one cap for all heads
}

TEMPLATE_TEST_CASE("backward: gradients by the table and the rows of a score agree with the definition",
                   "[attention][property]", float, float16, bfloat16) {
  using T = TestType;
  random_numbers random(214);
  double error = 0, naive_error = 0;
  for (int trial = 0; trial < 24; ++trial) {
    const auto p = test::random_problem<T>(random, 150);
    const index_t start = trial % 2 == 0 ? std::max<index_t>(p.k_len - p.q_len, 0) : random.integer(0, 30);
    const test::score_tables tables(random, p, start);
    const auto check = [&](const auto& op) {
      trained<T> t(p);
      random.fill(t.dout);
      const auto bound = score::bind(op.score, 0, 0);
      tensor<float, 2> dtable(p.heads, bound.table_size()), naive_table(p.heads, bound.table_size());
      tensor<float, 3> drow(p.batch, p.heads, p.q_len), naive_row(p.batch, p.heads, p.q_len);
      dtable.fill(9.0f);
      drow.fill(9.0f);
      kernels::forward(cpu{}, op, p.q, p.k, p.v, t.out, t.lse);
      kernels::backward(cpu{}, op, p.q, p.k, p.v, t.out, t.lse, t.dout,
                        attention::gradients{}.dq(t.dq).dk(t.dk).dv(t.dv).dtable(dtable).drow(drow));
      tensor<double, 4> dq(p.batch, p.heads, p.q_len, p.head_dim), dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
          dv(p.batch, p.kv_heads, p.k_len, p.value_dim);
      tensor<double, 2> exact_table(p.heads, bound.table_size());
      tensor<double, 3> exact_row(p.batch, p.heads, p.q_len);
      attention::reference::backward(op, p.q, p.k, p.v, t.dout, dq, dk, dv, nullptr, &exact_table, &exact_row);
      tensor<float, 4> naive_dq(p.batch, p.heads, p.q_len, p.head_dim),
          naive_dk(p.batch, p.kv_heads, p.k_len, p.head_dim), naive_dv(p.batch, p.kv_heads, p.k_len, p.value_dim);
      kernels::naive_gradients(op, p, t.out, t.lse, t.dout, naive_dq, naive_dk, naive_dv,
                               {.dtable = &naive_table, .drow = &naive_row});
      CAPTURE(trial, start, p.batch, p.heads, p.kv_heads, p.q_len, p.k_len, p.head_dim, p.value_dim);
      const auto add = [&](const auto& actual, const auto& naive, const auto& exact) {
        const double size = std::max(1.0, test::largest(exact)), distance = test::distance(actual, exact) / size;
        error += distance * distance;
        naive_error += std::pow(test::distance(naive, exact) / size, 2);
      };
      add(dtable, naive_table, exact_table);
      add(drow, naive_row, exact_row);
    };
    switch (trial % 3) {
      case 0:
        check(attention::softmax{mask::causal{}, tables.query_scale() | tables.relative_bias()}.starting_at(start));
        break;
      case 1:
        check(attention::softmax{mask::full{}, tables.key_bias() | tables.query_scale()}
                  .starting_at(start)
                  .tiled_heads());
        break;
      default:
        check(attention::softmax{mask::causal_window(30), tables.relative_bias() | tables.query_scale()}.starting_at(
            start));
    }
  }
  REQUIRE(std::isfinite(error));
  REQUIRE(std::sqrt(error) <= 2 * std::sqrt(naive_error) + 4 * test::rounding<float>);
}

TEST_CASE("backward: gradients by the table and the rows of a score agree with central differences, in double",
          "[attention][property]") {
  random_numbers random(215);
  const index_t batch = 2, heads = 3, q_len = 5, k_len = 6, start = 1;
  attention_problem<double> p(batch, heads, 1, q_len, k_len, 4, 3);
  p.fill(random);
  trained<double> t(p);
  random.fill(t.dout);
  // Entries are floats: multiples of 2^-12, moved by 2^-12.
  constexpr float unit = 0x1p-12f;
  const auto coarse = [&](auto& x) {
    for (float& entry : x) entry = std::round(random.normal() / unit) * unit;
  };
  tensor<float, 2> table(heads, 4);
  tensor<float, 3> factors(batch, heads, start + q_len), bias(batch, 1, k_len);
  coarse(table);
  coarse(factors);
  coarse(bias);
  const auto slope_of = [&](float& x, const auto& op) {
    const auto objective = [&] {
      tensor<double, 4> result(batch, heads, q_len, 3);
      kernels::forward(cpu{}, op, p.q, p.k, p.v, result);
      return test::weighted_sum(result, t.dout);
    };
    const float before = x;
    x = before + unit;
    const double above = objective();
    x = before - unit;
    const double below = objective();
    x = before;
    return (above - below) / (2 * static_cast<double>(unit));
  };
  const cpu executor;
  auto &q = p.q, &k = p.k, &v = p.v, &out = t.out, &dout = t.dout, &dq = t.dq, &dk = t.dk, &dv = t.dv;
  auto& lse = t.lse;
  {
    // example-begin table-gradient
    const auto op = attention::softmax{mask::causal{}, score::query_scale{factors.view()} |
                                                           score::relative_bias{table.view(), /*least=*/-3} |
                                                           score::soft_cap{.cap = 2}}
                        .starting_at(start);
    tensor<double, 2> dtable(heads, 4);           // of each head and distance; float where the operands are
    tensor<double, 3> drow(batch, heads, q_len);  // of the factor of each row of the call
    attention::forward(executor, op, q, k, v, out, lse);
    attention::backward(executor, op, q, k, v, out, lse, dout,
                        attention::gradients{}.dq(dq).dk(dk).dv(dv).dtable(dtable).drow(drow));
    // example-end table-gradient
    for (index_t h = 0; h < heads; ++h)
      for (index_t n = 0; n < 4; ++n) REQUIRE(dtable(h, n) == Approx(slope_of(table(h, n), op)).margin(1e-6));
    for (index_t b = 0; b < batch; ++b)
      for (index_t h = 0; h < heads; ++h)
        for (index_t i = 0; i < q_len; ++i)
          REQUIRE(drow(b, h, i) == Approx(slope_of(factors(b, h, start + i), op)).margin(1e-6));
  }
  {
    // One table for all heads: the sum over them. One for each batch row: entries one after the other.
    const auto op =
        attention::softmax{mask::causal{}, score::soft_cap{.cap = 2} | score::key_bias{bias.view()}}.starting_at(start);
    tensor<double, 2> dtable(heads, batch * k_len);
    attention::forward(executor, op, q, k, v, out, lse);
    attention::backward(executor, op, q, k, v, out, lse, dout,
                        attention::gradients{}.dq(dq).dk(dk).dv(dv).dtable(dtable));
    for (index_t b = 0; b < batch; ++b)
      for (index_t j = 0; j < k_len; ++j) {
        double sum = 0;
        for (index_t h = 0; h < heads; ++h) sum += dtable(h, b * k_len + j);
        REQUIRE(sum == Approx(slope_of(bias(b, 0, j), op)).margin(1e-6));
      }
  }
}

TEST_CASE("backward: the table of a packed score gets the gradients of all sequences", "[attention][property]") {
  random_numbers random(216);
  const index_t offsets[] = {0, 7, 7, 20, 51}, heads = 2;
  attention_problem<double> p(1, heads, 2, 51, 51, 4, 3);
  p.fill(random);
  trained<double> t(p);
  random.fill(t.dout);
  tensor<float, 2> table(heads, 9);
  random.fill(table);
  const packing sequences{{offsets, 5}, {offsets, 5}};
  const attention::softmax alone{mask::causal{}, score::relative_bias{table.view(), -8}};
  const auto op = alone.packed(sequences);
  tensor<double, 2> dtable(heads, 9), expected(heads, 9);
  kernels::forward(cpu{}, op, p.q, p.k, p.v, t.out, t.lse);
  kernels::backward(cpu{}, op, p.q, p.k, p.v, t.out, t.lse, t.dout,
                    attention::gradients{}.dq(t.dq).dk(t.dk).dv(t.dv).dtable(dtable));
  for (index_t d = 0; d < sequences.sequences(); ++d) {
    const auto part = [&](const auto& x) { return x.view().slice(2, sequences.keys(d)); };
    const index_t len = sequences.keys(d).size();
    tensor<double, 4> dq(1, heads, len, 4), dk(1, heads, len, 4), dv(1, heads, len, 3);
    tensor<double, 2> own(heads, 9);
    attention::reference::backward(alone, part(p.q), part(p.k), part(p.v), part(t.dout), dq, dk, dv, nullptr, &own);
    for (index_t i = 0; i < own.size(); ++i) expected.data()[i] += own.data()[i];
  }
  REQUIRE(test::distance(dtable, expected) <= 1e-12);
}

TEST_CASE("sink_gradient: agrees with central differences of forward, in double", "[attention][property]") {
  random_numbers random(203);
  attention_problem<double> p(2, 3, 1, 5, 6, 4, 3);
  p.fill(random);
  tensor<float, 1> logits(3);
  logits(0) = 0.5f;
  logits(1) = -2.0f;
  logits(2) = -std::numeric_limits<float>::infinity();
  tensor<double, 4> out(2, 3, 5, 3), dout(2, 3, 5, 3);
  tensor<double, 3> lse(2, 3, 5);
  tensor<double, 1> dsinks(3);
  random.fill(dout);
  const cpu executor;
  // example-begin sink-gradient
  const auto op = attention::softmax{mask::causal{}}.starting_at(-1).with_sinks(logits.view());
  attention::forward(executor, op, p.q, p.k, p.v, out, lse);
  attention::sink_gradient(executor, op, out, lse, dout, dsinks);
  // example-end sink-gradient
  const tensor<double, 1> gradient = dsinks;
  for (index_t h = 0; h < 2; ++h) {
    const auto objective = [&](float logit) {
      logits(h) = logit;
      attention::forward(executor, op, p.q, p.k, p.v, out, lse);
      double sum = 0;
      for (index_t i = 0; i < out.size(); ++i) sum += out.data()[i] * dout.data()[i];
      return sum;
    };
    const float kept = logits(h), step = 0x1p-8f;  // exact in float
    const double slope = (objective(kept + step) - objective(kept - step)) / (2 * static_cast<double>(step));
    logits(h) = kept;
    REQUIRE(gradient(h) == Approx(slope).margin(1e-4));  // step^2 times a third derivative
  }
  REQUIRE(gradient(2) == 0.0);
  tensor<double, 1> wrong(2);
  REQUIRE_THROWS_AS(attention::sink_gradient(executor, op, out, lse, dout, wrong), precondition_error);
  const tensor_view<double, 1> folded(dsinks.data(), {3}, {0});
  REQUIRE_THROWS_WITH(attention::sink_gradient(executor, op, out, lse, dout, folded),
                      ContainsSubstring("elements of dsinks share memory"));
  tensor<float, 3> float_lse(2, 3, 5);
  tensor<float, 4> float_out(2, 3, 5, 3);
  REQUIRE_THROWS_WITH(attention::sink_gradient(executor, op, float_out, float_lse, float_out, logits),
                      ContainsSubstring("dsinks overlaps the sinks"));
}

TEST_CASE("backward: rows that see nothing have no gradient and give none, even from NaN", "[attention][edge]") {
  random_numbers random(203);
  attention_problem<float> p(1, 1, 1, 80, 50, 16, 16);
  p.fill(random);
  const auto op = attention::softmax{mask::causal{}}.starting_at(-30);
  trained<float> clean(p), dirty(p);
  random.fill(clean.dout);
  dirty.dout = clean.dout;
  for (index_t i = 0; i < 30; ++i)
    for (index_t d = 0; d < 16; ++d) {
      clean.dout(0, 0, i, d) = 0;
      dirty.dout(0, 0, i, d) = std::nanf("");
    }
  clean.run(cpu{}, op, p);
  dirty.run(cpu{}, op, p);
  REQUIRE(std::equal(clean.dk.begin(), clean.dk.end(), dirty.dk.begin()));
  REQUIRE(std::equal(clean.dv.begin(), clean.dv.end(), dirty.dv.begin()));
  REQUIRE(std::equal(clean.dq.begin(), clean.dq.end(), dirty.dq.begin()));
  for (index_t i = 0; i < 30; ++i)
    for (index_t d = 0; d < 16; ++d) REQUIRE(dirty.dq(0, 0, i, d) == 0.0f);
}

TEMPLATE_TEST_CASE("backward: a NaN in a query or its gradient stays with the keys that query sees",
                   "[attention][edge]", float, float16, bfloat16) {
  using T = TestType;
  random_numbers random(207);
  attention_problem<T> p(1, 1, 1, 130, 130, 16, 16);
  p.fill(random);
  trained<T> t(p);
  random.fill(t.dout);
  const index_t row = GENERATE(as<index_t>{}, 0, 42, 100);
  (GENERATE(false, true) ? p.q(0, 0, row, 3) : t.dout(0, 0, row, 3)) = T(std::nanf(""));
  t.run(cpu{}, attention::softmax{mask::causal{}}, p);
  for (index_t j = 0; j < 130; ++j) {
    const bool seen = j <= row;
    bool any = false;
    for (index_t d = 0; d < 16; ++d) any = any || is_nan(t.dk(0, 0, j, d)) || is_nan(t.dv(0, 0, j, d));
    CAPTURE(row, j);
    REQUIRE(any == seen);
    if (j != row)
      for (index_t d = 0; d < 16; ++d) REQUIRE_FALSE(is_nan(t.dq(0, 0, j, d)));
  }
}

TEMPLATE_TEST_CASE("backward: a key that is not finite reaches the queries that see it and no others",
                   "[attention][edge]", float, float16, bfloat16) {
  using T = TestType;
  random_numbers random(215);
  attention_problem<T> p(1, 1, 1, 130, 130, 16, 16);
  p.fill(random);
  trained<T> t(p);
  random.fill(t.dout);
  const index_t key = GENERATE(as<index_t>{}, 1, 70, 129);
  const float poison = GENERATE(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity());
  const bool in_value = GENERATE(false, true);
  (in_value ? p.v(0, 0, key, 3) : p.k(0, 0, key, 3)) = T(poison);
  t.run(cpu{}, attention::softmax{mask::causal{}}, p);
  for (index_t i = 0; i < 130; ++i) {
    bool any = false;
    for (index_t d = 0; d < 16; ++d) any = any || is_nan(t.dq(0, 0, i, d));
    CAPTURE(key, i, poison, in_value);
    if (i < key) REQUIRE_FALSE(any);
    // An infinite key may have a logit of -inf, and then no weight; its gradient there is 0 * infinity.
    if (i >= key) REQUIRE(any);
  }
  if (std::isnan(poison) && !in_value)
    for (index_t j = key + 1; j < 130; ++j)
      for (index_t d = 0; d < 16; ++d) REQUIRE(is_nan(t.dv(0, 0, j, d)));  // all that see it see the poisoned key too
}

TEST_CASE("backward: padding may hold anything", "[attention][edge]") {
  random_numbers random(204);
  attention_problem<float> p(1, 2, 2, 40, 120, 16, 24);
  p.fill(random);
  attention_problem<float> dirty = p;
  for (index_t h = 0; h < 2; ++h)
    for (index_t j = 70; j < 120; ++j)
      for (index_t d = 0; d < 16; ++d) dirty.k(0, h, j, d) = dirty.v(0, h, j, d) = std::nanf("");
  const attention::softmax op{mask::key_range{0, 70}};
  trained<float> a(p), b(dirty);
  random.fill(a.dout);
  b.dout = a.dout;
  a.run(cpu{}, op, p);
  b.run(cpu{}, op, dirty);
  REQUIRE(std::equal(a.dq.begin(), a.dq.end(), b.dq.begin()));
  for (index_t j = 70; j < 120; ++j)
    for (index_t d = 0; d < 16; ++d) REQUIRE(b.dk(0, 1, j, d) == 0.0f);
}

TEST_CASE("kernels ask classify and nothing else: empty tiles are skipped, full ones are not tested pair by pair",
          "[attention][property]") {
  // Masks whose tiles contradict their pairs. A kernel that visited an empty tile, or tested the pairs of a full one, would
  // give another result. Tiles and runs of the cache end at multiples of `border`.
  struct skips {
    index_t border;
    bool operator()(index_t, index_t) const noexcept { return true; }
    mask::tile_kind classify(range, range k) const noexcept {
      return k.begin >= border ? mask::tile_kind::empty : mask::tile_kind::full;
    }
  };
  struct denies_pairs {
    bool operator()(index_t, index_t) const noexcept { return false; }
    mask::tile_kind classify(range, range) const noexcept { return mask::tile_kind::full; }
  };
  random_numbers random(208);
  // A multiple of the key tile (128), of the tile that backward owns (64) and of the run of decode (1024).
  const index_t border = 2048;
  attention_problem<float> p(1, 1, 1, 70, border + 600, 16, 16);
  p.fill(random);
  const auto same = [&](const auto& op, const auto& truth) {
    trained<float> a(p), b(p);
    random.fill(a.dout);
    b.dout = a.dout;
    a.run(cpu{}, op, p);
    b.run(cpu{}, truth, p);
    REQUIRE(std::equal(a.out.begin(), a.out.end(), b.out.begin()));
    REQUIRE(std::equal(a.dq.begin(), a.dq.end(), b.dq.begin()));
    REQUIRE(std::equal(a.dk.begin(), a.dk.end(), b.dk.begin()));
    REQUIRE(std::equal(a.dv.begin(), a.dv.end(), b.dv.begin()));
    kernels::decode(cpu{}, op, p.q, p.k, p.v, a.out);
    kernels::decode(cpu{}, truth, p.q, p.k, p.v, b.out);
    REQUIRE(std::equal(a.out.begin(), a.out.end(), b.out.begin()));
  };
  same(attention::softmax{skips{border}}, attention::softmax{without_hints<mask::key_range>{{0, border}}});
  same(attention::softmax{denies_pairs{}}, attention::softmax{without_hints<mask::full>{}});
}

TEMPLATE_TEST_CASE("backward: the number of threads does not change a bit", "[attention][property]", float, bfloat16) {
  using T = TestType;
  random_numbers random(205);
  const auto same = [](const auto& a, const auto& b) {
    return std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(*a.data())) == 0;
  };
  const auto check = [&](const attention_problem<T>& p, const auto& op) {
    trained<T> one(p), many(p);
    random.fill(one.dout);
    many.dout = one.dout;
    one.run(cpu{.threads = 1}, op, p);
    for (const int threads : {2, 3, 7}) {
      many.run(cpu{.threads = threads}, op, p);
      REQUIRE(same(one.dq, many.dq));
      REQUIRE(same(one.dk, many.dk));
      REQUIRE(same(one.dv, many.dv));
    }
  };
  attention_problem<T> shared(2, 6, 2, 330, 370, 32, 24), alone(1, 1, 1, 700, 700, 40, 16);
  shared.fill(random);
  alone.fill(random);
  check(shared, attention::softmax{mask::causal{}}.starting_at(40));
  check(shared, attention::softmax{mask::sliding_window{.left = 70}}.starting_at(-25).tiled_heads());
  check(alone, attention::softmax{});
  check(alone, attention::softmax{mask::causal_window(100)});
  const index_t offsets[] = {0, 1, 130, 200, 640, 700};
  check(alone, attention::softmax{mask::documents({offsets, 6}) & mask::causal{}});

  tensor<float, 1> slopes(6);
  for (float& slope : slopes) slope = random.uniform();
  const auto op = attention::softmax{mask::causal{}, score::alibi_table{.slopes = slopes.view()}}.starting_at(40);
  trained<T> t(shared);
  random.fill(t.dout);
  tensor<float, 2> one(6, 1), many(6, 1);
  kernels::forward(cpu{}, op, shared.q, shared.k, shared.v, t.out, t.lse);
  kernels::backward(cpu{.threads = 1}, op, shared.q, shared.k, shared.v, t.out, t.lse, t.dout,
                    attention::gradients{}.dq(t.dq).dk(t.dk).dv(t.dv).dscore(one));
  kernels::backward(cpu{.threads = 3}, op, shared.q, shared.k, shared.v, t.out, t.lse, t.dout,
                    attention::gradients{}.dq(t.dq).dk(t.dk).dv(t.dv).dscore(many));
  REQUIRE(same(one, many));

  const test::score_tables tables(random, shared, 40);
  const auto by_table =
      attention::softmax{mask::causal{}, tables.query_scale() | tables.relative_bias()}.starting_at(40);
  kernels::forward(cpu{}, by_table, shared.q, shared.k, shared.v, t.out, t.lse);
  const index_t entries = tables.of_distance.extent(1);
  tensor<float, 2> first_table(6, entries), table(6, entries);
  tensor<float, 3> first_rows(2, 6, 330), rows(2, 6, 330);
  kernels::backward(cpu{.threads = 1}, by_table, shared.q, shared.k, shared.v, t.out, t.lse, t.dout,
                    attention::gradients{}.dq(t.dq).dk(t.dk).dv(t.dv).dtable(first_table).drow(first_rows));
  for (const int threads : {2, 3, 7}) {
    kernels::backward(cpu{.threads = threads}, by_table, shared.q, shared.k, shared.v, t.out, t.lse, t.dout,
                      attention::gradients{}.dq(t.dq).dk(t.dk).dv(t.dv).dtable(table).drow(rows));
    REQUIRE(same(first_table, table));
    REQUIRE(same(first_rows, rows));
  }
}

TEMPLATE_TEST_CASE("backward: lengths around a tile, and dims from 1 to 512", "[attention][property]", float, float16,
                   bfloat16) {
  random_numbers random(211);
  const auto check = [&](index_t q_len, index_t k_len, index_t head_dim, index_t value_dim) {
    attention_problem<TestType> p(1, 2, 1, q_len, k_len, head_dim, value_dim);
    p.fill(random);
    require_close(attention::softmax{mask::causal{}}.starting_at(k_len - q_len), p, random);
  };
  for (const index_t q_len : {0, 1, 2, 63, 64, 65})
    for (const index_t k_len : {0, 1, 2, 63, 64, 65}) check(q_len, k_len, 8, 16);
  for (const index_t dim : {1, 2, 7, 33, 256, 511, 512}) check(37, 70, dim, 5);
  check(37, 70, 192, 128);
  check(37, 70, 3, 512);
}

TEMPLATE_TEST_CASE("backward: heads without keys, equal scores and logits up to 1e4", "[attention][edge]", float,
                   bfloat16) {
  using T = TestType;
  random_numbers random(212);
  attention_problem<T> p(1, 2, 2, 70, 90, 16, 16);
  p.fill(random);
  SECTION("a head that sees nothing") {
    tensor<bool, 4> visible(1, 2, 70, 90);
    for (index_t i = 0; i < 70; ++i)
      for (index_t j = 0; j < 90; ++j) visible(0, 1, i, j) = true;
    const attention::softmax op{mask::dense_per_head{visible.view()}};
    require_close(op, p, random);
    require_close(op.with_sink(0.5f), p, random);
    trained<T> t(p);
    random.fill(t.dout);
    t.dq.fill(T(3.0f));
    t.run(cpu{}, op, p);
    for (index_t i = 0; i < 70; ++i)
      for (index_t d = 0; d < 16; ++d) REQUIRE(static_cast<float>(t.dq(0, 0, i, d)) == 0.0f);
    for (index_t j = 0; j < 90; ++j)
      for (index_t d = 0; d < 16; ++d) REQUIRE(static_cast<float>(t.dk(0, 0, j, d)) == 0.0f);
  }
  SECTION("all scores equal") {
    p.k.fill(T(0.0f));
    require_close(attention::softmax{}, p, random);
    require_close(attention::softmax{mask::causal{}}.starting_at(0), p, random);
  }
  SECTION("logits up to 1e4, of either sign") {
    // One key stands out; weights are 0 or 1, or shared where logits are equal.
    for (index_t h = 0; h < 2; ++h) {
      for (index_t i = 0; i < 70; ++i)
        for (index_t d = 0; d < 16; ++d) p.q(0, h, i, d) = T(i % 2 == 0 ? 50.0f : -50.0f);
      for (index_t j = 0; j < 90; ++j)
        for (index_t d = 0; d < 16; ++d) p.k(0, h, j, d) = T(static_cast<float>(j % 5) * 12.5f);
    }
    require_close(attention::softmax{mask::causal{}}.starting_at(0).scaled(0.25f), p, random);
  }
}

TEST_CASE("backward: a score of -inf hides a visible pair", "[attention][edge]") {
  struct forbids {
    index_t first;
    float operator()(float logit, score::site at) const noexcept {
      return at.k >= first ? -std::numeric_limits<float>::infinity() : logit;
    }
    float derivative(float, score::site) const noexcept { return 1.0f; }
  };
  random_numbers random(213);
  attention_problem<float> p(1, 1, 1, 70, 90, 16, 16);
  p.fill(random);
  trained<float> hidden(p), forbidden(p);
  random.fill(hidden.dout);
  forbidden.dout = hidden.dout;
  hidden.run(cpu{}, attention::softmax{mask::causal{} & mask::key_range{0, 30}}, p);
  forbidden.run(cpu{}, attention::softmax{mask::causal{}, forbids{30}}, p);
  // the factor log2(e) is applied in another place
  REQUIRE(test::distance(hidden.dq, forbidden.dq) <= 1e-5);
  REQUIRE(test::distance(hidden.dk, forbidden.dk) <= 1e-5);
  REQUIRE(test::distance(hidden.dv, forbidden.dv) <= 1e-5);
  forbidden.run(cpu{}, attention::softmax{mask::full{}, forbids{0}}, p);
  REQUIRE(test::largest(forbidden.dq) + test::largest(forbidden.dk) + test::largest(forbidden.dv) == 0.0);
  for (const float x : forbidden.dv) REQUIRE(x == 0.0f);
}

TEST_CASE("backward: a row with nothing but a sink gives nothing, even from NaN", "[attention][edge]") {
  random_numbers random(214);
  attention_problem<float> p(1, 1, 1, 80, 50, 16, 16);
  p.fill(random);
  const auto op = attention::softmax{mask::causal{}}.starting_at(-30).with_sink(0.7f);
  trained<float> clean(p), dirty(p);
  random.fill(clean.dout);
  dirty.dout = clean.dout;
  for (index_t i = 0; i < 30; ++i)
    for (index_t d = 0; d < 16; ++d) dirty.dout(0, 0, i, d) = d % 2 == 0 ? std::nanf("") : HUGE_VALF;
  clean.run(cpu{}, op, p);
  dirty.run(cpu{}, op, p);
  REQUIRE(std::equal(clean.dq.begin(), clean.dq.end(), dirty.dq.begin()));
  REQUIRE(std::equal(clean.dk.begin(), clean.dk.end(), dirty.dk.begin()));
  REQUIRE(std::equal(clean.dv.begin(), clean.dv.end(), dirty.dv.begin()));
}

TEST_CASE("backward: gradients may be slices of one fused buffer", "[attention][property]") {
  random_numbers random(206);
  attention_problem<float> p(2, 2, 2, 20, 20, 8, 8);
  p.fill(random);
  trained<float> t(p);
  random.fill(t.dout);
  t.run(cpu{}, attention::softmax{mask::causal{}}, p);
  tensor<float, 4> fused(2, 20, 6, 8);  // [batch, len, q heads then k heads then v heads, dim]
  const auto part = [&](index_t first) { return fused.view().slice(2, {first, first + 2}).transposed(1, 2); };
  kernels::backward(cpu{}, attention::softmax{mask::causal{}}, p.q, p.k, p.v, t.out, t.lse, t.dout,
                    attention::gradients{}.dq(part(0)).dk(part(2)).dv(part(4)));
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 20; ++i)
        for (index_t d = 0; d < 8; ++d) {
          REQUIRE(fused(b, i, h, d) == t.dq(b, h, i, d));
          REQUIRE(fused(b, i, 2 + h, d) == t.dk(b, h, i, d));
          REQUIRE(fused(b, i, 4 + h, d) == t.dv(b, h, i, d));
        }
  REQUIRE_THROWS_WITH(kernels::backward(cpu{}, attention::softmax{}, p.q, p.k, p.v, t.out, t.lse, t.dout,
                                        attention::gradients{}.dq(part(0)).dk(part(1)).dv(part(4))),
                      ContainsSubstring("dq overlaps dk"));
}

TEST_CASE("backward: every broken precondition is named and nothing is written", "[attention][errors]") {
  attention_problem<float> p(1, 2, 2, 5, 7, 8, 4);
  trained<float> t(p);
  t.dq.fill(9.0f);
  const attention::softmax op{};
  tensor<float, 4> wrong(1, 2, 6, 8);
  REQUIRE_THROWS_WITH(
      kernels::backward(cpu{}, op, p.q, p.k, p.v, t.out, t.lse, t.dout,
                        attention::gradients{}.dq(t.dq).dk(wrong).dv(t.dv)),
      "attention::backward: dk has k_len 6 (axis 2), but k has k_len 7. See docs/reference/attention/backward.md");
  REQUIRE_THROWS_WITH(kernels::backward(cpu{}, op, p.q, p.k, p.v, t.out, t.lse, t.dout,
                                        attention::gradients{}.dq(t.dq).dk(p.k.view()).dv(t.dv)),
                      ContainsSubstring("dk overlaps k"));
  REQUIRE_THROWS_WITH(kernels::backward(cpu{}, op, p.q, p.k, p.v, t.out, t.lse.view().slice(2, {0, 3}), t.dout,
                                        attention::gradients{}.dq(t.dq).dk(t.dk).dv(t.dv)),
                      ContainsSubstring("lse has q_len 3 (axis 2), but q has q_len 5"));
  REQUIRE_THROWS_WITH(kernels::backward(cpu{}, op, p.q, p.k, p.v, t.out, t.lse, t.dout,
                                        attention::gradients{}
                                            .dq(t.dq.view().transposed(2, 3).transposed(2, 3))
                                            .dk(t.dk)
                                            .dv(tensor<float, 4>(1, 2, 4, 7).view().transposed(2, 3))),
                      ContainsSubstring("the last axis of dv must be contiguous"));
  tensor_view<float, 4> folded = t.dq.view();
  folded.strides[1] = 0;
  REQUIRE_THROWS_WITH(kernels::backward(cpu{}, op, p.q, p.k, p.v, t.out, t.lse, t.dout,
                                        attention::gradients{}.dq(folded).dk(t.dk).dv(t.dv)),
                      ContainsSubstring("elements of dq share memory"));
  const attention::softmax scored{mask::full{}, score::soft_cap{.cap = 5.0f}};
  tensor<float, 2> dscore(2, 2);
  REQUIRE_THROWS_WITH(attention::backward(cpu{}, scored, p.q, p.k, p.v, t.out, t.lse, t.dout,
                                          attention::gradients{}.dq(t.dq).dk(t.dk).dv(t.dv).dscore(dscore)),
                      "attention::backward: dscore has parameters 2 (axis 1), but the score has parameters 1. See "
                      "docs/reference/attention/backward.md");
  REQUIRE_THROWS_WITH(attention::backward(cpu{}, scored, p.q, p.k, p.v, t.out, t.lse, t.dout,
                                          attention::gradients{}.dq(t.dq).dk(t.dk).dv(t.dv).dscore(
                                              t.dv.view()[0].slice(1, {0, 1}).slice(0, {0, 2})[0].slice(0, {0, 1}))),
                      ContainsSubstring("dscore"));
  tensor<float, 2> table(2, 9), dtable(2, 8);
  tensor<float, 3> factors(1, 2, 7), drow(1, 2, 4);
  const attention::softmax learned{mask::full{},
                                   score::query_scale{factors.view()} | score::relative_bias{table.view()}};
  const auto backward = [&](const auto& wanted) {
    kernels::backward(cpu{}, learned, p.q, p.k, p.v, t.out, t.lse, t.dout, wanted.dq(t.dq).dk(t.dk).dv(t.dv));
  };
  REQUIRE_THROWS_WITH(backward(attention::gradients{}.dtable(dtable)),
                      ContainsSubstring("dtable has entries 8 (axis 1), but the table of the score has entries 9"));
  REQUIRE_THROWS_WITH(backward(attention::gradients{}.drow(drow)),
                      ContainsSubstring("drow has q_len 4 (axis 2), but q has q_len 5"));
  REQUIRE_THROWS_WITH(backward(attention::gradients{}.drow(t.lse)), ContainsSubstring("drow overlaps lse"));
  for (const float x : t.dq) REQUIRE(x == 9.0f);
}
