// SPDX-License-Identifier: Apache-2.0
#include <seqprim/loss/linear_cross_entropy.hpp>

#include <support/catch.hpp>
#include <support/gradients.hpp>
#include <support/random.hpp>

using namespace seqprim;

namespace {

template <index_t Rows> struct chunks_of {
  template <class Isa>
  constexpr loss::linear_cross_entropy_policy operator()(Isa, const loss::linear_cross_entropy_shape&) const noexcept {
    return {.chunk_rows = Rows};
  }
};

template <class T> struct head_problem {
  tensor<T, 2> x, weight;
  tensor<T, 1> bias, weights;
  tensor<index_t, 1> labels;

  head_problem(test::random_numbers& random, index_t rows, index_t dim, index_t vocab, bool ignores)
      : x(rows, dim), weight(vocab, dim), bias(vocab), weights(rows), labels(rows) {
    random.fill(x);
    random.fill(weight);
    random.fill(bias);
    for (T& w : weights) w = static_cast<T>(0.2f + random.uniform() * random.uniform());
    for (index_t& label : labels) label = ignores && random.integer(0, 2) == 0 ? -100 : random.integer(0, vocab - 1);
  }
};

template <class T> struct head_gradients {
  tensor<T, 2> dx, dweight;
  tensor<T, 1> dbias;
  explicit head_gradients(const head_problem<T>& p)
      : dx(p.x.extent(0), p.x.extent(1)), dweight(p.weight.extent(0), p.weight.extent(1)), dbias(p.bias.extent(0)) {
    dx.fill(9);       // overwritten
    dweight.fill(1);  // added to
    dbias.fill(1);
  }
  loss::linear_cross_entropy_gradients<T> views() {
    return {.dx = dx.view(), .dweight = dweight.view(), .dbias = dbias.view()};
  }
};

template <class A> bool same(const A& a, const A& b) { return std::equal(a.begin(), a.end(), b.begin()); }

}  // namespace

TEST_CASE("linear_cross_entropy: equals the two layers one after the other, for any chunk", "[loss][property]") {
  test::random_numbers random(111);
  const bool ignores = GENERATE(false, true);
  const head_problem<float> p(random, 67, 24, 53, ignores);
  const loss::cross_entropy_options options{.label_smoothing = 0.1, .z_loss = 0.01, .soft_cap = 20};

  tensor<float, 2> logits(67, 53);
  for (index_t i = 0; i < 67; ++i)
    for (index_t j = 0; j < 53; ++j) logits(i, j) = p.bias(j);
  linalg::matmul(cpu{}, p.x, p.weight.view().transposed(0, 1), logits, linalg::store::accumulate);
  head_gradients<float> expected(p);
  const auto unfused =
      loss::cross_entropy(cpu{}, options, logits, p.labels, logits.view(), {.weights = p.weights.view()});
  linalg::matmul(cpu{}, logits, p.weight, expected.dx);
  linalg::matmul(cpu{}, logits.view().transposed(0, 1), p.x, expected.dweight, linalg::store::accumulate);
  for (index_t i = 0; i < 67; ++i)
    for (index_t j = 0; j < 53; ++j) expected.dbias(j) += logits(i, j);

  loss::linear_cross_entropy_workspace<float> workspace;
  const auto run = [&]<class Selector>(Selector, int threads, head_gradients<float>& g) {
    return loss::linear_cross_entropy<arch::native_isa, Selector>(
        cpu{.threads = threads}, options, p.x, p.weight, p.bias, p.labels, g.views(), workspace, p.weights.view());
  };
  head_gradients<float> whole(p);
  const auto fused = run(loss::default_linear_cross_entropy_policy{}, 1, whole);
  REQUIRE(fused.loss == Approx(unfused.loss).epsilon(1e-14));
  REQUIRE(fused.rows == unfused.rows);
  REQUIRE(fused.weight == unfused.weight);
  REQUIRE(fused.correct == unfused.correct);
  // Rows that are ignored add exact zeros to the unfused sums: the bits agree.
  REQUIRE(same(whole.dx, expected.dx));
  REQUIRE(same(whole.dweight, expected.dweight));
  REQUIRE(same(whole.dbias, expected.dbias));

  const auto require_same_bits = [&](auto selector, int threads) {
    head_gradients<float> g(p);
    const auto result = run(selector, threads, g);
    REQUIRE(result.loss == Approx(fused.loss).epsilon(1e-14));
    REQUIRE(result.correct == fused.correct);
    REQUIRE(same(g.dx, whole.dx));
    REQUIRE(same(g.dweight, whole.dweight));
    REQUIRE(same(g.dbias, whole.dbias));
  };
  require_same_bits(chunks_of<1000>{}, 3);
  require_same_bits(chunks_of<31>{}, 1);
  require_same_bits(chunks_of<12>{}, 2);
  head_gradients<float> g(p);  // products of fewer than five rows are summed in another order
  REQUIRE(run(chunks_of<1>{}, 1, g).loss == Approx(fused.loss).epsilon(1e-6));
  REQUIRE(test::worst_error(g.dx, whole.dx) < 1e-6);
  REQUIRE(test::worst_error(g.dweight, whole.dweight) < 1e-6);
  REQUIRE(test::worst_error(g.dbias, whole.dbias) < 1e-6);
}

