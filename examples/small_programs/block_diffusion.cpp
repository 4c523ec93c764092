// SPDX-License-Identifier: Apache-2.0
// example-begin block-diffusion
// Block diffusion: a language model that writes block by block and fills the tokens of a block in any order.
//
// It is trained on every text twice in one sequence, a copy with masked tokens and the clean one: a noisy block attends to itself
// and to the clean blocks before it. Here it learns to sort letters: gkboadmp, and then the same in order, abdgkmop.
//
// Source   Arriola et al., "Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models"
//
// Shapes   ids, labels, weights [batch, 2 len]: the noisy copy, then the clean one; logits [batch, 2 len, vocab]
#include <seqprim/seqprim.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

using namespace seqprim;

constexpr index_t letters = 8, len = 2 * letters, block_len = 4, alphabet = 16, hole = alphabet;  // the mask token

/// What a token attends to in `n` noisy tokens and the same `n` tokens clean, in blocks of `size`.
constexpr auto block_diffusion(index_t n, index_t size) {
  const mask::blocks_of number{size};
  const mask::by_label same_block{mask::sliding_window{.left = 0}, number, number};
  const mask::by_label up_to_block{mask::causal{}, number, number};
  const auto noisy = mask::key_concat(same_block, n, mask::shifted(up_to_block, -size));  // before it
  const auto clean = mask::key_concat(~mask::full{}, n, up_to_block);
  return mask::query_concat(noisy, n, clean);
}

/// RoPE frequencies at positions 0 ... n-1, in both copies.
struct in_both_copies {
  using coordinate = index_t;
  index_t n = len;
  position::geometric usual{};
  auto from(index_t token, index_t rotary_dim) const { return usual.from(double(token % n), rotary_dim); }
};

/// One text per row, in both copies.
void fill(tensor<index_t, 2>& ids, random_stream random) {
  for (index_t row = 0; row < ids.extent(0); ++row) {
    index_t text[alphabet + letters];  // the alphabet, then shuffled and cut to eight
    std::iota(text, text + alphabet, 0);
    random.request = static_cast<std::uint32_t>(row);
    for (std::uint32_t i = 0; i < letters; ++i)
      std::swap(text[i], text[i + random.word(random_domain::caller, i) % (alphabet - i)]);
    std::copy_n(text, letters, text + letters);
    std::sort(text + letters, text + len);
    for (index_t t = 0; t < 2 * len; ++t) ids(row, t) = text[t % len];
  }
}

int main() {
  using rope = position::rotary<position::half_split, in_both_copies>;
  using mixer = nn::attention_mixer<decltype(block_diffusion(len, block_len)), score::identity, rope>;
  using model = nn::decoder<nn::block<mixer, nn::swiglu<>, nn::rms_norm<>>>;
  const cpu executor{.threads = 1};  // starting more threads costs more than they save at this size

  const index_t batch = 48, rows = batch * 2 * len, dim = 64, answers = batch * letters;
  const mixer::config heads{.heads = 4, .mask = block_diffusion(len, block_len)};
  model net({.vocab = alphabet + 1, .dim = dim, .layers = 2, .block = {.mixer = heads, .mlp = {.hidden = 128}}});
  nn::initialize(executor, net, {.seed = 1, .stddev = 0.1});
  nn::adamw<> optimizer(net, {.beta2 = 0.95});
  const nn::cosine_schedule rate{.base = 7e-3, .warmup = 20, .total = 400};

  tensor<index_t, 2> ids(batch, 2 * len), labels(batch, 2 * len);
  tensor<float, 2> weights(batch, 2 * len);
  tensor<float, 3> dhidden(batch, 2 * len, dim), logits(batch, 2 * len, net.vocab());
  model::activations saved;
  loss::linear_cross_entropy_workspace<float> workspace;
  for (index_t step = 1; step <= rate.total; ++step) {
    const random_stream random{.seed = 1, .request = batch, .step = static_cast<std::uint32_t>(step)};
    std::uint32_t drawn = 0;
    const auto uniform = [&] { return uniform_open(random.word(random_domain::caller, drawn++)); };
    fill(ids, random);
    std::fill(labels.begin(), labels.end(), -100);  // ignored by the loss
    // The share t of tokens that a block of the answer loses is spread evenly over the batch; the loss of a token weighs 1 / t.
    const float shift = uniform();
    for (index_t i = 0; i < answers; ++i) {
      const index_t row = i / letters, token = letters + i % letters;
      const float t = 0.1f + 0.9f * std::fmod(shift + float(i / block_len * block_len) / float(answers), 1.0f);
      if (uniform() >= t) continue;
      labels(row, token) = ids(row, token);
      ids(row, token) = hole;
      weights(row, token) = 1 / t;
    }
    nn::zero_gradients(executor, net);
    const auto hidden = net.forward(executor, ids, saved);
    auto& head = net.head_weight();
    const auto result = loss::linear_cross_entropy(
        executor, {.normalizer = double(answers)}, tensor_view<float, 2>(hidden.data, rows, dim), head.value,
        tensor_view<const index_t, 1>(labels.data(), rows),
        {.dx = tensor_view<float, 2>(dhidden.data(), rows, dim), .dweight = head.grad.view()}, workspace,
        tensor_view<const float, 1>(weights.data(), rows));
    net.backward(executor, ids, dhidden, saved);
    const auto gradients = nn::measure_gradients(executor, net, 1.0);
    if (gradients.finite) optimizer.step(executor, net, rate(step), gradients.factor);
    if (step % 50 == 0) std::printf("step %3d  loss %.4f\n", static_cast<int>(step), result.loss);
  }

  // It writes: a block begins as holes, and each pass fills the hole that the model is most certain of.
  fill(ids, {.seed = 2});
  const tensor<index_t, 2> expected = ids;
  for (index_t row = 0; row < batch; ++row)
    for (index_t t = letters; t < len; ++t) ids(row, t) = ids(row, len + t) = hole;
  index_t right = 0;
  for (index_t pass = 0; pass < letters; ++pass) {
    net.logits(executor, net.forward(executor, ids, saved), logits);
    for (index_t row = 0; row < batch; ++row) {
      const index_t begin = letters + pass / block_len * block_len;
      index_t filled = begin, letter = hole;
      double best = 0;
      for (index_t t = begin; t < begin + block_len; ++t) {
        const auto z = logits.view()[row][t];
        const index_t choice = sampling::sample(executor, sampling::greedy{}, z, {}).token;
        double sum = 0;
        for (index_t i = 0; i < z.size(); ++i) sum += std::exp(double(z(i) - z(choice)));
        if (ids(row, t) != hole || 1 / sum <= best) continue;
        best = 1 / sum;
        filled = t;
        letter = choice;
      }
      ids(row, filled) = ids(row, len + filled) = letter;  // the clean copy is read when its block is complete
      right += letter == expected(row, filled);
    }
  }
  std::printf("%.1f %% of %d letters in their place\n", 100.0 * double(right) / double(answers),
              static_cast<int>(answers));
  return 10 * right >= 9 * answers ? 0 : 1;
}
// example-end block-diffusion
