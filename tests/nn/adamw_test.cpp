// SPDX-License-Identifier: Apache-2.0
#include "layers.hpp"
#include <seqprim/nn/adamw.hpp>
#include <seqprim/nn/gated_mlp.hpp>
#include <seqprim/nn/rms_norm.hpp>

#include <limits>

using namespace seqprim;

namespace {

/// Some tensors, one longer than a piece of work.
struct pair_of_layers {
  using value_type = float;
  nn::linear<> wide{150, 130, {.bias = true}};
  nn::rms_norm<> norm{37};

  template <class Visit> void visit_parameters(Visit&& visit) { visit_all(*this, visit); }
  template <class Visit> void visit_parameters(Visit&& visit) const { visit_all(*this, visit); }

 private:
  template <class Self, class Visit> static void visit_all(Self& self, Visit& visit) {
    self.wide.visit_parameters(nn::nested("wide", visit));
    self.norm.visit_parameters(nn::nested("norm", visit));
  }
};

void random_gradients(pair_of_layers& layers, test::random_numbers& random) {
  layers.visit_parameters([&](const std::string&, auto& p) { random.fill(p.grad); });
}

}  // namespace

TEST_CASE("adamw: agrees with the definition in double over many steps", "[nn][property]") {
  test::random_numbers random(121);
  const auto decay = GENERATE(nn::decay::decoupled, nn::decay::l2);
  const nn::adamw<>::config options{.beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.1, .decay = decay};
  pair_of_layers layers;
  test::randomize(layers, random);
  nn::adamw<> optimizer(layers, options);
  std::vector<double> w, m, v;
  std::vector<bool> decays;
  layers.visit_parameters([&](const std::string& name, const auto& p) {
    for (const float x : p.value) {
      w.push_back(static_cast<double>(x));
      decays.push_back(name == "wide.weight");
    }
  });
  m.resize(w.size());
  v.resize(w.size());
  for (int step = 1; step <= 5; ++step) {
    random_gradients(layers, random);
    const double rate = 0.01 * step, factor = 0.5;
    std::size_t i = 0;
    layers.visit_parameters([&](const std::string&, const auto& p) {
      for (const float gradient : p.grad) {
        const double wd = decays[i] ? options.weight_decay : 0;
        double g = factor * static_cast<double>(gradient);
        if (decay == nn::decay::l2) g += wd * w[i];
        if (decay == nn::decay::decoupled) w[i] *= 1 - rate * wd;
        m[i] = options.beta1 * m[i] + (1 - options.beta1) * g;
        v[i] = options.beta2 * v[i] + (1 - options.beta2) * g * g;
        w[i] -= rate / (1 - std::pow(options.beta1, step)) * m[i] /
                (std::sqrt(v[i]) / std::sqrt(1 - std::pow(options.beta2, step)) + options.eps);
        ++i;
      }
    });
    optimizer.step(cpu{}, layers, rate, factor);
    REQUIRE(optimizer.steps() == step);
  }
  std::size_t i = 0;
  double worst = 0;
  layers.visit_parameters([&](const std::string&, const auto& p) {
    for (const float x : p.value) worst = std::max(worst, std::abs(static_cast<double>(x) - w[i++]));
  });
  REQUIRE(worst < 2e-6);  // five steps of a few roundings of numbers near 1
}

TEST_CASE("adamw: without a gradient it still decays and moves by momentum", "[nn]") {
  nn::linear<> layer(1, 1);
  layer.weight.value.fill(1.0f);
  nn::adamw<> optimizer(layer, {.weight_decay = 0.5});
  layer.weight.grad.fill(1.0f);
  optimizer.step(cpu{}, layer, 0.1);
  const float after_one = layer.weight.value(0, 0);
  REQUIRE(after_one == Approx(1 * 0.95 - 0.1));
  nn::zero_gradients(cpu{}, layer);
  optimizer.step(cpu{}, layer, 0.1);
  REQUIRE(layer.weight.value(0, 0) < after_one * 0.95f);
}

