// SPDX-License-Identifier: Apache-2.0
#include "layers.hpp"
#include <seqprim/loss/linear_cross_entropy.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/nn/adamw.hpp>
#include <seqprim/nn/attention_mixer.hpp>
#include <seqprim/nn/block.hpp>
#include <seqprim/nn/clip.hpp>
#include <seqprim/nn/decoder.hpp>
#include <seqprim/nn/gated_mlp.hpp>
#include <seqprim/nn/initialize.hpp>

#include <support/any_mask.hpp>
#include <vector>

using namespace seqprim;

namespace {

template <class T>
using model =
    nn::decoder<nn::block<nn::attention_mixer<mask::causal, score::identity, position::rotary<position::half_split>, T>,
                          nn::swiglu<T>, nn::rms_norm<T>>>;

template <class T> typename model<T>::config tiny(bool tied) {
  return {.vocab = 11,
          .dim = 8,
          .layers = 2,
          .block = {.mixer = {.heads = 2, .kv_heads = 1}, .mlp = {.hidden = 6}},
          .tied_head = tied,
          .embedding_scale = static_cast<T>(1.5)};
}

template <class T> struct problem {
  tensor<index_t, 2> ids, labels;
  problem(test::random_numbers& random, index_t batch, index_t len, index_t vocab)
      : ids(batch, len), labels(batch, len) {
    for (index_t& id : ids) id = random.integer(0, vocab - 1);
    for (index_t& label : labels) label = random.integer(0, 9) == 0 ? -100 : random.integer(0, vocab - 1);
  }
};

/// Loss and all gradients.
template <class T>
double loss_and_gradients(const cpu& executor, model<T>& m, const problem<T>& p, typename model<T>::activations& saved,
                          loss::linear_cross_entropy_workspace<T>& workspace, tensor<T, 3>& dhidden) {
  const auto hidden = m.forward(executor, p.ids, saved);
  const index_t rows = p.ids.size();
  const auto flat = [&](auto* data) { return tensor_view<T, 2>(data, rows, m.dim()); };
  const auto result = loss::linear_cross_entropy(
      executor, {}, flat(hidden.data), m.head_weight().value, tensor_view<const index_t, 1>(p.labels.data(), rows),
      {.dx = flat(dhidden.data()), .dweight = m.head_weight().grad.view()}, workspace);
  m.backward(executor, p.ids, dhidden, saved);
  return result.loss;
}

using any_mask = test::any_mask<test::any_rule>;
using masked_model = nn::decoder<nn::block<nn::attention_mixer<any_mask>, nn::gated_mlp<nn::silu>, nn::rms_norm<>>>;

/// A model with a mask chosen at run time, and random ids.
template <class Mask> struct decoding {
  test::any_mask_of<Mask, test::any_rule> mask;
  masked_model m;
  problem<float> p;
  masked_model::decode_state state;
  tensor<float, 2> logits{2, 11};

  decoding(const Mask& rule, index_t len, test::random_numbers random = test::random_numbers(96))
      : mask(rule),
        m({.vocab = 11,
           .dim = 8,
           .layers = 2,
           .block = {.mixer = {.heads = 2, .mask = mask.view()}, .mlp = {.hidden = 6}}}),
        p(random, 2, len, 11),
        state(m, 2, len) {
    test::randomize(m, random);
  }

  /// The logits of one forward pass over the first n tokens.
  [[nodiscard]] tensor<float, 2> of_forward(index_t n) const {
    masked_model::activations saved;
    const auto hidden = m.forward(cpu{}, p.ids.view().slice(1, {0, n}), saved);
    tensor<float, 2> result(2, 11);
    m.logits(cpu{}, tensor_view<const float, 2>(&hidden(0, n - 1, 0), {2, 8}, {n * 8, 1}), result);
    return result;
  }
  void read(range tokens) { m.prefill(cpu{}, p.ids.view().slice(1, tokens), state, logits); }
};

template <class Mask> void require_prompt(const Mask& mask, index_t len) {
  decoding<Mask> d(mask, len);
  d.read({0, len});
  CAPTURE(len);
  REQUIRE(d.state.length() == len);
  REQUIRE(test::worst_error(d.logits, d.of_forward(len)) < 2e-5);  // two blocks of sums in another order
}

template <class Mask> void require_pieces(const Mask& mask, const std::vector<index_t>& pieces) {
  index_t len = 0;
  for (const index_t n : pieces) len += n;
  decoding<Mask> d(mask, len);
  for (const index_t n : pieces) {
    const index_t start = d.state.length();
    d.read({start, start + n});
    CAPTURE(start, n);
    REQUIRE(test::worst_error(d.logits, d.of_forward(start + n)) < 2e-5);
  }
}

/// `first` tokens are read, the `then` next ones refused; state and logits stay as they were.
template <class Mask> void require_refused(const Mask& mask, index_t first, index_t then, const char* words) {
  decoding<Mask> d(mask, first + then);
  if (first > 0) d.read({0, first});
  d.logits.fill(9.0f);
  REQUIRE_THROWS_WITH(d.read({first, first + then}), ContainsSubstring(words));
  REQUIRE(d.state.length() == first);
  REQUIRE(std::all_of(d.logits.begin(), d.logits.end(), [](float v) { return v == 9.0f; }));
}

}  // namespace

