// SPDX-License-Identifier: Apache-2.0
// Random compositions of masks, scores and positions over random types, shapes and strides, against the definition.
#include <seqprim/attention/attention.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/position/position.hpp>
#include <seqprim/score/score.hpp>

#include <attention/kernels.hpp>
#include <attention/problem.hpp>
#include <support/catch.hpp>
#include <vector>

using namespace seqprim;
namespace kernels = test::kernels;
using test::attention_problem;
using test::random_numbers;

namespace {

using namespace seqprim::mask::operators;

constexpr index_t longest = 130;

/// One of the masks of the library, chosen at run time.
struct any_mask {
  int kind;
  index_t a, b;
  index_array offsets;

  template <class Answer> auto with(const Answer& answer) const noexcept {
    switch (kind) {
      case 0: return answer(mask::shifted(mask::causal{}, a));
      case 1: return answer(mask::shifted(mask::sliding_window{.left = b, .right = b / 2}, a));
      case 2: return answer(mask::shifted(mask::attention_sinks{.sinks = b % 5, .window = b + 1}, a));
      case 3: return answer(mask::shifted(mask::prefix{.length = b}, a));
      case 4: return answer(mask::key_range{b, 2 * b + 9});
      case 5: return answer(mask::shifted(mask::documents(offsets), a));
      case 6: return answer(mask::where{[n = b % 5 + 2](index_t q, index_t k) { return (q + 2 * k) % n != 0; }});
      default: return answer(mask::full{});
    }
  }
  bool operator()(index_t q, index_t k) const noexcept {
    return with([&](const auto& m) { return m(q, k); });
  }
  mask::tile_kind classify(range q, range k) const noexcept {
    return with([&](const auto& m) { return m.classify(q, k); });
  }
  range key_bounds(range q, index_t k_len) const noexcept {
    return with([&](const auto& m) { return mask::key_bounds(m, q, k_len); });
  }
  range query_bounds(range k, index_t q_len) const noexcept {
    return with([&](const auto& m) { return mask::query_bounds(m, k, range{-mask::unlimited, q_len}); });
  }
};
static_assert(mask::rule<any_mask>);

/// Two masks joined in one of six ways, chosen at run time.
struct any_pair {
  int join;
  any_mask first, second;

