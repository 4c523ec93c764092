// SPDX-License-Identifier: Apache-2.0
// The examples of docs/reference/nn, compiled and run.
#include <seqprim/loss/linear_cross_entropy.hpp>
#include <seqprim/nn/nn.hpp>

#include <cstdio>
#include <support/catch.hpp>

using namespace seqprim;

TEST_CASE("pages: layers", "[nn]") {
  const cpu executor{};
  {
    // example-begin linear
    nn::linear<> layer(64, 128, {.bias = true});  // in, out
    nn::linear<>::activations saved;              // memory of backward, reused from step to step
    tensor<float, 3> x(2, 10, 64), y(2, 10, 128), dy(2, 10, 128), dx(2, 10, 64);
    layer.forward(executor, x, y);
    layer.backward(executor, x, dy, dx, saved);  // adds to layer.weight.grad and layer.bias.grad
    // example-end linear
    REQUIRE(layer.in() == 64);
  }
  {
    tensor<float, 2> x(10, 64), weight(128, 64), y(10, 128), dy(10, 128), dweight(128, 64);
    x.fill(2);
    weight.fill(3);
    dy.fill(1);
    // example-begin matmul
    linalg::matmul(executor, x, weight.view().transposed(0, 1), y);                               // y = x W^T
    linalg::matmul(executor, dy.view().transposed(0, 1), x, dweight, linalg::store::accumulate);  // dW += dy^T x
    // example-end matmul
    REQUIRE(y(9, 127) == 6 * 64);
    REQUIRE(dweight(127, 63) == 20);
  }
  {
    // example-begin embedding
    nn::embedding<> layer(256, 64);  // vocab, dim
    nn::embedding<>::activations saved;
    tensor<std::int32_t, 2> ids(2, 10);
    tensor<float, 3> x(2, 10, 64), dx(2, 10, 64);
    layer.forward(executor, ids, x);
    layer.backward(executor, ids, dx, saved);  // adds to layer.weight.grad
    // example-end embedding
    REQUIRE(layer.vocab() == 256);
  }
  {
    // example-begin rms_norm
    nn::rms_norm<> norm(64, {.eps = 1e-5});
    nn::rms_norm<>::activations saved;
    tensor<float, 3> x(2, 10, 64), branch(2, 10, 64), sum(2, 10, 64), y(2, 10, 64), dy(2, 10, 64), dsum(2, 10, 64);
    norm.forward(executor, x, y, saved);
    norm.forward_add(executor, x, branch, sum, y, saved);                      // sum = x + branch, y = norm(sum)
    norm.backward(executor, sum, dy, dsum, saved, linalg::store::accumulate);  // dsum += gradient of the norm
    // example-end rms_norm
    REQUIRE(norm.dim() == 64);
  }
  {
    // example-begin activation
    tensor<float, 2> x(10, 64), y(10, 64), dy(10, 64);
    nn::activate<nn::gelu_tanh>(executor, x, y);
    nn::activate_backward<nn::gelu_tanh>(executor, x, dy, dy.view());  // in place
    // example-end activation
    REQUIRE(y(0, 0) == 0.0f);
  }
  {
    // example-begin gated_mlp
    nn::swiglu<> mlp(64, {.hidden = 176});
    nn::swiglu<>::activations saved;
    tensor<float, 3> x(2, 10, 64), y(2, 10, 64), dy(2, 10, 64), dx(2, 10, 64);
    mlp.forward(executor, x, y, saved);
    mlp.backward(executor, x, dy, dx, saved);
    // example-end gated_mlp
    REQUIRE(mlp.hidden() == 176);
  }
  {
    // example-begin attention_mixer
    nn::attention_mixer<> mixer(64, {.heads = 4, .kv_heads = 2, .qk_norm = true});
    nn::attention_mixer<>::activations saved;
    tensor<float, 3> x(2, 10, 64), y(2, 10, 64), dy(2, 10, 64), dx(2, 10, 64);
    mixer.forward(executor, x, y, saved);
    mixer.backward(executor, x, dy, dx, saved);

    nn::attention_mixer<>::state cache(mixer, 2, 100);  // 2 sequences of at most 100 tokens
    mixer.extend(executor, x, y, cache, 0);             // tokens 0 .. 9; the next ones start at 10
    // example-end attention_mixer
    REQUIRE(mixer.head_dim() == 16);
  }
  {
    // example-begin block
    using block = nn::block<nn::attention_mixer<>, nn::swiglu<>, nn::rms_norm<>>;
    block layer(64, {.mixer = {.heads = 4}, .mlp = {.hidden = 176}, .norm = {.eps = 1e-5}});
    block::activations saved;
    tensor<float, 3> x(2, 10, 64), y(2, 10, 64), dy(2, 10, 64);
    layer.forward(executor, x, y, saved);
    layer.backward(executor, x, dy, dy.view(), saved);  // in place: dy becomes dx
    // example-end block
    REQUIRE(layer.dim() == 64);
  }
  {
    // example-begin parameter
    nn::linear<> layer(64, 128, {.bias = true});
    layer.visit_parameters([](const std::string& name, const auto& p) {
      std::printf("%s: %lld numbers\n", name.c_str(), static_cast<long long>(p.size()));
    });
    nn::zero_gradients(executor, layer);
    const index_t count = nn::parameter_count(layer);
    // example-end parameter
    REQUIRE(count == 65 * 128);
  }
}