TEST_CASE("decoder: all gradients of the whole model agree with finite differences", "[nn][property]") {
  test::random_numbers random(91);
  const bool tied = GENERATE(false, true);
  model<double> m(tiny<double>(tied));
  test::randomize(m, random);
  const problem<double> p(random, 2, 5, 11);
  model<double>::activations saved;
  loss::linear_cross_entropy_workspace<double> workspace;
  tensor<double, 3> dhidden(2, 5, 8);
  loss_and_gradients(cpu{}, m, p, saved, workspace, dhidden);
  test::require_parameter_gradients(m, [&] {
    const auto hidden = m.forward(cpu{}, p.ids, saved);
    return loss::linear_cross_entropy(cpu{}, {}, tensor_view<double, 2>(hidden.data, 10, 8), m.head_weight().value,
                                      tensor_view<const index_t, 1>(p.labels.data(), 10), {}, workspace)
        .loss;
  });
}

TEST_CASE("decoder: whole training steps have the same bits for any number of threads", "[nn][property]") {
  const auto train = [](int threads) {
    const cpu executor{.threads = threads};
    model<float> m(
        {.vocab = 97,
         .dim = 48,
         .layers = 2,
         .block = {.mixer = {.heads = 4, .kv_heads = 2, .qkv_bias = true, .qk_norm = true}, .mlp = {.hidden = 80}},
         .tied_head = true});
    nn::initialize(executor, m, {.seed = 5});
    nn::adamw<> optimizer(m);
    test::random_numbers random(92);
    const problem<float> p(random, 3, 70, 97);
    typename model<float>::activations saved;
    loss::linear_cross_entropy_workspace<float> workspace;
    tensor<float, 3> dhidden(3, 70, 48);
    std::vector<float> numbers;
    for (int step = 0; step < 3; ++step) {
      nn::zero_gradients(executor, m);
      numbers.push_back(static_cast<float>(loss_and_gradients(executor, m, p, saved, workspace, dhidden)));
      const auto norm = nn::measure_gradients(executor, m, 0.5);
      optimizer.step(executor, m, 1e-2, norm.factor);
    }
    m.visit_parameters([&](const std::string&, const auto& q) {
      numbers.insert(numbers.end(), q.value.begin(), q.value.end());
      numbers.insert(numbers.end(), q.grad.begin(), q.grad.end());
    });
    return numbers;
  };
  const auto one = train(1);
  REQUIRE(one[2] < one[0]);  // it learns
  for (const int threads : {2, 3, 7}) REQUIRE(train(threads) == one);
}

