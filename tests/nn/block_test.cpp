// SPDX-License-Identifier: Apache-2.0
#include "layers.hpp"
#include <seqprim/nn/attention_mixer.hpp>
#include <seqprim/nn/block.hpp>
#include <seqprim/nn/decoder.hpp>
#include <seqprim/nn/gated_mlp.hpp>

using namespace seqprim;

namespace {

/// A mixer without attention: y[t] = sum of x[s] over s <= t, times a trained factor. What a recurrence brings along.
struct running_sum {
  using value_type = double;
  using isa = arch::native_isa;
  static constexpr const char* name = "running_sum";
  struct config {};
  struct activations {};
  struct state {
    tensor<double, 2> sums;
    state() = default;
    state(const running_sum& mixer, index_t batch, index_t) : sums(batch, mixer.dim) {}
  };

  index_t dim = 0;
  nn::parameter<double, 1> factor;

  running_sum() = default;
  running_sum(index_t d, const config&) : dim(d), factor(nn::role::scale, 1) {}

  template <class X, class Y> void forward(const cpu&, const X& x, const Y& y, activations&) const {
    for (index_t b = 0; b < x.extent(0); ++b)
      for (index_t d = 0; d < dim; ++d) {
        double sum = 0;
        for (index_t t = 0; t < x.extent(1); ++t) y(b, t, d) = factor.value(0) * (sum += x(b, t, d));
      }
  }
  template <class X, class Dy, class Dx>
  void backward(const cpu&, const X& x, const Dy& dy, const Dx& dx, activations&) {
    for (index_t b = 0; b < x.extent(0); ++b)
      for (index_t d = 0; d < dim; ++d) {
        double sum = 0, from_end = 0;
        for (index_t t = 0; t < x.extent(1); ++t) factor.grad(0) += dy(b, t, d) * (sum += x(b, t, d));
        for (index_t t = x.extent(1) - 1; t >= 0; --t) dx(b, t, d) = factor.value(0) * (from_end += dy(b, t, d));
      }
  }
  void validate_extend(const state& past, index_t batch, index_t, index_t, index_t) const {
    SEQPRIM_EXPECTS(past.sums.extent(0) == batch && past.sums.extent(1) == dim, "the state is not of this mixer");
  }
  template <class X, class Y> void extend(const cpu&, const X& x, const Y& y, state& past, index_t, index_t) const {
    for (index_t b = 0; b < x.extent(0); ++b)
      for (index_t d = 0; d < dim; ++d)
        for (index_t t = 0; t < x.extent(1); ++t) y(b, t, d) = factor.value(0) * (past.sums(b, d) += x(b, t, d));
  }
  template <class Visit> void visit_parameters(Visit&& visit) { visit(std::string("factor"), factor); }
  template <class Visit> void visit_parameters(Visit&& visit) const { visit(std::string("factor"), factor); }
};

using attention = nn::attention_mixer<mask::causal, score::identity, position::rotary<position::half_split>, double>;
using attention_block = nn::block<attention, nn::swiglu<double>, nn::rms_norm<double>>;
using recurrent_block = nn::block<running_sum, nn::swiglu<double>, nn::srms_norm<double>>;

template <class Block> void require_gradients(Block block, std::uint64_t seed) {
  test::random_numbers random(seed);
  test::randomize(block, random);
  const index_t dim = block.dim();
  tensor<double, 3> x(2, 4, dim), y(2, 4, dim), dy(2, 4, dim), dx(2, 4, dim);
  random.fill(x);
  random.fill(dy);
  typename Block::activations saved;
  const auto objective = [&] {
    block.forward(cpu{}, x, y, saved);
    return test::weighted_sum(y, dy);
  };
  objective();
  block.backward(cpu{}, x, dy, dx, saved);
  REQUIRE(test::gradient_error(x.data(), dx.data(), x.size(), objective, 1000) < test::gradient_budget);
  test::require_parameter_gradients(block, objective);

  // In place: dx is dy.
  tensor<double, 3> gradient = dy;
  objective();
  block.backward(cpu{}, x, gradient, gradient.view(), saved);
  REQUIRE(test::same_bits(gradient, dx));
}

}  // namespace

TEST_CASE("block: gradients agree with finite differences, in place too", "[nn][property]") {
  SECTION("attention") { require_gradients(attention_block(4, {.mixer = {.heads = 2}, .mlp = {.hidden = 5}}), 81); }
  SECTION("attention, scaled residuals") {
    require_gradients(attention_block(4, {.mixer = {.heads = 2}, .mlp = {.hidden = 5}, .residual_scale = 0.25}), 82);
  }
  SECTION("any other mixer") { require_gradients(recurrent_block(3, {.mlp = {.hidden = 4}}), 83); }
}

