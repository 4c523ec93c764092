// SPDX-License-Identifier: Apache-2.0
#include "layers.hpp"
#include <seqprim/loss/cross_entropy.hpp>
#include <seqprim/mask/full.hpp>
#include <seqprim/nn/nn.hpp>
#include <seqprim/score/soft_cap.hpp>

#include <support/golden.hpp>

using namespace seqprim;

namespace {

constexpr double value_budget = 2e-5, gradient_golden_budget = 1e-4;  // README of the family

template <class P> void set(P& parameter, const golden& g, const std::string& name) {
  g.load_into(name, parameter.value);
}
template <class P> void require_gradient(const P& parameter, const golden& g, const std::string& name) {
  CAPTURE(name);
  REQUIRE(test::worst_error(parameter.grad, g.load<float, P::rank>(name)) < gradient_golden_budget);
}

tensor<float, 2> rows(const golden& g, const std::string& name) { return g.load_rows<float>(name); }
tensor<float, 2> like(const tensor<float, 2>& x) { return tensor<float, 2>(x.extent(0), x.extent(1)); }

}  // namespace

TEST_CASE("embedding: golden values", "[nn][golden]") {
  for (const golden& g : {golden("layers", "embedding_0"), golden("layers", "embedding_2")}) {
    CAPTURE(g.source());
    const auto ids = g.load<std::int64_t, 2>("ids");
    const auto& shape = g.shape("weight");
    nn::embedding<> layer(shape[0], shape[1], {.scale = g.params.at("scale")});
    set(layer.weight, g, "weight");
    tensor<float, 3> out(ids.extent(0), ids.extent(1), shape[1]);
    nn::embedding<>::activations saved;
    layer.forward(cpu{}, ids, out);
    layer.backward(cpu{}, ids, g.load<float, 3>("dout"), saved);
    REQUIRE(test::worst_error(out, g.load<float, 3>("out")) < value_budget);
    require_gradient(layer.weight, g, "dweight");
  }
}

TEST_CASE("linear: golden values", "[nn][golden]") {
  for (const golden& g : {golden("layers", "linear_0"), golden("layers", "linear_1")}) {
    CAPTURE(g.source());
    const auto x = rows(g, "x"), dout = rows(g, "dout");
    const bool bias = g.params.at("bias");
    nn::linear<> layer(x.extent(1), dout.extent(1), {.bias = bias});
    set(layer.weight, g, "weight");
    if (bias) set(layer.bias, g, "bias");
    auto out = like(dout), dx = like(x);
    nn::linear<>::activations saved;
    layer.forward(cpu{}, x, out);
    layer.backward(cpu{}, x, dout, dx, saved);
    REQUIRE(test::worst_error(out, rows(g, "out")) < value_budget);
    REQUIRE(test::worst_error(dx, rows(g, "dx")) < gradient_golden_budget);
    require_gradient(layer.weight, g, "dweight");
    if (bias) require_gradient(layer.bias, g, "dbias");
  }
}

TEST_CASE("decoder parts: golden values of a tied head", "[nn][golden]") {
  for (const golden& g : {golden("layers", "tied_head_0"), golden("layers", "tied_head_2")}) {
    CAPTURE(g.source());
    const auto ids = g.load<std::int64_t, 2>("ids"), labels = g.load<std::int64_t, 2>("labels");
    const index_t batch = ids.extent(0), len = ids.extent(1);
    const auto& shape = g.shape("weight");
    const index_t vocab = shape[0], dim = shape[1];
    const float scale = g.params.at("scale");
    nn::embedding<> embed(vocab, dim, {});
    set(embed.weight, g, "weight");
    nn::srms_norm<> norm(dim, {.eps = g.params.at("eps")});
    tensor<float, 3> x(batch, len, dim), hidden(batch, len, dim), dx(batch, len, dim);
    tensor<float, 2> logits(batch * len, vocab), dlogits(batch * len, vocab);
    nn::embedding<>::activations embed_saved;
    nn::srms_norm<>::activations norm_saved;
    const tensor_view<float, 2> flat(hidden.data(), batch * len, dim), flat_dx(dx.data(), batch * len, dim);
    // logits = (norm(x) * scale) W^T: the scale stands after the norm.
    embed.forward(cpu{}, ids, x);
    norm.forward(cpu{}, x, hidden, norm_saved);
    for (float& h : hidden) h *= scale;
    linalg::matmul(cpu{}, flat, embed.weight.value.view().transposed(0, 1), logits);
    const auto result =
        loss::cross_entropy(cpu{}, {}, logits, tensor_view<const std::int64_t, 1>(labels.data(), batch * len), dlogits);
    linalg::matmul(cpu{}, dlogits.view().transposed(0, 1), flat, embed.weight.grad, linalg::store::accumulate);
    linalg::matmul(cpu{}, dlogits, embed.weight.value, flat_dx);
    for (float& d : dx) d *= scale;
    norm.backward(cpu{}, x, dx, dx.view(), norm_saved);
    embed.backward(cpu{}, ids, dx, embed_saved);
    REQUIRE(result.loss == Approx(g.scalar<float>("loss")).epsilon(value_budget));
    REQUIRE(test::worst_error(logits, rows(g, "logits")) < value_budget);
    require_gradient(embed.weight, g, "dweight");
  }
}

