// SPDX-License-Identifier: Apache-2.0
// example-begin training
// Training in sixty lines: a transformer of two layers learns to sort letters.
//
// Text     gkboadmp, and then the same letters in order: abdgkmop
// Shapes   ids, labels [batch, len]; hidden, dhidden [batch, len, dim]; logits [batch, vocab]
#include <seqprim/seqprim.hpp>

#include <algorithm>
#include <cstdio>
#include <numeric>

using namespace seqprim;

constexpr index_t letters = 8, vocab = 16;

/// One text per row. The label of a token is the next token; -100 is no label, for a letter that nobody can know.
void fill(tensor<index_t, 2>& ids, tensor<index_t, 2>& labels, random_stream random) {
  for (index_t row = 0; row < ids.extent(0); ++row) {
    index_t text[vocab + letters];  // the alphabet, then shuffled and cut to eight
    std::iota(text, text + vocab, 0);
    random.request = static_cast<std::uint32_t>(row);
    for (std::uint32_t i = 0; i < letters; ++i)
      std::swap(text[i], text[i + random.word(random_domain::caller, i) % (vocab - i)]);
    std::copy_n(text, letters, text + letters);
    std::sort(text + letters, text + 2 * letters);
    for (index_t t = 0; t < ids.extent(1); ++t)
      ids(row, t) = text[t], labels(row, t) = t + 1 < letters ? -100 : text[t + 1];
  }
}

int main() {
  using model = nn::decoder<nn::block<nn::attention_mixer<>, nn::swiglu<>, nn::rms_norm<>>>;
  const cpu executor{.threads = 1};  // more would cost more than they save here

  const index_t batch = 48, len = 2 * letters - 1, rows = batch * len, dim = 64;  // the last letter is only a label
  model net({.vocab = vocab, .dim = dim, .layers = 2, .block = {.mixer = {.heads = 4}, .mlp = {.hidden = 128}}});
  nn::initialize(executor, net, {.seed = 1, .stddev = 0.1});
  nn::adamw<> optimizer(net, {.beta2 = 0.95});
  const nn::cosine_schedule rate{.base = 7e-3, .warmup = 20, .total = 400};

  tensor<index_t, 2> ids(batch, len), labels(batch, len);
  tensor<float, 3> dhidden(batch, len, dim);
  model::activations saved;  // what forward leaves for backward
  loss::linear_cross_entropy_workspace<float> workspace;
  for (index_t step = 1; step <= rate.total; ++step) {
    fill(ids, labels, {.seed = 1, .step = static_cast<std::uint32_t>(step)});
    nn::zero_gradients(executor, net);
    const auto hidden = net.forward(executor, ids, saved);
    auto& head = net.head_weight();
    const auto result = loss::linear_cross_entropy(
        executor, {}, tensor_view<float, 2>(hidden.data, rows, dim), head.value,
        tensor_view<const index_t, 1>(labels.data(), rows),
        {.dx = tensor_view<float, 2>(dhidden.data(), rows, dim), .dweight = head.grad.view()}, workspace);
    net.backward(executor, ids, dhidden, saved);
    const auto gradients = nn::measure_gradients(executor, net, 1.0);
    if (gradients.finite) optimizer.step(executor, net, rate(step), gradients.factor);
    if (step % 50 == 0) std::printf("step %3d  loss %.4f\n", static_cast<int>(step), result.loss);
  }

  // Letters that it has never seen in this order: it reads eight and writes eight.
  fill(ids, labels, {.seed = 2});
  model::decode_state state(net, batch, 2 * letters);
  tensor<float, 2> logits(batch, vocab);
  tensor<index_t, 1> tokens(batch);
  net.prefill(executor, ids.view().slice(1, {0, letters}), state, logits);
  index_t right = 0;
  for (index_t t = letters - 1; t < len; ++t) {
    for (index_t row = 0; row < batch; ++row) {
      tokens(row) = sampling::sample(executor, sampling::greedy{}, logits.view()[row], {}).token;
      right += tokens(row) == labels(row, t);
    }
    std::putchar(static_cast<char>('a' + tokens(0)));
    net.step(executor, tokens, state, logits);
  }
  std::printf(": %.1f %% of %d letters in their place\n", 100.0 * double(right) / double(batch * letters),
              static_cast<int>(batch * letters));
  return 10 * right >= 9 * batch * letters ? 0 : 1;
}
// example-end training