  template <class Answer> auto with(const Answer& answer) const noexcept {
    switch (join) {
      case 0: return answer(first & second);
      case 1: return answer(first | second);
      case 2: return answer(first & ~second);
      case 3: return answer(~(first | second));
      case 4: return answer(~first | second);
      default: return answer(first);
    }
  }
  bool operator()(index_t q, index_t k) const noexcept {
    return with([&](const auto& m) { return m(q, k); });
  }
  mask::tile_kind classify(range q, range k) const noexcept {
    return with([&](const auto& m) { return m.classify(q, k); });
  }
  range key_bounds(range q, index_t k_len) const noexcept {
    return with([&](const auto& m) { return mask::key_bounds(m, q, k_len); });
  }
  range query_bounds(range k, index_t q_len) const noexcept {
    return with([&](const auto& m) { return mask::query_bounds(m, k, range{-mask::unlimited, q_len}); });
  }
};
static_assert(mask::rule<any_pair>);

/// [batch, heads, len, dim] with memory in one of three orders, rows apart by more than their length.
template <class T> class scattered {
 public:
  scattered(random_numbers& random, index_t batch, index_t heads, index_t len, index_t dim)
      : memory_(batch * heads * len * (dim + gap)), order_(static_cast<int>(random.integer(0, 2))) {
    memory_.fill(T(55.0f));
    const index_t row = dim + gap;
    const index_t strides[3][3] = {{heads * len * row, len * row, row},
                                   {len * heads * row, row, heads * row},
                                   {row, batch * row, batch * heads * row}};
    view_ = {memory_.data(), {batch, heads, len, dim}, {strides[order_][0], strides[order_][1], strides[order_][2], 1}};
  }
  template <class X> void take(const tensor<X, 4>& from) {
    each([&](T& to, index_t b, index_t h, index_t i, index_t d) { to = from(b, h, i, d); });
  }
  template <class X> void give(tensor<X, 4>& to) {
    each([&](T& from, index_t b, index_t h, index_t i, index_t d) { to(b, h, i, d) = from; });
  }
  [[nodiscard]] const tensor_view<T, 4>& view() const noexcept { return view_; }
  /// How many numbers of the memory still are what they were: those between the rows must be.
  [[nodiscard]] index_t untouched() const {
    index_t count = 0;
    for (const T& x : memory_) count += static_cast<float>(x) == 55.0f;
    return count;
  }
  static constexpr index_t gap = 3;

 private:
  template <class F> void each(const F& f) {
    for (index_t b = 0; b < view_.extent(0); ++b)
      for (index_t h = 0; h < view_.extent(1); ++h)
        for (index_t i = 0; i < view_.extent(2); ++i)
          for (index_t d = 0; d < view_.extent(3); ++d) f(view_(b, h, i, d), b, h, i, d);
  }
  tensor<T, 1> memory_;
  int order_;
  tensor_view<T, 4> view_;
};

/// Forward and backward of `op` over scattered memory against the definition of `plain` over the same numbers; `plain` is `op`
/// without position, and `encoded` carries the positions.
template <class T, class E, class Op, class Plain>
void require_close(random_numbers& random, const Op& op, const attention_problem<T>& p, const Plain& plain,
                   const attention_problem<E>& encoded) {
  scattered<T> q(random, p.batch, p.heads, p.q_len, p.head_dim), k(random, p.batch, p.kv_heads, p.k_len, p.head_dim),
      v(random, p.batch, p.kv_heads, p.k_len, p.value_dim), out(random, p.batch, p.heads, p.q_len, p.value_dim);
  q.take(p.q);
  k.take(p.k);
  v.take(p.v);
  tensor<float, 3> lse(p.batch, p.heads, p.q_len);
  kernels::forward(cpu{}, op, q.view(), k.view(), v.view(), out.view(), lse);

  tensor<double, 4> exact(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<double, 3> exact_lse(p.batch, p.heads, p.q_len);
  attention::reference::forward(plain, encoded.q, encoded.k, encoded.v, exact, exact_lse);
  tensor<float, 4> naive(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> naive_lse(p.batch, p.heads, p.q_len);
  kernels::naive_forward(plain, encoded, naive, naive_lse);
  tensor<T, 4> actual(p.batch, p.heads, p.q_len, p.value_dim);
  out.give(actual);
  const double size = std::max(1.0, test::largest(exact)), lse_size = std::max(1.0, test::largest(exact_lse));
  REQUIRE(test::distance(actual, exact) <=
          2 * test::distance(naive, exact) + 2 * (test::rounding<T> + test::rounding<float>)*size);
  REQUIRE(test::distance(lse, exact_lse) <=
          2 * test::distance(naive_lse, exact_lse) + 4 * test::rounding<float> * lse_size);
  REQUIRE(out.untouched() >= scattered<T>::gap * p.batch * p.heads * p.q_len);

  tensor<T, 4> dout(p.batch, p.heads, p.q_len, p.value_dim), dq(p.batch, p.heads, p.q_len, p.head_dim),
      dk(p.batch, p.kv_heads, p.k_len, p.head_dim), dv(p.batch, p.kv_heads, p.k_len, p.value_dim);
  random.fill(dout);
  kernels::backward(cpu{}, op, q.view(), k.view(), v.view(), out.view(), lse, dout,
                    attention::gradients{}.dq(dq).dk(dk).dv(dv));
  tensor<double, 4> exact_dq(p.batch, p.heads, p.q_len, p.head_dim), exact_dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
      exact_dv(p.batch, p.kv_heads, p.k_len, p.value_dim);
  attention::reference::backward(plain, encoded.q, encoded.k, encoded.v, dout, exact_dq, exact_dk, exact_dv);
  // dv = p^T dout knows no position. A sum of q_len * group terms, each rounded (weights to T in some engines) and of size
  // p |dout| <= 4; and out, rounded to T, plays no part in it.
  const double terms = std::sqrt(static_cast<double>(p.q_len * p.heads / p.kv_heads + 1));
  REQUIRE(test::distance(dv, exact_dv) <= 4 * test::rounding<T> * (2 * test::largest(exact_dv) + terms) + 1e-5);
}

}  // namespace

TEMPLATE_TEST_CASE("compositions: random masks, scores, positions, types, shapes and strides", "[attention][property]",
                   float, float16, bfloat16) {
  random_numbers random(601);
  for (int trial = 0; trial < 60; ++trial) {
    const index_t kv_heads = random.integer(1, 2), heads = kv_heads * random.integer(1, 3);
    const index_t q_len = random.integer(0, longest), k_len = random.integer(0, longest);
    attention_problem<TestType> p(random.integer(1, 2), heads, kv_heads, q_len, k_len, 2 * random.integer(1, 20),
                                  random.integer(1, 40));
    p.fill(random);
    std::vector<index_t> offsets = {0};
    while (offsets.back() < k_len) offsets.push_back(min(offsets.back() + random.integer(1, 70), k_len));
    const auto leaf = [&] {
      any_mask m{static_cast<int>(random.integer(0, 7)), random.integer(-30, 60), random.integer(0, 40), offsets};
      if (m.kind == 3) m.b = min(m.b, k_len);
      if (m.kind == 5 && k_len == 0) m.kind = 7;
      return m;
    };
    const any_pair mask{static_cast<int>(random.integer(0, 5)), leaf(), leaf()};
    const auto score =
        score::soft_cap{.cap = 2 + random.uniform()} | score::alibi{.heads = heads, .bidirectional = true};
    const float scale = 0.3f * random.uniform();
    const bool sink = random.integer(0, 2) == 0, tiled = random.integer(0, 1) == 0;
    const auto settle = [&](auto op) {
      op = op.scaled(scale);
      if (tiled) op = op.tiled_heads();
      return sink ? op.with_sink(0.3f) : op;
    };
    CAPTURE(trial, p.batch, heads, kv_heads, q_len, k_len, p.head_dim, p.value_dim, mask.join, mask.first.kind,
            mask.first.a, mask.first.b, mask.second.kind, mask.second.a, mask.second.b, scale, sink, tiled);
    switch (trial % 3) {
      case 0: {
        const auto op = settle(attention::softmax{mask});
        require_close(random, op, p, op, p);
        break;
      }
      case 1: {
        const auto op = settle(attention::softmax{mask, score});
        require_close(random, op, p, op, p);
        break;
      }
      default: {
        const position::rotary<position::half_split> rotary{.rotary_dim = p.head_dim};
        const position::placed at{rotary, position::sequential{7}, position::sequential{2}};
        // Encoded copies have the type of their operands: one rounding more.
        attention_problem<TestType> encoded(p);
        position::encode(cpu{}, rotary, position::sequential{7 + k_len - q_len}, encoded.q, encoded.q);
        position::encode(cpu{}, rotary, at.keys, encoded.k, encoded.k);
        require_close(random, settle(attention::softmax{mask, score, at}), p, settle(attention::softmax{mask, score}),
                      encoded);
      }
    }
  }
}