TEST_CASE("rms_norm: golden values", "[nn][golden]") {
  for (const golden& g :
       {golden("layers", "rmsnorm_0"), golden("layers", "rmsnorm_1"), golden("layers", "rmsnorm_3")}) {
    CAPTURE(g.source());
    const auto x = rows(g, "x"), dout = rows(g, "dout");
    nn::rms_norm<> layer(x.extent(1), {.eps = g.params.at("eps"), .offset = g.params.at("weight_offset")});
    set(layer.weight, g, "weight");
    auto out = like(x), dx = like(x);
    nn::rms_norm<>::activations saved;
    layer.forward(cpu{}, x, out, saved);
    layer.backward(cpu{}, x, dout, dx, saved);
    REQUIRE(test::worst_error(out, rows(g, "out")) < value_budget);
    REQUIRE(test::worst_error(dx, rows(g, "dx")) < gradient_golden_budget);
    require_gradient(layer.weight, g, "dweight");
  }
}

TEST_CASE("srms_norm: golden values", "[nn][golden]") {
  for (const golden& g :
       {golden("layers", "srmsnorm_0"), golden("layers", "srmsnorm_1"), golden("layers", "srmsnorm_3")}) {
    CAPTURE(g.source());
    const auto x = rows(g, "x");
    nn::srms_norm<> layer(x.extent(1), {.eps = g.params.at("eps")});
    auto out = like(x), dx = like(x);
    nn::srms_norm<>::activations saved;
    layer.forward(cpu{}, x, out, saved);
    layer.backward(cpu{}, x, rows(g, "dout"), dx, saved);
    REQUIRE(test::worst_error(out, rows(g, "out")) < value_budget);
    REQUIRE(test::worst_error(dx, rows(g, "dx")) < gradient_golden_budget);
  }
}

TEST_CASE("rms_norm: golden values of the fused addition", "[nn][golden]") {
  for (const golden& g : {golden("layers", "add_rmsnorm_0"), golden("layers", "add_rmsnorm_2")}) {
    CAPTURE(g.source());
    const auto x = rows(g, "x");
    nn::rms_norm<> layer(x.extent(1), {.eps = g.params.at("eps")});
    set(layer.weight, g, "weight");
    auto sum = like(x), out = like(x), dx = rows(g, "dsum");
    nn::rms_norm<>::activations saved;
    layer.forward_add(cpu{}, x, rows(g, "residual"), sum, out, saved);
    layer.backward(cpu{}, sum, rows(g, "dout"), dx, saved, linalg::store::accumulate);
    REQUIRE(test::worst_error(sum, rows(g, "sum")) < value_budget);
    REQUIRE(test::worst_error(out, rows(g, "out")) < value_budget);
    REQUIRE(test::worst_error(dx, rows(g, "dx")) < gradient_golden_budget);
    REQUIRE(test::worst_error(dx, rows(g, "dresidual")) < gradient_golden_budget);
    require_gradient(layer.weight, g, "dweight");
  }
}