TEST_CASE("adamw: the caller chooses what decays", "[nn]") {
  pair_of_layers layers;
  layers.wide.weight.value.fill(1.0f);
  layers.wide.bias.value.fill(1.0f);
  SECTION("matrices, unless told otherwise") {
    nn::adamw<> optimizer(layers, {.weight_decay = 1});
    optimizer.step(cpu{}, layers, 0.5);
    REQUIRE(layers.wide.weight.value(3, 3) == 0.5f);
    REQUIRE(layers.wide.bias.value(3) == 1.0f);
    REQUIRE(layers.norm.weight.value(3) == 1.0f);
  }
  SECTION("by name") {
    nn::adamw<> optimizer(layers, {.weight_decay = 1},
                          [](const std::string& name, const auto&) { return name == "norm.weight"; });
    optimizer.step(cpu{}, layers, 0.5);
    REQUIRE(layers.wide.weight.value(3, 3) == 1.0f);
    REQUIRE(layers.norm.weight.value(36) == 0.5f);
  }
}

TEST_CASE("adamw: same bits for any number of threads", "[nn][property]") {
  const auto run = [](int threads) {
    test::random_numbers random(122);
    pair_of_layers layers;
    test::randomize(layers, random);
    nn::adamw<> optimizer(layers);
    for (int step = 0; step < 3; ++step) {
      random_gradients(layers, random);
      optimizer.step(cpu{.threads = threads}, layers, 0.01);
    }
    return layers.wide.weight.value;
  };
  const auto one = run(1);
  REQUIRE(test::same_bits(one, run(2)));
  REQUIRE(test::same_bits(one, run(5)));
}

TEST_CASE("adamw: works on a layer that was moved, refuses another one", "[nn][errors]") {
  nn::swiglu<> layer(4, {.hidden = 3}), other(4, {.hidden = 5});
  nn::adamw<> optimizer(layer);
  nn::swiglu<> moved = std::move(layer);
  optimizer.step(cpu{}, moved, 0.1);
  REQUIRE_THROWS_WITH(
      optimizer.step(cpu{}, other, 0.1),
      ContainsSubstring(
          "nn::adamw: this optimizer was made for another model: parameter 0 is 'gate_proj.weight' with 20 elements"));
  nn::linear<> part(4, 3);
  nn::adamw<> of_nothing(nn::srms_norm<>(3));
  REQUIRE_THROWS_AS(of_nothing.step(cpu{}, part, 0.1), precondition_error);
  nn::srms_norm<> none(3);
  REQUIRE_THROWS_WITH(optimizer.step(cpu{}, none, 0.1),
                      ContainsSubstring("the layer has 0 parameters, the optimizer 3"));
  REQUIRE(optimizer.steps() == 1);
}

TEST_CASE("adamw: wrong options are errors", "[nn][errors]") {
  nn::linear<> layer(2, 2);
  for (const auto& options :
       {nn::adamw<>::config{.beta1 = 1}, nn::adamw<>::config{.beta1 = -0.1}, nn::adamw<>::config{.beta2 = 1},
        nn::adamw<>::config{.eps = -1}, nn::adamw<>::config{.weight_decay = -1},
        nn::adamw<>::config{.eps = std::numeric_limits<double>::infinity()}})
    REQUIRE_THROWS_AS(nn::adamw<>(layer, options), precondition_error);
  nn::adamw<> optimizer(layer);
  REQUIRE_THROWS_AS(optimizer.step(cpu{}, layer, std::numeric_limits<double>::quiet_NaN()), precondition_error);
  REQUIRE_THROWS_AS(optimizer.step(cpu{}, layer, 0.1, std::numeric_limits<double>::infinity()), precondition_error);
  REQUIRE_THROWS_AS(optimizer.step(cpu{.threads = -1}, layer, 0.1), precondition_error);
  REQUIRE_THROWS_AS(optimizer.set_steps(-1), precondition_error);
  REQUIRE(optimizer.steps() == 0);
}