TEST_CASE("linear_cross_entropy: gradients agree with finite differences", "[loss][property]") {
  test::random_numbers random(112);
  head_problem<double> p(random, 6, 4, 5, true);
  const loss::cross_entropy_options options =
      GENERATE(loss::cross_entropy_options{}, loss::cross_entropy_options{.label_smoothing = 0.1, .z_loss = 0.1},
               loss::cross_entropy_options{.reduction = loss::reduction::sum});
  loss::linear_cross_entropy_workspace<double> workspace;
  head_gradients<double> g(p);
  loss::linear_cross_entropy(cpu{}, options, p.x, p.weight, p.bias, p.labels, g.views(), workspace, p.weights.view());
  const auto objective = [&] {
    return loss::linear_cross_entropy(cpu{}, options, p.x, p.weight, p.bias, p.labels, {}, workspace, p.weights.view())
        .loss;
  };
  for (double& d : g.dweight) d -= 1;
  for (double& d : g.dbias) d -= 1;
  REQUIRE(test::gradient_error(p.x.data(), g.dx.data(), p.x.size(), objective) < test::gradient_budget);
  REQUIRE(test::gradient_error(p.weight.data(), g.dweight.data(), p.weight.size(), objective) < test::gradient_budget);
  REQUIRE(test::gradient_error(p.bias.data(), g.dbias.data(), p.bias.size(), objective) < test::gradient_budget);
}

TEST_CASE("linear_cross_entropy: the order of the rows does not matter beyond rounding", "[loss][property]") {
  test::random_numbers random(113);
  const head_problem<float> p(random, 50, 12, 20, true);
  head_problem<float> turned = p;
  for (index_t i = 0; i < 50; ++i) {
    turned.labels(i) = p.labels(49 - i);
    for (index_t d = 0; d < 12; ++d) turned.x(i, d) = p.x(49 - i, d);
  }
  loss::linear_cross_entropy_workspace<float> workspace;
  head_gradients<float> a(p), b(p);
  const auto first = loss::linear_cross_entropy(cpu{}, {}, p.x, p.weight, p.labels, a.views(), workspace);
  const auto second = loss::linear_cross_entropy(cpu{}, {}, turned.x, p.weight, turned.labels, b.views(), workspace);
  REQUIRE(first.loss == Approx(second.loss).epsilon(1e-12));
  REQUIRE(test::worst_error(a.dweight, b.dweight) < 1e-6);
  for (index_t i = 0; i < 50; ++i)
    for (index_t d = 0; d < 12; ++d) REQUIRE(a.dx(i, d) == b.dx(49 - i, d));
}