namespace {

/// f(activation) of the activation that a file names.
template <class F> void with_activation(const std::string& name, const F& f) {
  if (name == "identity") return f(nn::identity{});
  if (name == "relu") return f(nn::relu{});
  if (name == "relu2") return f(nn::relu2{});
  if (name == "gelu_erf") return f(nn::gelu_erf{});
  if (name == "gelu_tanh") return f(nn::gelu_tanh{});
  if (name == "gelu_quick") return f(nn::gelu_quick{});
  if (name == "silu") return f(nn::silu{});
  if (name == "sigmoid") return f(nn::sigmoid{});
  if (name == "tanh") return f(nn::tanh{});
  if (name == "softplus") return f(nn::softplus{});
  FAIL("the file names an activation that does not exist: " << name);
}

}  // namespace

TEST_CASE("activation: golden values", "[nn][golden]") {
  const golden g("layers", "activations_0");
  const auto x = rows(g, "x");
  auto y = like(x), dy = like(x), ones = like(x);
  ones.fill(1.0f);
  const auto names = g.params.at("names").get<std::vector<std::string>>();
  REQUIRE_FALSE(names.empty());
  for (const std::string& name : names)
    with_activation(name, [&]<class Activation>(Activation) {
      CAPTURE(name);
      nn::activate<Activation>(cpu{}, x, y);
      nn::activate_backward<Activation>(cpu{}, x, ones, dy);
      REQUIRE(test::worst_error(y, rows(g, "y_" + name)) < value_budget);
      REQUIRE(test::worst_error(dy, rows(g, "dy_" + name)) < gradient_golden_budget);
    });
}

namespace {

template <class Activation> void require_gated_mlp(const golden& g) {
  CAPTURE(g.source());
  const auto x = rows(g, "x");
  nn::gated_mlp<Activation> layer(x.extent(1), {.hidden = g.shape("w_gate")[0]});
  set(layer.gate_proj.weight, g, "w_gate");
  set(layer.up_proj.weight, g, "w_up");
  set(layer.down_proj.weight, g, "w_down");
  auto out = like(x), dx = like(x);
  typename nn::gated_mlp<Activation>::activations saved;
  layer.forward(cpu{}, x, out, saved);
  layer.backward(cpu{}, x, rows(g, "dout"), dx, saved);
  REQUIRE(test::worst_error(out, rows(g, "out")) < value_budget);
  REQUIRE(test::worst_error(dx, rows(g, "dx")) < gradient_golden_budget);
  require_gradient(layer.gate_proj.weight, g, "dw_gate");
  require_gradient(layer.up_proj.weight, g, "dw_up");
  require_gradient(layer.down_proj.weight, g, "dw_down");
}

}  // namespace

TEST_CASE("gated_mlp: golden values of every kind", "[nn][golden]") {
  const golden files[] = {golden("layers", "glu_silu_0"),      golden("layers", "glu_gelu_erf_1"),
                          golden("layers", "glu_gelu_tanh_2"), golden("layers", "glu_identity_3"),
                          golden("layers", "glu_sigmoid_4"),   golden("layers", "glu_relu_5"),
                          golden("layers", "glu_relu2_6")};
  for (const golden& g : files)
    with_activation(g.params.at("act").get<std::string>(),
                    [&]<class Activation>(Activation) { require_gated_mlp<Activation>(g); });
}

namespace {

/// The mask and the score of a file, whichever it names.
struct causal_or_full {
  bool causal = true;

  bool operator()(index_t q, index_t k) const noexcept { return !causal || k <= q; }
  mask::tile_kind classify(range q, range k) const noexcept {
    return causal ? mask::causal{}.classify(q, k) : mask::tile_kind::full;
  }
};
struct cap_or_nothing {
  float cap = 0;