TEST_CASE("block: reading tokens one by one gives what one pass gives, with any mixer", "[nn][property]") {
  test::random_numbers random(84);
  recurrent_block block(3, {.mlp = {.hidden = 4}, .residual_scale = 0.5});
  test::randomize(block, random);
  tensor<double, 3> x(2, 6, 3), whole(2, 6, 3), in(2, 1, 3), out(2, 1, 3);
  random.fill(x);
  recurrent_block::activations saved;
  block.forward(cpu{}, x, whole, saved);
  recurrent_block::state state(block, 2, 6);
  for (index_t t = 0; t < 6; ++t) {
    for (index_t b = 0; b < 2; ++b)
      for (index_t d = 0; d < 3; ++d) in(b, 0, d) = x(b, t, d);
    block.extend(cpu{}, in, out, state, t);
    for (index_t b = 0; b < 2; ++b)
      for (index_t d = 0; d < 3; ++d) REQUIRE(out(b, 0, d) == Approx(whole(b, t, d)).epsilon(1e-13));
  }
}

TEST_CASE("block: parameters have the names of published checkpoints", "[nn]") {
  const attention_block block(4, {.mixer = {.heads = 2, .qkv_bias = true, .qk_norm = true}, .mlp = {.hidden = 5}});
  std::vector<std::string> names;
  block.visit_parameters([&](const std::string& name, const auto&) { names.push_back(name); });
  REQUIRE(names == std::vector<std::string>{"input_layernorm.weight", "self_attn.q_proj.weight",
                                            "self_attn.q_proj.bias", "self_attn.k_proj.weight", "self_attn.k_proj.bias",
                                            "self_attn.v_proj.weight", "self_attn.v_proj.bias",
                                            "self_attn.o_proj.weight", "self_attn.q_norm.weight",
                                            "self_attn.k_norm.weight", "post_attention_layernorm.weight",
                                            "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"});
  REQUIRE(nn::parameter_count(block) == 4 + 4 * 16 + 3 * 4 + 2 * 2 + 4 + 3 * 20);
}

TEST_CASE("block: wrong shapes and overlaps are errors", "[nn][errors]") {
  attention_block block(4, {.mixer = {.heads = 2}, .mlp = {.hidden = 5}});
  attention_block::activations saved;
  tensor<double, 3> x(2, 3, 4), y(2, 3, 4), wrong(2, 3, 5), few(2, 2, 4);
  REQUIRE_THROWS_WITH(block.forward(cpu{}, wrong, y, saved),
                      ContainsSubstring("nn::block: x [2, 3, 5] must be dense [2, 3, dim (4)]"));
  REQUIRE_THROWS_AS(block.forward(cpu{}, x, few, saved), precondition_error);
  REQUIRE_THROWS_WITH(block.forward(cpu{}, x, x.view(), saved), ContainsSubstring("y overlaps x"));
  REQUIRE_THROWS_AS(block.backward(cpu{}, x, few, y, saved), precondition_error);
  REQUIRE_THROWS_AS(block.backward(cpu{}, x, y, wrong, saved), precondition_error);
  REQUIRE_THROWS_AS(block.backward(cpu{}, x, y, x.view(), saved), precondition_error);
  REQUIRE_THROWS_AS(block.backward(cpu{}, x, y, y.view(), saved), precondition_error);  // no forward yet
}

TEST_CASE("block: a model asks the last layer before the first one reads a token", "[nn][errors]") {
  test::random_numbers random(85);
  using model = nn::decoder<recurrent_block>;
  model own({.vocab = 5, .dim = 3, .layers = 2, .block = {.mlp = {.hidden = 4}}});
  test::randomize(own, random);
  model changed = own;  // layers may be exchanged one by one
  changed.blocks[1] = recurrent_block(4, {.mlp = {.hidden = 4}});
  tensor<index_t, 2> ids(1, 3);
  tensor<double, 2> logits(1, 5), expected(1, 5);
  model::decode_state state(own, 1, 9), untouched(own, 1, 9);
  own.prefill(cpu{}, ids, untouched, expected);
  REQUIRE_THROWS_WITH(changed.prefill(cpu{}, ids, state, logits), ContainsSubstring("not of this mixer"));
  own.prefill(cpu{}, ids, state, logits);  // a sum that had moved would show here
  REQUIRE(test::same_bits(logits, expected));
}
