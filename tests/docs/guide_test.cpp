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
    x.data()[i] = 2 * uniform_open(stream.word(random_domain::caller, static_cast<std::uint32_t>(i))) - 1;
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

// example-begin model
using mixer = nn::attention_mixer<mask::causal, score::identity, position::rotary<position::half_split>>;
using block = nn::block<mixer, nn::gated_mlp<nn::silu>, nn::rms_norm<>>;
using model = nn::decoder<block>;
// example-end model

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
  attention::backward(cpu{}, op, q, k, v, out, lse, dout, attention::gradients{}.dq(dq).dk(dk).dv(dv));
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

  // example-begin decode
  const attention::softmax op{mask::causal{}, score::identity{}, rope};  // the same for training, prompt and steps
  tensor<float, 4> k_cache(batch, kv_heads, capacity, head_dim), v_cache(batch, kv_heads, capacity, head_dim);
  for (index_t n_past = 0; n_past < len; ++n_past) {
    const range newest{n_past, n_past + 1}, filled{0, n_past + 1};
    const auto q_new = q.view().slice(2, newest), k_new = k.view().slice(2, newest), v_new = v.view().slice(2, newest);
    attention::append(cpu{}, op, k_new, v_new, n_past, k_cache, v_cache);
    attention::decode(cpu{}, op, q_new, k_cache.view().slice(2, filled), v_cache.view().slice(2, filled),
                      stepwise.view().slice(2, newest));
  }
  // example-end decode
  REQUIRE(largest_difference(stepwise, out) < 1e-5f);
}

TEST_CASE("guide: a model is assembled, trained and asked to write", "[docs]") {
  // The text: 0 1 2 ... 9 0 1 2 ...
  const index_t rows = 4, len = 20;
  tensor<std::int32_t, 2> ids(rows, len), next(rows, len);
  for (index_t r = 0; r < rows; ++r)
    for (index_t i = 0; i < len; ++i) {
      ids(r, i) = static_cast<std::int32_t>((3 * r + i) % 10);
      next(r, i) = static_cast<std::int32_t>((3 * r + i + 1) % 10);
    }
  const cpu executor{};

  // example-begin assemble
  model net(
      {.vocab = 10, .dim = 32, .layers = 2, .block = {.mixer = {.heads = 4, .kv_heads = 2}, .mlp = {.hidden = 64}}});
  nn::initialize(executor, net, {.seed = 1});
  nn::adamw<> optimizer(net, {.beta2 = 0.95, .weight_decay = 0.1});
  const nn::cosine_schedule rate{.base = 1e-2, .warmup = 5, .total = 60};
  // example-end assemble

  const index_t tokens = rows * len;
  const tensor_view<const std::int32_t, 1> labels(next.data(), tokens);
  tensor<float, 3> dhidden(rows, len, net.dim());
  double loss = 0, first_loss = 0;
  const tensor_view<const float, 1> no_bias;
  model::activations saved;
  loss::linear_cross_entropy_workspace<float> workspace;
  for (index_t step = 1; step <= 60; ++step) {
    // example-begin train
    const auto hidden = net.forward(executor, ids, saved);
    const tensor_view<const float, 2> states(hidden.data, tokens, net.dim());  // [batch, len, dim] as rows
    const tensor_view<float, 2> dstates(dhidden.data(), tokens, net.dim());
    nn::zero_gradients(executor, net);
    auto& head = net.head_weight();
    loss = loss::linear_cross_entropy(executor, {}, states, head.value, no_bias, labels,
                                      {.dx = dstates, .dweight = head.grad.view()}, workspace)
               .loss;
    net.backward(executor, ids, dhidden, saved);
    const nn::gradient_norm gradient = nn::measure_gradients(executor, net, 1.0);
    if (gradient.finite) optimizer.step(executor, net, rate(step), gradient.factor);
    // example-end train
    if (step == 1) first_loss = loss;
  }
  CAPTURE(first_loss, loss);
  REQUIRE(first_loss == Approx(std::log(10.0)).epsilon(0.05));  // nothing learned: ten equally likely digits
  REQUIRE(loss < 0.1 * first_loss);

  // example-begin generate
  model::decode_state state(net, 1, 32);
  tensor<float, 2> logits(1, net.vocab());
  tensor<std::int32_t, 2> prompt(1, 3);
  prompt(0, 0) = 4, prompt(0, 1) = 5, prompt(0, 2) = 6;
  net.prefill(executor, prompt, state, logits);

  const auto sampler = sampling::temperature{0.5f} | sampling::top_p{0.9f} | sampling::draw{};
  std::string text;
  while (state.length() < 20) {
    const random_stream stream{.seed = 7, .step = static_cast<std::uint32_t>(state.length())};
    const auto choice = sampling::sample(executor, sampler, logits.view()[0], stream);
    text += static_cast<char>('0' + choice.token);
    tensor<std::int32_t, 1> token(1);
    token(0) = static_cast<std::int32_t>(choice.token);
    net.step(executor, token, state, logits);
  }
  // example-end generate
  REQUIRE(text == "78901234567890123");
}
