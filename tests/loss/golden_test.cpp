// SPDX-License-Identifier: Apache-2.0
#include <seqprim/loss/loss.hpp>

#include <support/catch.hpp>
#include <support/golden.hpp>
#include <support/gradients.hpp>

using namespace seqprim;

namespace {

loss::cross_entropy_options options_of(const golden& g) {
  loss::cross_entropy_options options{.label_smoothing = g.params.at("label_smoothing"),
                                      .z_loss = g.params.at("z_loss"),
                                      .ignore_index = g.params.at("ignore_index")};
  if (g.params.contains("softcap")) options.soft_cap = g.params.at("softcap");
  const auto reduction = g.params.value<std::string>("reduction", "mean");
  options.reduction = reduction == "mean"  ? loss::reduction::mean
                      : reduction == "sum" ? loss::reduction::sum
                                           : loss::reduction::none;
  return options;
}

}  // namespace

TEST_CASE("cross_entropy: golden values", "[loss][golden]") {
  for (const golden& g :
       {golden("layers", "cross_entropy_0"), golden("layers", "cross_entropy_1"), golden("layers", "cross_entropy_2"),
        golden("layers", "cross_entropy_3"), golden("layers", "cross_entropy_4")}) {
    CAPTURE(g.source());
    const auto logits = g.load<float, 2>("logits");
    const auto labels = g.load<std::int64_t, 1>("labels");
    const auto expected = g.load<float, 1>("loss");
    const auto lse = g.load<float, 1>("lse");
    const index_t rows = logits.extent(0);
    tensor<float, 2> dlogits(rows, logits.extent(1));
    tensor<float, 1> upstream(rows), row_loss(rows), row_lse(rows);
    upstream.fill(1.0f);
    if (g.contains("dloss")) upstream = g.load<float, 1>("dloss");
    const auto options = options_of(g);
    const auto result =
        loss::cross_entropy(cpu{}, options, logits, labels, dlogits,
                            {.upstream = upstream.view(), .loss = row_loss.view(), .lse = row_lse.view()});
    if (options.reduction == loss::reduction::none) {
      REQUIRE(test::worst_error(row_loss, expected) < 2e-5);
    } else {
      REQUIRE(result.loss == Approx(expected(0)).epsilon(2e-5));
    }
    for (index_t i = 0; i < rows; ++i)
      if (labels(i) != options.ignore_index) REQUIRE(row_lse(i) == Approx(lse(i)).epsilon(2e-5));
    REQUIRE(test::worst_error(dlogits, g.load<float, 2>("dlogits")) < 1e-4);
  }
}

TEST_CASE("cross_entropy: golden values with a weight for each row", "[loss][golden]") {
  const golden g("layers", "cross_entropy_weighted_0");
  const auto logits = g.load<float, 2>("logits");
  const auto labels = g.load<std::int64_t, 1>("labels");
  const auto weights = g.load<float, 1>("weight"), row_loss = g.load<float, 1>("rows");
  const auto row_entropy = g.load<float, 1>("entropy");
  const auto is_correct = g.load<bool, 1>("correct");
  const index_t rows = logits.extent(0), ignored = g.params.at("ignore_index");
  tensor<float, 2> dlogits(rows, logits.extent(1));
  tensor<float, 1> losses(rows), entropy(rows);
  tensor<bool, 1> correct(rows);
  const auto result = loss::cross_entropy(
      cpu{}, {.ignore_index = ignored}, logits, labels, dlogits,
      {.weights = weights.view(), .loss = losses.view(), .entropy = entropy.view(), .correct = correct.view()});
  REQUIRE(result.loss == Approx(g.scalar<float>("loss")).epsilon(2e-5));
  REQUIRE(test::worst_error(dlogits, g.load<float, 2>("dlogits")) < 1e-4);
  for (index_t i = 0; i < rows; ++i) {
    CAPTURE(i);
    if (labels(i) == ignored) continue;
    REQUIRE(losses(i) == Approx(row_loss(i)).epsilon(2e-5));
    REQUIRE(entropy(i) == Approx(row_entropy(i)).epsilon(2e-5));
    REQUIRE(correct(i) == is_correct(i));
  }
}

TEST_CASE("linear_cross_entropy: golden values", "[loss][golden]") {
  for (const golden& g : {golden("layers", "linear_cross_entropy_0"), golden("layers", "linear_cross_entropy_1"),
                          golden("layers", "linear_cross_entropy_3")}) {
    CAPTURE(g.source());
    const auto x = g.load<float, 2>("x");
    const auto weight = g.load<float, 2>("weight");
    const auto labels = g.load<std::int64_t, 1>("labels");
    const bool has_bias = g.contains("bias");
    const index_t vocab = weight.extent(0);
    const auto bias = has_bias ? g.load<float, 1>("bias") : tensor<float, 1>(vocab);
    tensor<float, 2> dx(x.extent(0), x.extent(1)), dweight(vocab, x.extent(1));
    tensor<float, 1> dbias(vocab);
    loss::linear_cross_entropy_workspace<float> workspace;
    const auto result =
        loss::linear_cross_entropy(cpu{}, options_of(g), x, weight, bias, labels,
                                   {.dx = dx.view(), .dweight = dweight.view(), .dbias = dbias.view()}, workspace);
    REQUIRE(result.loss == Approx(g.scalar<float>("loss")).epsilon(2e-5));
    REQUIRE(test::worst_error(dx, g.load<float, 2>("dx")) < 1e-4);
    REQUIRE(test::worst_error(dweight, g.load<float, 2>("dweight")) < 1e-4);
    if (has_bias) REQUIRE(test::worst_error(dbias, g.load<float, 1>("dbias")) < 1e-4);
  }
}