TEST_CASE("pages: models", "[nn]") {
  const cpu executor{};
  const index_t batch = 2, len = 10;
  tensor<index_t, 2> ids(batch, len);
  tensor<index_t, 1> labels(batch * len), tokens(batch);

  // example-begin decoder
  using model = nn::decoder<nn::block<nn::attention_mixer<>, nn::swiglu<>, nn::rms_norm<>>>;
  model m({.vocab = 256,
           .dim = 64,
           .layers = 2,
           .block = {.mixer = {.heads = 4}, .mlp = {.hidden = 176}},
           .tied_head = true});
  // example-end decoder
  // example-begin initialize
  nn::initialize(executor, m, {.seed = 1});
  // example-end initialize
  // example-begin adamw
  nn::adamw<> optimizer(m, {.beta2 = 0.95, .weight_decay = 0.1});
  // example-end adamw
  // example-begin schedule
  const nn::cosine_schedule rate{.base = 1e-3, .warmup = 100, .total = 2000, .min_ratio = 0.1};
  rate.validate();
  // example-end schedule

  // example-begin train
  model::activations saved;
  loss::linear_cross_entropy_workspace<float> workspace;
  tensor<float, 3> dhidden(batch, len, m.dim());
  const tensor_view<float, 2> dx(dhidden.data(), batch * len, m.dim());
  for (index_t step = 1; step <= 3; ++step) {
    nn::zero_gradients(executor, m);
    const auto hidden = m.forward(executor, ids, saved);
    const tensor_view<float, 2> x(hidden.data, batch * len, m.dim());
    loss::linear_cross_entropy(executor, {}, x, m.head_weight().value, labels,
                               {.dx = dx, .dweight = m.head_weight().grad.view()}, workspace);
    m.backward(executor, ids, dhidden, saved);
    const auto gradients = nn::measure_gradients(executor, m, 1.0);
    if (gradients.finite) optimizer.step(executor, m, rate(step), gradients.factor);
  }
  // example-end train
  REQUIRE(optimizer.steps() == 3);
  {
    // example-begin clip
    const nn::gradient_norm clipped = nn::clip_gradients(executor, m, 1.0);
    if (!clipped.finite) std::puts("skip this step");
    // example-end clip
    REQUIRE(clipped.finite);
  }
  {
    // example-begin decode
    model::decode_state state(m, batch, 100);  // 2 sequences of at most 100 tokens
    tensor<float, 2> logits(batch, m.vocab());
    m.prefill(executor, ids, state, logits);  // the prompt
    m.step(executor, tokens, state, logits);  // one more token of each sequence
    // example-end decode
    REQUIRE(state.length() == len + 1);
  }
}