TEMPLATE_TEST_CASE("decoder: decoding step by step gives the logits of one forward pass", "[nn][property]", float,
                   double) {
  test::random_numbers random(93);
  model<TestType> m(tiny<TestType>(GENERATE(false, true)));
  test::randomize(m, random);
  const index_t batch = 3, len = 17;
  const problem<TestType> p(random, batch, len, 11);
  typename model<TestType>::activations saved;
  tensor<TestType, 3> whole(batch, len, m.vocab());
  m.logits(cpu{}, m.forward(cpu{}, p.ids, saved), whole);
  typename model<TestType>::decode_state state(m, batch, len);
  tensor<TestType, 2> logits(batch, m.vocab());
  const double budget = sizeof(TestType) == 8 ? 1e-13 : 1e-5;  // two blocks of sums in another order
  const auto require_row = [&](index_t t) {
    tensor<TestType, 2> expected(batch, m.vocab());
    for (index_t b = 0; b < batch; ++b)
      for (index_t v = 0; v < m.vocab(); ++v) expected(b, v) = whole(b, t, v);
    CAPTURE(t);
    REQUIRE(test::worst_error(logits, expected) < budget);
  };
  SECTION("one token at a time") {
    tensor<index_t, 1> tokens(batch);
    for (index_t t = 0; t < len; ++t) {
      for (index_t b = 0; b < batch; ++b) tokens(b) = p.ids(b, t);
      m.step(cpu{}, tokens, state, logits);
      REQUIRE(state.length() == t + 1);
      require_row(t);
    }
  }
  SECTION("a prompt, then tokens, then the same state again") {
    for (int round = 0; round < 2; ++round) {
      state.clear();
      m.prefill(cpu{}, p.ids.view().slice(1, {0, 12}), state, logits);
      require_row(11);
      m.prefill(cpu{}, p.ids.view().slice(1, {12, 13}), state, logits);
      require_row(12);
      m.prefill(cpu{}, p.ids.view().slice(1, {13, len}), state, logits);
      require_row(len - 1);
    }
  }
}

TEST_CASE("decoder: a prompt of several chunks is read like a short one", "[nn][property]") {
  test::random_numbers random(94);
  model<float> m(tiny<float>(true));
  test::randomize(m, random);
  const index_t len = 600;
  const problem<float> p(random, 1, len, 11);
  model<float>::activations saved;
  tensor<float, 3> whole(1, len, m.vocab());
  m.logits(cpu{}, m.forward(cpu{}, p.ids, saved), whole);
  model<float>::decode_state state(m, 1, len);
  tensor<float, 2> logits(1, m.vocab());
  m.prefill(cpu{}, p.ids, state, logits);
  REQUIRE(state.length() == len);
  for (index_t v = 0; v < m.vocab(); ++v) REQUIRE(logits(0, v) == Approx(whole(0, len - 1, v)).margin(1e-5));
}

TEST_CASE("decoder: a prompt in one call gives the logits of one forward pass, whatever the mask looks ahead to",
          "[nn][property]") {
  const std::vector<index_t> offsets{0, 100, 270, 300};
  require_prompt(mask::full{}, 300);
  require_prompt(mask::prefix{.length = 280}, 300);
  require_prompt(mask::prefix{.length = 100}, 600);
  require_prompt(mask::sliding_window{.left = 8, .right = 4}, 300);
  require_prompt(mask::documents(offsets), 300);
  require_prompt(mask::documents(offsets) & mask::causal{}, 300);
  require_prompt(mask::where{[](index_t q, index_t k) { return k <= q && (q - k) % 3 != 1; }}, 520);
}

TEST_CASE("decoder: decoding goes on exactly where earlier tokens attend to no later one", "[nn][property]") {
  require_pieces(mask::prefix{.length = 12}, {12, 1, 3, 4});
  require_pieces(mask::prefix{.length = 12}, {15, 5});
  require_pieces(mask::where{[](index_t q, index_t k) { return k <= q && (q + k) % 3 != 1; }}, {7, 1, 9, 3});
  require_pieces(mask::where{[](index_t q, index_t k) { return k / 5 <= q / 5; }}, {5, 10, 5});
  require_pieces(mask::key_range{2, 9}, {9, 8, 1, 2});
}

