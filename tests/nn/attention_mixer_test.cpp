// SPDX-License-Identifier: Apache-2.0
#include "layers.hpp"
#include <seqprim/mask/full.hpp>
#include <seqprim/mask/sliding_window.hpp>
#include <seqprim/nn/attention_mixer.hpp>
#include <seqprim/position/on_read.hpp>
#include <seqprim/score/alibi.hpp>
#include <seqprim/score/soft_cap.hpp>

using namespace seqprim;

namespace {

using half_split = position::rotary<position::half_split>;
using plain = nn::attention_mixer<mask::causal, score::identity, half_split, double>;
using capped = nn::attention_mixer<mask::sliding_window, score::soft_cap, position::none, double>;

template <class Mixer> void require_gradients(Mixer mixer, std::uint64_t seed) {
  test::random_numbers random(seed);
  test::randomize(mixer, random);
  const index_t dim = mixer.dim();
  tensor<double, 3> x(2, 5, dim), y(2, 5, dim), dy(2, 5, dim), dx(2, 5, dim);
  random.fill(x);
  random.fill(dy);
  typename Mixer::activations saved;
  const auto objective = [&] {
    mixer.forward(cpu{}, x, y, saved);
    return test::weighted_sum(y, dy);
  };
  objective();
  mixer.backward(cpu{}, x, dy, dx, saved);
  REQUIRE(test::gradient_error(x.data(), dx.data(), x.size(), objective, 1000) < test::gradient_budget);
  test::require_parameter_gradients(mixer, objective);
}

}  // namespace

TEST_CASE("attention_mixer: gradients agree with finite differences", "[nn][property]") {
  SECTION("rotary, grouped heads") { require_gradients(plain(6, {.heads = 4, .kv_heads = 2, .head_dim = 4}), 71); }
  SECTION("biases and QK-norm, one key head") {
    require_gradients(plain(6, {.heads = 3,
                                .kv_heads = 1,
                                .head_dim = 4,
                                .qkv_bias = true,
                                .out_bias = true,
                                .qk_norm = true,
                                .qk_norm_eps = 1e-3,
                                .encoding = {.rotary_dim = 2, .frequencies = {.theta = 100}}}),
                      72);
  }
  SECTION("window, soft cap, no encoding, own scale") {
    require_gradients(capped(6, {.heads = 2, .scale = 0.7f, .mask = {.left = 2}, .score = {.cap = 2}}), 73);
  }
}

