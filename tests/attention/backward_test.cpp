// SPDX-License-Identifier: Apache-2.0
#include <seqprim/attention/backward.hpp>
#include <seqprim/attention/decode.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/attention/sink_gradient.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/position/position.hpp>
#include <seqprim/score/score.hpp>

#include <attention/problem.hpp>
#include <support/catch.hpp>

using namespace seqprim;
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
    attention::forward(executor, op, p.q, p.k, p.v, out, lse);
    attention::backward(executor, op, p.q, p.k, p.v, out, lse, dout, dq, dk, dv);
  }
};

template <class T> float rounded(float x) {
  if constexpr (std::is_same_v<T, bfloat16>) return static_cast<float>(bfloat16(x));
  return x;
}

/// The naive loop in the precision of the kernel: float products and sums in the order of the definition, from the same out
/// and lse. With bfloat16 operands p and ds are rounded to bfloat16 too, as every kernel does that multiplies such numbers.
template <class T, class Op>
void naive_backward(const Op& op, const attention_problem<T>& p, const trained<T>& t, tensor<float, 4>& dq,
                    tensor<float, 4>& dk, tensor<float, 4>& dv) {
  const float scale = static_cast<float>(op.scale_for(p.head_dim));
  const auto number = [](T x) { return static_cast<float>(x); };
  for (index_t b = 0; b < p.batch; ++b)
    for (index_t h = 0; h < p.heads; ++h) {
      const auto mask = mask::bind(op.mask, b, h);
      const auto score = score::bind(op.score, b, h);
      const index_t g = attention::reference::detail::kv_head(op, p.heads, p.kv_heads, h);
      for (index_t i = 0; i < p.q_len; ++i) {
        float delta = 0;
        for (index_t d = 0; d < p.value_dim; ++d) delta += number(t.out(b, h, i, d)) * number(t.dout(b, h, i, d));
        for (index_t j = 0; j < p.k_len; ++j) {
          if (!mask(i, j)) continue;
          float dot = 0, dp = 0;
          for (index_t d = 0; d < p.head_dim; ++d) dot += number(p.q(b, h, i, d)) * number(p.k(b, g, j, d));
          for (index_t d = 0; d < p.value_dim; ++d) dp += number(t.dout(b, h, i, d)) * number(p.v(b, g, j, d));
          const score::site at{i, j};
          const float weight = std::exp(static_cast<float>(score(scale * dot, at)) - t.lse(b, h, i));
          const float ds =
              rounded<T>(scale * weight * (dp - delta) * static_cast<float>(score.derivative(scale * dot, at)));
          for (index_t d = 0; d < p.value_dim; ++d) dv(b, g, j, d) += rounded<T>(weight) * number(t.dout(b, h, i, d));
          for (index_t d = 0; d < p.head_dim; ++d) {
            dk(b, g, j, d) += ds * number(p.q(b, h, i, d));
            dq(b, h, i, d) += ds * number(p.k(b, g, j, d));
          }
        }
      }
    }
}

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
  naive_backward(op, p, t, naive_dq, naive_dk, naive_dv);
  CAPTURE(p.batch, p.heads, p.kv_heads, p.q_len, p.k_len, p.head_dim, p.value_dim);
  const auto check = [](const tensor<T, 4>& actual, const tensor<double, 4>& exact, const tensor<float, 4>& naive) {
    const double size = std::max(1.0, test::largest(exact));
    const double budget = 2 * test::distance(naive, exact) + 2 * (test::rounding<T> + test::rounding<float>)*size;
    REQUIRE(test::distance(actual, exact) <= budget);
  };
  check(t.dq, dq, naive_dq);
  check(t.dk, dk, naive_dk);
  check(t.dv, dv, naive_dv);
}

}  // namespace