  template <std::floating_point X> X operator()(X logit, score::site at) const noexcept {
    return cap > 0 ? score::soft_cap{cap}(logit, at) : logit;
  }
  template <std::floating_point X> X derivative(X logit, score::site at) const noexcept {
    return cap > 0 ? score::soft_cap{cap}.derivative(logit, at) : X(1);
  }
};

template <class Encoding> void require_attention_block(const golden& g, const Encoding& encoding) {
  CAPTURE(g.source());
  using mixer_type = nn::attention_mixer<causal_or_full, cap_or_nothing, Encoding>;
  const auto mask = g.params.at("mask").get<std::string>();
  REQUIRE((mask == "causal" || mask == "full"));
  const typename mixer_type::config options{.heads = g.params.at("heads"),
                                            .kv_heads = g.params.at("kv_heads"),
                                            .head_dim = g.params.at("head_dim"),
                                            .qkv_bias = g.contains("b_q"),
                                            .qk_norm = g.contains("q_norm"),
                                            .qk_norm_eps = g.params.at("qk_norm_eps"),
                                            .mask = {mask == "causal"},
                                            .score = {g.params.at("softcap")},
                                            .encoding = encoding};
  const auto x = g.load<float, 3>("x");
  const index_t batch = x.extent(0), len = x.extent(1);
  mixer_type mixer(x.extent(2), options);
  const auto each = [&](const auto& act) {
    act(mixer.q_proj.weight, "w_q");
    act(mixer.k_proj.weight, "w_k");
    act(mixer.v_proj.weight, "w_v");
    act(mixer.o_proj.weight, "w_o");
    if (options.qkv_bias) {
      act(mixer.q_proj.bias, "b_q");
      act(mixer.k_proj.bias, "b_k");
      act(mixer.v_proj.bias, "b_v");
    }
    if (options.qk_norm) {
      act(mixer.q_norm.weight, "q_norm");
      act(mixer.k_norm.weight, "k_norm");
    }
  };
  each([&](auto& p, const std::string& name) { set(p, g, name); });
  tensor<float, 3> out(batch, len, x.extent(2)), dx(batch, len, x.extent(2));
  typename mixer_type::activations saved;
  mixer.forward(cpu{}, x, out, saved);
  const auto heads = saved.out.view(batch, len, options.heads, options.head_dim);  // before the output projection
  const auto expected = g.load<float, 4>("attn");
  tensor<float, 4> attn(batch, options.heads, len, options.head_dim);
  for (index_t b = 0; b < batch; ++b)
    for (index_t h = 0; h < options.heads; ++h)
      for (index_t t = 0; t < len; ++t)
        for (index_t d = 0; d < options.head_dim; ++d) attn(b, h, t, d) = heads(b, t, h, d);
  REQUIRE(test::worst_error(attn, expected) < value_budget);
  mixer.backward(cpu{}, x, g.load<float, 3>("dout"), dx, saved);
  REQUIRE(test::worst_error(out, g.load<float, 3>("out")) < value_budget);
  REQUIRE(test::worst_error(dx, g.load<float, 3>("dx")) < gradient_golden_budget);
  each([&](auto& p, const std::string& name) { require_gradient(p, g, "d" + name); });
}

}  // namespace

TEST_CASE("attention_mixer: golden values", "[nn][golden]") {
  const golden files[] = {golden("layers", "attention_block_0"), golden("layers", "attention_block_1"),
                          golden("layers", "attention_block_2"), golden("layers", "attention_block_5")};
  for (const golden& g : files) {
    REQUIRE(g.params.at("scale").get<std::string>() == "head_dim^-0.5");
    if (g.params.at("rope").is_null()) {
      require_attention_block(g, position::none{});
    } else {
      const auto rope = g.params.at("rope").get<std::string>();  // "half-split theta=10000"
      const std::string start = "half-split theta=";
      REQUIRE(rope.starts_with(start));
      require_attention_block(
          g, position::rotary<position::half_split>{.frequencies = {.theta = std::stod(rope.substr(start.size()))}});
    }
  }
}

