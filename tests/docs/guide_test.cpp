// SPDX-License-Identifier: Apache-2.0
// The code of docs/guide.md: what stands between example-begin and example-end is quoted there.
#include <seqprim/attention/reference.hpp>
#include <seqprim/seqprim.hpp>

#include <cmath>
#include <support/catch.hpp>

using namespace seqprim;

namespace {

template <int Rank> void fill_normal(tensor<float, Rank>& x, std::uint32_t request) {
  const random_stream stream{.seed = 17, .request = request};
  for (index_t i = 0; i < x.size(); ++i)
    x.data()[i] = 2 * uniform_open(stream.word(purpose::caller, static_cast<std::uint32_t>(i))) - 1;
}

template <class A, class B> float largest_difference(const A& a, const B& b) {
  float largest = 0;
  for (index_t i = 0; i < a.size(); ++i) {
    const float difference = std::abs(static_cast<float>(a.data()[i]) - static_cast<float>(b.data()[i]));
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

// example-begin score
/// Adds a bonus to the logits of keys that are a multiple of `period` tokens away.
struct every_nth {
  index_t period;
  float bonus;

  template <std::floating_point T> SEQPRIM_HD constexpr T operator()(T logit, score::site at) const noexcept {
    return (at.q - at.k) % period == 0 ? logit + static_cast<T>(bonus) : logit;
  }
  template <std::floating_point T> SEQPRIM_HD constexpr T derivative(T, score::site) const noexcept { return 1; }
};
static_assert(score::modifier<every_nth>);
// example-end score

}  // namespace

TEST_CASE("guide: one operator value serves forward, backward and the definition", "[docs]") {
  const index_t batch = 2, heads = 4, kv_heads = 2, len = 40, head_dim = 32;
  tensor<float, 4> q(batch, heads, len, head_dim), k(batch, kv_heads, len, head_dim), v(batch, kv_heads, len, head_dim);
  tensor<float, 4> out(batch, heads, len, head_dim), dout(batch, heads, len, head_dim);
  tensor<float, 3> lse(batch, heads, len);
  tensor<float, 4> dq(batch, heads, len, head_dim), dk(batch, kv_heads, len, head_dim),
      dv(batch, kv_heads, len, head_dim);
  fill_normal(q, 1);
  fill_normal(k, 2);
  fill_normal(v, 3);
  fill_normal(dout, 4);

  // example-begin compose
  const auto mask = mask::causal{} & mask::sliding_window{.left = 15};
  const auto score = score::soft_cap{.cap = 50} | every_nth{.period = 8, .bonus = 0.5f};
  const attention::softmax op{mask, score};

  attention::forward(cpu{}, op, q, k, v, out, lse);
  attention::backward(cpu{}, op, q, k, v, out, lse, dout, dq, dk, dv);
  // example-end compose

  tensor<double, 4> expected(batch, heads, len, head_dim);
  tensor<double, 3> expected_lse(batch, heads, len);
  attention::reference::forward(op, q, k, v, expected, expected_lse);
  REQUIRE(largest_difference(out, expected) <
          1e-5f);  // outputs are below 1; the exact budget is tested in tests/attention
  REQUIRE(largest_difference(lse, expected_lse) < 1e-5f);
  REQUIRE(std::abs(dq(0, 0, 3, 0)) > 0);
}

TEST_CASE("guide: decoding token by token gives what forward gives", "[docs]") {
  const index_t batch = 1, heads = 2, kv_heads = 1, len = 12, capacity = 16, head_dim = 16;
  tensor<float, 4> q(batch, heads, len, head_dim), k(batch, kv_heads, len, head_dim), v(batch, kv_heads, len, head_dim);
  tensor<float, 4> out(batch, heads, len, head_dim), stepwise(batch, heads, len, head_dim);
  fill_normal(q, 1);
  fill_normal(k, 2);
  fill_normal(v, 3);
  const position::rotary<position::half_split> rope{.rotary_dim = head_dim};
  attention::forward(cpu{}, attention::softmax{mask::causal{}, score::identity{}, rope}, q, k, v, out);

  tensor<float, 4> k_cache(batch, kv_heads, capacity, head_dim), v_cache(batch, kv_heads, capacity, head_dim);
  for (index_t n_past = 0; n_past < len; ++n_past) {
    const auto q_new = q.view().slice(2, {n_past, n_past + 1});
    const auto k_new = k.view().slice(2, {n_past, n_past + 1}), v_new = v.view().slice(2, {n_past, n_past + 1});
    const auto out_new = stepwise.view().slice(2, {n_past, n_past + 1});
    // example-begin decode
    const attention::softmax op{mask::causal{.offset = n_past}, score::identity{}, rope};
    attention::append(cpu{}, op, k_new, v_new, n_past, k_cache, v_cache);
    attention::decode(cpu{}, op, q_new, k_cache.view().slice(2, {0, n_past + 1}),
                      v_cache.view().slice(2, {0, n_past + 1}), out_new);
    // example-end decode
  }
  REQUIRE(largest_difference(stepwise, out) < 1e-5f);
}