TEMPLATE_TEST_CASE("backward: agrees with the definition for random shapes and masks", "[attention][property]", float,
                   half, bfloat16) {
  random_numbers random(201);
  for (int trial = 0; trial < 50; ++trial) {
    const auto p = test::random_problem<TestType>(random, 150);
    const index_t offset = random.integer(0, 2) == 0 ? random.integer(-40, 40) : mask::bottom_right(p.q_len, p.k_len);
    CAPTURE(trial, offset);
    switch (trial % 5) {
      case 0: require_close(attention::softmax{}, p, random); break;
      case 1:
        require_close(attention::softmax{mask::causal{offset}}.tiled_heads().with_sink(4 * random.uniform()), p,
                      random);
        break;
      case 2:
        require_close(attention::softmax{mask::sliding_window{.left = random.integer(0, 60), .offset = offset}}, p,
                      random);
        break;
      case 3:
        require_close(attention::softmax{mask::causal{offset} & ~mask::key_range{random.integer(0, 9), 30},
                                         score::soft_cap{.cap = 2.0f}},
                      p, random);
        break;
      default:
        require_close(
            attention::softmax{mask::attention_sinks{.sinks = 3, .window = 20, .offset = offset},
                               score::soft_cap{.cap = 5.0f} | score::alibi{.heads = p.heads, .offset = offset}}
                .scaled(0.37f),
            p, random);
    }
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
      attention::forward(cpu{}, op, p.q, p.k, p.v, out);
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
  SECTION("causal") { check(attention::softmax{mask::causal{1}}); }
  SECTION("a score with a derivative") { check(attention::softmax{mask::causal{}, score::soft_cap{.cap = 1.5f}}); }
  SECTION("rotary positions") {
    check(attention::softmax{mask::causal{1}, score::identity{},
                             position::rotary<position::half_split>{.rotary_dim = 4, .theta = 100}});
  }
  SECTION("a window that leaves rows empty") { check(attention::softmax{mask::causal{-2}}); }
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
  const auto op = attention::softmax{mask::causal{-1}}.with_sinks(logits.view());
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
}

TEST_CASE("backward: rows that see nothing have no gradient and give none, even from NaN", "[attention][edge]") {
  random_numbers random(203);
  attention_problem<float> p(1, 1, 1, 80, 50, 16, 16);
  p.fill(random);
  const attention::softmax op{mask::causal{-30}};
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

TEST_CASE("backward: a NaN in a query or its gradient stays with the keys that query sees", "[attention][edge]") {
  random_numbers random(207);
  attention_problem<float> p(1, 1, 1, 130, 130, 16, 16);
  p.fill(random);
  trained<float> t(p);
  random.fill(t.dout);
  const index_t row = GENERATE(as<index_t>{}, 0, 42, 100);
  (GENERATE(false, true) ? p.q(0, 0, row, 3) : t.dout(0, 0, row, 3)) = std::nanf("");
  t.run(cpu{}, attention::softmax{mask::causal{}}, p);
  for (index_t j = 0; j < 130; ++j) {
    const bool seen = j <= row;
    bool any = false;
    for (index_t d = 0; d < 16; ++d) any = any || std::isnan(t.dk(0, 0, j, d)) || std::isnan(t.dv(0, 0, j, d));
    CAPTURE(row, j);
    REQUIRE(any == seen);
    if (j != row)
      for (index_t d = 0; d < 16; ++d) REQUIRE_FALSE(std::isnan(t.dq(0, 0, j, d)));
  }
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
  // 1536 is a multiple of the key tile (96), of the tile that backward owns (64) and of the run of decode (512).
  const index_t border = 1536;
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
    attention::decode(cpu{}, op, p.q, p.k, p.v, a.out);
    attention::decode(cpu{}, truth, p.q, p.k, p.v, b.out);
    REQUIRE(std::equal(a.out.begin(), a.out.end(), b.out.begin()));
  };
  same(attention::softmax{skips{border}}, attention::softmax{mask::key_range{0, border}});
  same(attention::softmax{denies_pairs{}}, attention::softmax{});
}

TEST_CASE("backward: the number of threads does not change a bit", "[attention][property]") {
  random_numbers random(205);
  attention_problem<float> p(2, 4, 2, 130, 170, 32, 32);
  p.fill(random);
  trained<float> one(p), many(p);
  random.fill(one.dout);
  many.dout = one.dout;
  const attention::softmax op{mask::causal{40}};
  one.run(cpu{.threads = 1}, op, p);
  for (const int threads : {2, 5}) {
    many.run(cpu{.threads = threads}, op, p);
    REQUIRE(std::equal(one.dq.begin(), one.dq.end(), many.dq.begin()));
    REQUIRE(std::equal(one.dk.begin(), one.dk.end(), many.dk.begin()));
    REQUIRE(std::equal(one.dv.begin(), one.dv.end(), many.dv.begin()));
  }
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
  attention::backward(cpu{}, attention::softmax{mask::causal{}}, p.q, p.k, p.v, t.out, t.lse, t.dout, part(0), part(2),
                      part(4));
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 20; ++i)
        for (index_t d = 0; d < 8; ++d) {
          REQUIRE(fused(b, i, h, d) == t.dq(b, h, i, d));
          REQUIRE(fused(b, i, 2 + h, d) == t.dk(b, h, i, d));
          REQUIRE(fused(b, i, 4 + h, d) == t.dv(b, h, i, d));
        }
  REQUIRE_THROWS_WITH(
      attention::backward(cpu{}, attention::softmax{}, p.q, p.k, p.v, t.out, t.lse, t.dout, part(0), part(1), part(4)),
      ContainsSubstring("dq overlaps dk"));
}

TEST_CASE("backward: every broken precondition is named and nothing is written", "[attention][errors]") {
  attention_problem<float> p(1, 2, 2, 5, 7, 8, 4);
  trained<float> t(p);
  t.dq.fill(9.0f);
  const attention::softmax op{};
  tensor<float, 4> wrong(1, 2, 6, 8);
  REQUIRE_THROWS_WITH(attention::backward(cpu{}, op, p.q, p.k, p.v, t.out, t.lse, t.dout, t.dq, wrong, t.dv),
                      "attention::backward: axis 2 of dk is 6, expected 7. See docs/reference/attention/backward.md");
  REQUIRE_THROWS_WITH(attention::backward(cpu{}, op, p.q, p.k, p.v, t.out, t.lse, t.dout, t.dq, p.k.view(), t.dv),
                      ContainsSubstring("dk overlaps k"));
  REQUIRE_THROWS_WITH(
      attention::backward(cpu{}, op, p.q, p.k, p.v, t.out, t.lse.view().slice(2, {0, 3}), t.dout, t.dq, t.dk, t.dv),
      ContainsSubstring("axis 2 of lse is 3, expected 5"));
  for (const float x : t.dq) REQUIRE(x == 9.0f);
}