TEST_CASE("linear_cross_entropy: nothing that counts, and no rows", "[loss]") {
  test::random_numbers random(114);
  head_problem<float> p(random, 3, 4, 5, false), none(random, 0, 4, 5, false);
  p.labels.fill(-100);
  loss::linear_cross_entropy_workspace<float> workspace;
  head_gradients<float> g(p), h(none);
  const auto result = loss::linear_cross_entropy(cpu{}, {}, p.x, p.weight, p.labels, g.views(), workspace);
  REQUIRE(result.empty);
  REQUIRE(result.loss == 0.0);
  REQUIRE(std::all_of(g.dx.begin(), g.dx.end(), [](float x) { return x == 0.0f; }));
  REQUIRE(std::all_of(g.dweight.begin(), g.dweight.end(), [](float x) { return x == 1.0f; }));
  REQUIRE(loss::linear_cross_entropy(cpu{}, {}, none.x, none.weight, none.labels, h.views(), workspace).empty);
}

TEST_CASE("linear_cross_entropy: wrong shapes, labels and options are errors before anything is written",
          "[loss][errors]") {
  test::random_numbers random(115);
  head_problem<float> p(random, 3, 4, 5, false);
  head_gradients<float> g(p);
  loss::linear_cross_entropy_workspace<float> w;
  tensor<float, 2> wrong(5, 3), empty_head(0, 4);
  tensor<float, 1> short_bias(4);
  tensor<index_t, 1> few(2);
  const auto run = [&](const loss::cross_entropy_options& options, const auto& weight, const auto& bias,
                       const auto& labels, const loss::linear_cross_entropy_gradients<float>& gradients) {
    loss::linear_cross_entropy(cpu{}, options, p.x, weight, bias, labels, gradients, w);
  };
  REQUIRE_THROWS_WITH(run({}, wrong, p.bias, p.labels, g.views()),
                      ContainsSubstring("weight has dim 3 (axis 1), but x has dim 4"));
  REQUIRE_THROWS_AS(run({}, empty_head, p.bias, p.labels, g.views()), precondition_error);
  REQUIRE_THROWS_AS(run({}, p.weight, short_bias, p.labels, g.views()), precondition_error);
  REQUIRE_THROWS_AS(run({}, p.weight, p.bias, few, g.views()), precondition_error);
  REQUIRE_THROWS_AS(run({}, p.weight, p.bias, p.labels, {.dx = wrong.view()}), precondition_error);
  REQUIRE_THROWS_AS(run({}, p.weight, p.bias, p.labels, {.dx = p.x.view()}), precondition_error);
  REQUIRE_THROWS_AS(run({}, p.weight, p.bias, p.labels, {.dweight = wrong.view()}), precondition_error);
  REQUIRE_THROWS_AS(run({}, p.weight, p.bias, p.labels, {.dbias = short_bias.view()}), precondition_error);
  REQUIRE_THROWS_WITH(run({.reduction = loss::reduction::none}, p.weight, p.bias, p.labels, g.views()),
                      ContainsSubstring("reduction must be mean or sum"));
  REQUIRE_THROWS_AS(run({.z_loss = -1}, p.weight, p.bias, p.labels, g.views()), precondition_error);
  REQUIRE_THROWS_AS(loss::linear_cross_entropy(cpu{}, {}, p.x, p.weight, p.labels, g.views(), w, short_bias.view()),
                    precondition_error);
  p.labels(2) = 5;
  REQUIRE_THROWS_WITH(run({}, p.weight, p.bias, p.labels, g.views()), ContainsSubstring("label (5) of row 2"));
  REQUIRE(std::all_of(g.dx.begin(), g.dx.end(), [](float x) { return x == 9.0f; }));
  REQUIRE(std::all_of(g.dweight.begin(), g.dweight.end(), [](float x) { return x == 1.0f; }));
}