namespace {

void require_model(const golden& g) {
  CAPTURE(g.source());
  using model = nn::decoder<nn::block<nn::attention_mixer<>, nn::swiglu<>, nn::rms_norm<>>>;
  model::config options{.vocab = g.params.at("vocab_size"),
                        .dim = g.params.at("hidden_size"),
                        .layers = g.params.at("num_hidden_layers"),
                        .tied_head = g.params.at("tie_word_embeddings")};
  options.block.mixer.heads = g.params.at("num_attention_heads");
  options.block.mixer.kv_heads = g.params.at("num_key_value_heads");
  options.block.mixer.head_dim = g.params.at("head_dim");
  options.block.mixer.encoding.frequencies.theta = g.params.at("rope_theta");
  options.block.mixer.qkv_bias = g.contains("model.layers.0.self_attn.q_proj.bias");
  options.block.mixer.qk_norm = g.contains("model.layers.0.self_attn.q_norm.weight");
  options.block.mixer.qk_norm_eps = g.params.at("rms_norm_eps");
  options.block.mlp.hidden = g.params.at("intermediate_size");
  options.block.norm.eps = g.params.at("rms_norm_eps");
  model m(options);
  m.visit_parameters([&](const std::string& name, auto& p) { set(p, g, name); });

  const auto ids = g.load<std::int64_t, 2>("input_ids");
  const index_t batch = ids.extent(0), len = ids.extent(1), vocab = m.vocab();
  model::activations saved;
  const auto hidden = m.forward(cpu{}, ids, saved);
  tensor<float, 2> logits(batch * len, vocab), dlogits(batch * len, vocab);
  m.logits(cpu{}, hidden, logits);
  REQUIRE(test::worst_error(logits, rows(g, "logits")) < value_budget);
  for (index_t l = 0; l < m.layers(); ++l)
    REQUIRE(test::worst_error(saved.streams[static_cast<std::size_t>(l + 1)].view(batch * len, m.dim()),
                              rows(g, "hidden." + std::to_string(l))) < value_budget);

  tensor<index_t, 1> labels(batch * len);
  for (index_t b = 0; b < batch; ++b)
    for (index_t t = 0; t < len; ++t) labels(b * len + t) = t + 1 < len ? ids(b, t + 1) : -100;
  const auto result = loss::cross_entropy(cpu{}, {}, logits, labels, dlogits);
  REQUIRE(result.loss == Approx(g.scalar<float>("loss")).epsilon(value_budget));
  tensor<float, 3> dhidden(batch, len, m.dim());
  const tensor_view<float, 2> flat(hidden.data, batch * len, m.dim()), dflat(dhidden.data(), batch * len, m.dim());
  linalg::matmul(cpu{}, dlogits.view().transposed(0, 1), flat, m.head_weight().grad, linalg::store::accumulate);
  linalg::matmul(cpu{}, dlogits, m.head_weight().value, dflat);
  m.backward(cpu{}, ids, dhidden, saved);
  index_t gradients = 0;
  m.visit_parameters([&](const std::string& name, const auto& p) {
    require_gradient(p, g, "grad." + name);
    ++gradients;
  });
  const auto names = g.names();
  REQUIRE(gradients ==
          std::count_if(names.begin(), names.end(), [](const std::string& name) { return name.starts_with("grad."); }));
}

}  // namespace

TEST_CASE("decoder: golden values of whole small Llama and Qwen models, with every gradient", "[nn][golden]") {
  require_model(golden("layers", "tiny_llama_0"));
  require_model(golden("layers", "tiny_qwen2_1"));
  require_model(golden("layers", "tiny_qwen3_2"));
}

TEST_CASE("adamw: golden trajectories", "[nn][golden]") {
  for (const golden& g : {golden("layers", "adamw_0"), golden("layers", "adamw_2"), golden("layers", "adamw_4"),
                          golden("layers", "adam_l2_1")}) {
    CAPTURE(g.source());
    const auto start = g.load<float, 1>("param0");
    const auto grads = g.load<float, 2>("grads"), params = g.load<float, 2>("params");
    const auto grad_norms = g.load<float, 1>("grad_norms");
    const index_t n = start.size();
    nn::linear<> layer(n, 1);
    std::copy(start.begin(), start.end(), layer.weight.value.begin());
    const bool inside = g.metadata("case").starts_with("adam_l2");
    nn::adamw<> optimizer(layer, {.beta1 = g.params.at("beta1"),
                                  .beta2 = g.params.at("beta2"),
                                  .eps = g.params.at("eps"),
                                  .weight_decay = g.params.at("weight_decay"),
                                  .decay = inside ? nn::decay::l2 : nn::decay::decoupled});
    for (index_t step = 0; step < grads.extent(0); ++step) {
      std::copy(&grads(step, 0), &grads(step, 0) + n, layer.weight.grad.begin());
      const bool clips = g.params.contains("clip_norm");
      const auto norm = nn::measure_gradients(cpu{}, layer, clips ? g.params.at("clip_norm").get<double>() : 1.0);
      REQUIRE(norm.norm == Approx(grad_norms(step)).epsilon(1e-5));
      optimizer.step(cpu{}, layer, g.params.at("lr"), clips ? norm.factor : 1.0);
      for (index_t i = 0; i < n; ++i)
        REQUIRE(layer.weight.value(0, i) == Approx(params(step, i)).margin(1e-6).epsilon(value_budget));
    }
    optimizer.visit_state([&](const std::string& name, const auto& view) {
      const auto expected = g.load<float, 1>(name == "weight.exp_avg" ? "exp_avg" : "exp_avg_sq");
      for (index_t i = 0; i < n; ++i) REQUIRE(view(i) == Approx(expected(i)).epsilon(value_budget).margin(1e-9));
    });
  }
}