TEST_CASE("decoder: a mask that lets tokens of the state attend to new ones is an error that changes nothing",
          "[nn][errors]") {
  require_refused(mask::full{}, 4, 1, "lets a token before 4, which the state holds already, attend to token 4");
  require_refused(mask::full{}, 4, 300, "attend to token 303");
  require_refused(mask::sliding_window{.left = 8, .right = 2}, 5, 9, "attend to token 6");
  require_refused(mask::prefix{.length = 12}, 11, 3, "attend to token 11");
  require_refused(mask::where{[](index_t q, index_t k) { return k == q || k == 20; }}, 4, 17, "attend to token 20");
  // What only the operator of one chunk refuses: no chunk is read.
  const std::vector<index_t> offsets{0, 100, 256}, rows{0, 300}, same_rows = rows;
  require_refused(mask::documents(offsets) & mask::causal{}, 0, 300, "the sequences have 256 rows");
  require_refused(mask::packed{packing{rows, same_rows}, mask::causal{}}, 0, 300,
                  "q_offsets ends at 300 but q_len is 256");
}

TEST_CASE("decoder: later tokens do not change earlier logits", "[nn][property]") {
  test::random_numbers random(95);
  model<float> m(tiny<float>(false));
  test::randomize(m, random);
  problem<float> p(random, 1, 9, 11);
  model<float>::activations saved;
  const auto hidden = m.forward(cpu{}, p.ids, saved);
  tensor<float, 3> before(1, 9, 8);
  std::copy(hidden.data, hidden.data + hidden.size(), before.begin());
  p.ids(0, 6) = (p.ids(0, 6) + 1) % 11;
  m.forward(cpu{}, p.ids, saved);
  for (index_t t = 0; t < 9; ++t) {
    bool same = true;
    for (index_t d = 0; d < 8; ++d) same = same && before(0, t, d) == hidden(0, t, d);
    REQUIRE(same == (t < 6));
  }
}

TEST_CASE("decoder: wrong parameters, tokens and states are errors that change nothing", "[nn][errors]") {
  REQUIRE_THROWS_AS(model<float>({.vocab = 0, .dim = 8, .layers = 1, .block = {.mixer = {.heads = 2}}}),
                    precondition_error);
  REQUIRE_THROWS_AS(model<float>({.vocab = 9, .dim = 8, .layers = 0, .block = {.mixer = {.heads = 2}}}),
                    precondition_error);
  REQUIRE_THROWS_AS(model<float>({.vocab = 9, .dim = -8, .layers = 1, .block = {.mixer = {.heads = 2}}}),
                    precondition_error);
  model<float> m(tiny<float>(false));
  REQUIRE_THROWS_AS(model<float>::decode_state(m, 0, 4), precondition_error);
  REQUIRE_THROWS_AS(model<float>::decode_state(m, 2, 0), precondition_error);

  model<float>::activations saved;
  tensor<index_t, 2> ids(2, 3);
  tensor<float, 3> dhidden(2, 3, 8);
  REQUIRE_THROWS_WITH(m.backward(cpu{}, ids, dhidden, saved),
                      ContainsSubstring("requires the activations of a forward"));
  m.forward(cpu{}, ids, saved);
  m.backward(cpu{}, ids, dhidden, saved);
  REQUIRE_THROWS_AS(m.backward(cpu{}, ids, dhidden, saved), precondition_error);  // the activations are spent

  model<float>::decode_state state(m, 2, 4), none;
  tensor<float, 2> logits(2, 11), wrong(2, 10);
  logits.fill(9.0f);
  m.prefill(cpu{}, ids, state, logits);
  logits.fill(9.0f);
  REQUIRE_THROWS_WITH(m.prefill(cpu{}, ids, state, logits),
                      ContainsSubstring("3 tokens after 3 exceed the capacity (4)"));
  REQUIRE_THROWS_AS(m.prefill(cpu{}, ids.view().slice(1, {0, 0}), state, logits), precondition_error);
  REQUIRE_THROWS_AS(m.prefill(cpu{}, ids.view().slice(0, {0, 1}), state, logits), precondition_error);
  REQUIRE_THROWS_WITH(m.prefill(cpu{}, ids.view().slice(1, {2, 1}), state, logits),
                      ContainsSubstring("nn::decoder: axis 1 of ids has the negative length -1"));
  REQUIRE_THROWS_AS(m.prefill(cpu{}, ids, none, logits), precondition_error);
  tensor<index_t, 1> tokens(2);
  REQUIRE_THROWS_AS(m.step(cpu{}, tokens, state, wrong), precondition_error);
  tokens(1) = 11;
  REQUIRE_THROWS_WITH(m.step(cpu{}, tokens, state, logits),
                      ContainsSubstring("id (11) of token 1 must be in [0, vocab (11))"));
  REQUIRE(state.length() == 3);
  REQUIRE(std::all_of(logits.begin(), logits.end(), [](float v) { return v == 9.0f; }));
}