TEST_CASE("attention_mixer: reading tokens in pieces gives what one pass gives", "[nn][property]") {
  test::random_numbers random(74);
  const auto run = [&]<class Mixer>(const Mixer& mixer, const auto& pieces) {
    using T = typename Mixer::value_type;
    const index_t batch = 2, len = 13, dim = mixer.dim();
    tensor<T, 3> x(batch, len, dim), whole(batch, len, dim);
    random.fill(x);
    typename Mixer::activations saved;
    mixer.forward(cpu{}, x, whole, saved);
    typename Mixer::state cache(mixer, batch, len);
    index_t start = 0;
    for (const index_t n : pieces) {
      tensor<T, 3> in(batch, n, dim), out(batch, n, dim), expected(batch, n, dim);
      for (index_t b = 0; b < batch; ++b)
        for (index_t t = 0; t < n; ++t)
          for (index_t d = 0; d < dim; ++d) {
            in(b, t, d) = x(b, start + t, d);
            expected(b, t, d) = whole(b, start + t, d);
          }
      mixer.extend(cpu{}, in, out, cache, start);
      CAPTURE(start, n);
      // The same sums in another order: roundings of a few terms of size 1.
      REQUIRE(test::worst_error(out, expected) < (sizeof(T) == 8 ? 1e-14 : 2e-6));
      start += n;
    }
    REQUIRE(start == len);
  };
  const index_t one_by_one[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, prefill[] = {9, 1, 1, 2}, chunks[] = {8, 5};
  nn::attention_mixer<> rotary(8, {.heads = 4, .kv_heads = 2, .qk_norm = true});
  test::randomize(rotary, random);
  nn::attention_mixer<mask::sliding_window, score::alibi, position::none> biased(
      8, {.heads = 2, .mask = {.left = 3}, .score = {.heads = 2}});
  test::randomize(biased, random);
  plain precise(8, {.heads = 2});
  test::randomize(precise, random);
  const auto all = [&](const auto& mixer) {
    run(mixer, one_by_one);
    run(mixer, prefill);
    run(mixer, chunks);
  };
  all(rotary);
  all(biased);
  all(precise);
}

TEST_CASE("attention_mixer: wrong parameters are errors", "[nn][errors]") {
  REQUIRE_THROWS_WITH(nn::attention_mixer<>(8, {.heads = 6, .kv_heads = 4, .head_dim = 2}),
                      ContainsSubstring("heads (6) must be a multiple of kv_heads (4)"));
  REQUIRE_THROWS_WITH(nn::attention_mixer<>(8, {.heads = 3}),
                      ContainsSubstring("dim (8) must be a multiple of heads (3)"));
  REQUIRE_THROWS_AS(nn::attention_mixer<>(8, {}), precondition_error);
  REQUIRE_THROWS_AS(nn::attention_mixer<>(0, {.heads = 2}), precondition_error);
  REQUIRE_THROWS_AS(nn::attention_mixer<>(8, {.heads = 2, .kv_heads = -1}), precondition_error);
  REQUIRE_THROWS_AS(nn::attention_mixer<>(8, {.heads = 2, .head_dim = -4}), precondition_error);
  REQUIRE_THROWS_AS(nn::attention_mixer<>(8, {.heads = 8}), precondition_error);  // rotary needs an even head_dim
  REQUIRE_THROWS_AS(nn::attention_mixer<>(8, {.heads = 2, .encoding = {.rotary_dim = 6}}), precondition_error);
  REQUIRE_THROWS_AS(capped(8, {.heads = 2, .mask = {.left = 2}, .score = {.cap = -1}}), precondition_error);
}

TEST_CASE("attention_mixer: wrong shapes, a full cache and a backward without its forward are errors", "[nn][errors]") {
  nn::attention_mixer<> mixer(8, {.heads = 2});
  nn::attention_mixer<>::activations saved;
  tensor<float, 3> x(2, 3, 8), y(2, 3, 8), dx(2, 3, 8), wrong(2, 3, 7), few(2, 2, 8);
  y.fill(9.0f);
  REQUIRE_THROWS_WITH(mixer.forward(cpu{}, wrong, y, saved), ContainsSubstring("x [2, 3, 7] must be [2, 3, dim (8)]"));
  REQUIRE_THROWS_AS(mixer.forward(cpu{}, x, wrong, saved), precondition_error);
  REQUIRE_THROWS_AS(mixer.forward(cpu{}, x, few, saved), precondition_error);
  REQUIRE_THROWS_AS(mixer.backward(cpu{}, x, y, dx, saved), precondition_error);
  nn::attention_mixer<>::state cache(mixer, 2, 4);
  REQUIRE_THROWS_WITH(mixer.extend(cpu{}, x, y, cache, 2),
                      ContainsSubstring("3 tokens after 2 exceed the capacity (4) of the state"));
  REQUIRE_THROWS_AS(mixer.extend(cpu{}, x, y, cache, -1), precondition_error);
  nn::attention_mixer<>::state other(mixer, 1, 4);
  REQUIRE_THROWS_WITH(mixer.extend(cpu{}, x, y, other, 0),
                      ContainsSubstring("x holds 2 sequences, but the state was made for 1"));
  REQUIRE(std::all_of(y.begin(), y.end(), [](float v) { return v == 9.0f; }));
  tensor<float, 3> out(2, 3, 8);
  mixer.forward(cpu{}, x, out, saved);
  REQUIRE_THROWS_AS(mixer.backward(cpu{}, few, few, few.view(), saved), precondition_error);
  REQUIRE_THROWS_WITH(mixer.backward(cpu{}, x, y, x.view(), saved), ContainsSubstring("dx overlaps x or dy"));
  mixer.backward(cpu{}, x, y, dx, saved);
  REQUIRE_THROWS_AS(mixer.backward(cpu{}, x, y, dx, saved), precondition_error);  // the activations are spent
}

TEST_CASE("attention_mixer: a state of another mixer is an error that writes nothing", "[nn][errors]") {
  const auto make = [](index_t heads, index_t kv_heads, index_t head_dim) {
    return nn::attention_mixer<>(16, {.heads = heads, .kv_heads = kv_heads, .head_dim = head_dim});
  };
  const auto mixer = make(8, 4, 8);
  tensor<float, 3> x(1, 4, 16), y(1, 4, 16);
  // Fewer key heads, more of them, another dim: memory for fewer, more and as many values.
  for (const auto& other : {make(8, 1, 8), make(8, 8, 8), make(8, 4, 4), make(8, 2, 16)}) {
    nn::attention_mixer<>::state cache(other, 1, 5);
    cache.keys.fill(7.0f);
    cache.values.fill(7.0f);
    y.fill(9.0f);
    REQUIRE_THROWS_WITH(mixer.extend(cpu{}, x, y, cache, 0),
                        ContainsSubstring("but the mixer has kv_heads (4) and head_dim (8)"));
    for (const auto* part : {&cache.keys, &cache.values})
      REQUIRE(std::all_of(part->begin(), part->end(), [](float v) { return v == 7.0f; }));
    REQUIRE(std::all_of(y.begin(), y.end(), [](float v) { return v == 9.0f; }));
  }
  nn::attention_mixer<>::state none;
  REQUIRE_THROWS_AS(mixer.extend(cpu{}, x, y, none, 0), precondition_error);
}

TEST_CASE(
    "attention_mixer: a mask that looks ahead, or an encoding whose keys change, cannot be decoded piece by piece",
    "[nn][errors]") {
  tensor<float, 3> x(1, 3, 8), y(1, 3, 8);
  y.fill(9.0f);
  const auto require_refused = [&](const auto& mixer, index_t start, const char* words) {
    typename std::remove_cvref_t<decltype(mixer)>::state cache(mixer, 1, 9);
    cache.keys.fill(7.0f);
    REQUIRE_THROWS_WITH(mixer.extend(cpu{}, x, y, cache, start), ContainsSubstring(words));
    REQUIRE(std::all_of(cache.keys.begin(), cache.keys.end(), [](float v) { return v == 7.0f; }));
    REQUIRE(std::all_of(y.begin(), y.end(), [](float v) { return v == 9.0f; }));
  };
  const nn::attention_mixer<mask::sliding_window> ahead(8, {.heads = 2, .mask = {.left = 4, .right = 1}});
  require_refused(ahead, 3, "the mask lets a token before 3, which the state holds already, attend to token 3");
  const nn::attention_mixer<mask::full> full(8, {.heads = 2});
  require_refused(full, 3, "attend to token 5");
  using changing = position::on_read<position::rotary<position::half_split>>;
  const nn::attention_mixer<mask::causal, score::identity, changing> dynamic(8, {.heads = 2});
  require_refused(dynamic, 0, "the state holds encoded keys, which this encoding does not allow");
  nn::attention_mixer<mask::full>::state cache(full, 1, 9);
  full.extend(cpu{}, x, y, cache, 0);  // all tokens in one call
}