namespace {

/// The gradients g0, g1, ... of a file as parameters.
struct gradient_list {
  using value_type = float;
  std::vector<nn::parameter<float, 2>> all;
  explicit gradient_list(const golden& g) {
    for (int i = 0; g.contains("g" + std::to_string(i)); ++i) {
      const auto values = rows(g, "g" + std::to_string(i));
      all.emplace_back(nn::role::projection, values.extent(0), values.extent(1));
      all.back().grad = values;
    }
  }
  template <class Visit> void visit_parameters(Visit&& visit) {
    for (auto& p : all) visit(std::string("g"), p);
  }
};

}  // namespace

TEST_CASE("clip: golden values", "[nn][golden]") {
  for (const golden& g : {golden("layers", "clip_grad_norm_0"), golden("layers", "clip_grad_norm_1")}) {
    CAPTURE(g.source());
    gradient_list list(g);
    REQUIRE_FALSE(list.all.empty());
    const auto result = nn::clip_gradients(cpu{}, list, g.params.at("max_norm"));
    REQUIRE(result.norm == Approx(g.scalar<float>("total_norm")).epsilon(1e-6));
    for (std::size_t i = 0; i < list.all.size(); ++i)
      REQUIRE(test::worst_error(list.all[i].grad, rows(g, "out" + std::to_string(i))) < value_budget);
  }
}

TEST_CASE("schedule: golden values", "[nn][golden]") {
  for (const golden& g : {golden("layers", "lr_schedules_0"), golden("layers", "lr_schedules_2")}) {
    CAPTURE(g.source());
    const double base = g.params.at("base_lr"), low = g.params.at("min_ratio"), from = g.params.at("warmup_init");
    const index_t warmup = g.params.at("warmup"), total = g.params.at("total");
    const auto steps = g.load<index_t, 1>("step");
    const auto check = [&](const char* name, const auto& schedule) {
      CAPTURE(name);
      schedule.validate();
      const auto expected = g.load<float, 1>(name);
      REQUIRE(expected.size() == steps.size());
      for (index_t i = 0; i < steps.size(); ++i)
        REQUIRE(schedule(steps(i)) == Approx(expected(i)).epsilon(1e-6).margin(1e-9 * base));
    };
    const nn::cosine_schedule open{.base = base, .warmup = warmup, .total = total, .clamped = false};
    auto open_min = open, clamped = open, warm = open;
    open_min.min_ratio = clamped.min_ratio = warm.min_ratio = low;
    clamped.clamped = warm.clamped = true;
    warm.warmup_from = from;
    check("linear", nn::linear_schedule{.base = base, .warmup = warmup, .total = total});
    check("cosine", open);
    check("cosine_min", open_min);
    check("cosine_min_clamped", clamped);
    check("cosine_warmup_init", warm);
    check("inverse_sqrt", nn::inverse_sqrt_schedule{.base = base, .warmup = warmup});
    check("warmup_stable_decay", nn::warmup_stable_decay_schedule{.base = base,
                                                                  .warmup = warmup,
                                                                  .total = total,
                                                                  .min_ratio = low,
                                                                  .decay_start = g.params.at("wsd_decay_start")});
  }
}