TEST_CASE("decoder: what forward, backward and prefill refuse leaves gradients, activations and state as they were",
          "[nn][errors]") {
  test::random_numbers random(98);
  model<float> m(tiny<float>(false));
  nn::initialize(cpu{}, m, {.seed = 4});
  const problem<float> p(random, 2, 5, 11);
  tensor<index_t, 2> wrong = p.ids, longer(2, 40);
  wrong(1, 3) = 11;
  longer.fill(-1);
  tensor<float, 3> dhidden(2, 5, 8), wide(2, 5, 16);
  random.fill(dhidden);
  model<float>::activations saved;
  const auto gradients = [&] {
    std::vector<float> all;
    m.visit_parameters([&](const std::string&, auto& x) { all.insert(all.end(), x.grad.begin(), x.grad.end()); });
    return all;
  };
  m.forward(cpu{}, p.ids, saved);
  m.backward(cpu{}, p.ids, dhidden, saved);
  const std::vector<float> once = gradients();
  m.visit_parameters([](const std::string&, auto& x) { x.grad.fill(0); });

  m.forward(cpu{}, p.ids, saved);
  REQUIRE_THROWS_AS(m.forward(cpu{}, longer, saved), precondition_error);
  REQUIRE_THROWS_AS(m.backward(cpu{}, wrong, dhidden, saved), precondition_error);
  REQUIRE_THROWS_WITH(m.backward(cpu{}, p.ids, wide.view().slice(2, {0, 8}), saved),
                      ContainsSubstring("hidden_gradient must be dense"));
  m.backward(cpu{}, p.ids, dhidden, saved);
  REQUIRE(gradients() == once);

  model<float>::decode_state state(m, 2, 20);
  const tensor_view<float, 2> in_the_head(m.head_weight().value.data(), 2, 11);
  REQUIRE_THROWS_WITH(m.prefill(cpu{}, p.ids, state, in_the_head), ContainsSubstring("logits overlaps the weight of"));
  tensor<float, 1> row(11);
  REQUIRE_THROWS_AS(m.prefill(cpu{}, p.ids, state, tensor_view<float, 2>(row.data(), {2, 11}, {0, 1})),
                    precondition_error);
  REQUIRE(state.length() == 0);
}

TEST_CASE("decoder: a state of another model is an error that changes neither the state nor the logits",
          "[nn][errors]") {
  const auto make = [](index_t layers, index_t heads, index_t kv_heads, index_t head_dim) {
    return model<float>(
        {.vocab = 8,
         .dim = 16,
         .layers = layers,
         .block = {.mixer = {.heads = heads, .kv_heads = kv_heads, .head_dim = head_dim}, .mlp = {.hidden = 8}},
         .tied_head = true});
  };
  tensor<index_t, 2> ids(1, 4);
  tensor<float, 2> logits(1, 8);
  struct shape {
    index_t layers, heads, kv_heads, head_dim;
  };
  const shape of_state{2, 4, 2, 8};
  for (const shape& s : {shape{2, 8, 8, 8}, shape{2, 4, 1, 8}, shape{2, 4, 2, 64}, shape{2, 4, 4, 4}, shape{1, 4, 2, 8},
                         shape{3, 4, 2, 8}}) {
    CAPTURE(s.layers, s.heads, s.kv_heads, s.head_dim);
    const auto own = make(of_state.layers, of_state.heads, of_state.kv_heads, of_state.head_dim);
    const auto other = make(s.layers, s.heads, s.kv_heads, s.head_dim);
    model<float>::decode_state state(own, 1, 9);
    own.prefill(cpu{}, ids, state, logits);
    logits.fill(9.0f);
    REQUIRE_THROWS_WITH(other.prefill(cpu{}, ids, state, logits), ContainsSubstring("it was made for another m"));
    REQUIRE(state.length() == 4);
    REQUIRE(std::all_of(logits.begin(), logits.end(), [](float v) { return v == 9.0f; }));
  }
}
