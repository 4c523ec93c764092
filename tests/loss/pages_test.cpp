// SPDX-License-Identifier: Apache-2.0
// The examples of docs/reference/loss, compiled and run.
#include <seqprim/loss/loss.hpp>

#include <support/catch.hpp>

using namespace seqprim;

TEST_CASE("pages: losses", "[loss]") {
  const cpu executor{};
  const index_t rows = 8, dim = 16, vocab = 32;
  tensor<float, 2> logits(rows, vocab), x(rows, dim), dx(rows, dim), weight(vocab, dim), dweight(vocab, dim);
  tensor<std::int32_t, 1> labels(rows);
  {
    // example-begin cross_entropy
    const auto result = loss::cross_entropy(executor, {.label_smoothing = 0.1}, logits, labels, logits.view());
    // result.loss is the mean; logits now holds the gradient

    tensor<float, 1> lse(rows), entropy(rows);
    loss::cross_entropy(executor, {}, logits, labels, {.lse = lse.view(), .entropy = entropy.view()});  // no gradient
    // example-end cross_entropy
    REQUIRE(result.rows == rows);
  }
  {
    // example-begin linear_cross_entropy
    loss::linear_cross_entropy_workspace<float> workspace;  // one chunk of logits, reused
    const auto result = loss::linear_cross_entropy(executor, {}, x, weight, labels,
                                                   {.dx = dx.view(), .dweight = dweight.view()}, workspace);
    const auto held_out = loss::linear_cross_entropy(executor, {}, x, weight, labels, {}, workspace);  // no gradient
    // example-end linear_cross_entropy
    REQUIRE(result.loss == held_out.loss);
  }
}
