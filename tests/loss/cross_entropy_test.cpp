// SPDX-License-Identifier: Apache-2.0
#include <seqprim/loss/cross_entropy.hpp>
#include <seqprim/loss/reference.hpp>

#include <cstdint>
#include <limits>
#include <support/catch.hpp>
#include <support/gradients.hpp>
#include <support/random.hpp>

using namespace seqprim;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

struct expected_rows {
  tensor<double, 2> dlogits;
  double loss = 0;
  explicit expected_rows(index_t rows, index_t vocab) : dlogits(rows, vocab) {}
};

/// The definition over all rows, for mean and sum.
template <class T>
expected_rows definition(const loss::cross_entropy_options& options, const tensor<T, 2>& logits,
                         const tensor<index_t, 1>& labels, const tensor<T, 1>& weights) {
  expected_rows result(logits.extent(0), logits.extent(1));
  double total = 0;
  for (index_t i = 0; i < labels.size(); ++i)
    if (labels(i) != options.ignore_index) total += static_cast<double>(weights(i));
  const double normalizer = options.reduction == loss::reduction::sum ? 1
                            : options.normalizer > 0                  ? options.normalizer
                                                                      : total;
  for (index_t i = 0; i < labels.size(); ++i) {
    if (labels(i) == options.ignore_index) continue;
    const double w = static_cast<double>(weights(i)) / normalizer;
    result.loss += w * loss::reference::cross_entropy_row(options, logits.view()[i], labels(i), w * options.upstream,
                                                          result.dlogits.view()[i]);
  }
  return result;
}

}  // namespace

TEMPLATE_TEST_CASE("cross_entropy: agrees with the definition for every option and width", "[loss][property]", float,
                   double) {
  test::random_numbers random(101);
  for (int trial = 0; trial < 60; ++trial) {
    const index_t rows = random.integer(1, 40), vocab = trial == 0 ? 9001 : random.integer(1, 70);
    tensor<TestType, 2> logits(rows, vocab), dlogits(rows, vocab);
    tensor<TestType, 1> weights(rows);
    tensor<index_t, 1> labels(rows);
    random.fill(logits, 3.0f);
    for (TestType& w : weights) w = static_cast<TestType>(0.1f + random.uniform() * random.uniform());
    for (index_t& label : labels) label = random.integer(0, 4) == 0 ? -7 : random.integer(0, vocab - 1);
    loss::cross_entropy_options options{.ignore_index = -7};
    if (trial % 2 == 1) options.label_smoothing = 0.2;
    if (trial % 3 == 1) options.z_loss = 0.01;
    if (trial % 5 == 1) options.soft_cap = 4;
    if (trial % 4 == 1) options.reduction = loss::reduction::sum;
    if (trial % 4 == 2) options.normalizer = 17.5;
    if (trial % 7 == 1) options.upstream = -2;
    const auto expected = definition(options, logits, labels, weights);
    const auto result = loss::cross_entropy(cpu{}, options, logits, labels, dlogits, {.weights = weights.view()});
    const auto alone = loss::cross_entropy(cpu{}, options, logits, labels, {.weights = weights.view()});
    // float: the exponential is right to about 1e-6, the weights of a mean are of size 1 / rows.
    const double budget = sizeof(TestType) == 8 ? 1e-12 : 5e-6;
    CAPTURE(trial, rows, vocab, result.loss, expected.loss);
    REQUIRE(std::abs(result.loss - expected.loss) <= budget * std::max(1.0, std::abs(expected.loss)));
    REQUIRE(test::worst_error(dlogits, expected.dlogits) < budget);
    REQUIRE(alone.loss == result.loss);
    REQUIRE(alone.correct == result.correct);

    tensor<TestType, 2> in_place = logits;
    loss::cross_entropy(cpu{.threads = 3}, options, in_place, labels, in_place.view(), {.weights = weights.view()});
    REQUIRE(std::equal(in_place.begin(), in_place.end(), dlogits.begin()));
  }
}

TEST_CASE("cross_entropy: the gradient agrees with finite differences", "[loss][property]") {
  test::random_numbers random(102);
  const auto options = GENERATE(loss::cross_entropy_options{}, loss::cross_entropy_options{.label_smoothing = 0.3},
                                loss::cross_entropy_options{.z_loss = 0.1, .soft_cap = 3},
                                loss::cross_entropy_options{.reduction = loss::reduction::sum});
  tensor<double, 2> logits(4, 6), dlogits(4, 6);
  tensor<std::int32_t, 1> labels(4);
  random.fill(logits, 2.0f);
  for (auto& label : labels) label = static_cast<std::int32_t>(random.integer(0, 5));
  loss::cross_entropy(cpu{}, options, logits, labels, dlogits);
  const auto objective = [&] { return loss::cross_entropy(cpu{}, options, logits, labels).loss; };
  REQUIRE(test::gradient_error(logits.data(), dlogits.data(), logits.size(), objective) < test::gradient_budget);
}

TEST_CASE("cross_entropy: side outputs are what they are called", "[loss][property]") {
  test::random_numbers random(103);
  const index_t rows = 37, vocab = 21;
  tensor<float, 2> logits(rows, vocab), dlogits(rows, vocab);
  tensor<index_t, 1> labels(rows);
  tensor<float, 1> row_loss(rows), lse(rows), entropy(rows), upstream(rows);
  tensor<bool, 1> correct(rows);
  random.fill(logits, 2.0f);
  random.fill(upstream);
  for (index_t& label : labels) label = random.integer(0, vocab - 1);
  labels(5) = -100;
  for (index_t j = 0; j < vocab; ++j) logits(6, j) = 1.0f;  // all equal: the first one wins
  labels(6) = 0;
  labels(7) = 3;
  for (index_t j = 0; j < vocab; ++j)
    logits(7, j) = j == 2 || j == 3 ? 5.0f : 1.0f;  // the label ties with an earlier one
  const auto result = loss::cross_entropy(cpu{}, {.reduction = loss::reduction::none}, logits, labels, dlogits,
                                          {.upstream = upstream.view(),
                                           .loss = row_loss.view(),
                                           .lse = lse.view(),
                                           .entropy = entropy.view(),
                                           .correct = correct.view()});
  index_t hits = 0;
  double total = 0;
  for (index_t i = 0; i < rows; ++i) {
    CAPTURE(i);
    if (labels(i) == -100) {
      REQUIRE(row_loss(i) == 0.0f);
      REQUIRE(lse(i) == 0.0f);
      REQUIRE(entropy(i) == 0.0f);
      REQUIRE_FALSE(correct(i));
      for (index_t j = 0; j < vocab; ++j) REQUIRE(dlogits(i, j) == 0.0f);
      continue;
    }
    tensor<double, 1> gradient(vocab);
    const double expected =
        loss::reference::cross_entropy_row({}, logits.view()[i], labels(i), static_cast<double>(upstream(i)), gradient);
    double sum = 0, h = 0, gradient_sum = 0;
    index_t best = 0;
    for (index_t j = 0; j < vocab; ++j) {
      sum += std::exp(static_cast<double>(logits(i, j)));
      if (logits(i, j) > logits(i, best)) best = j;
      REQUIRE(dlogits(i, j) == Approx(gradient(j)).margin(1e-6));
      gradient_sum += static_cast<double>(dlogits(i, j));
    }
    for (index_t j = 0; j < vocab; ++j) {
      const double p = std::exp(static_cast<double>(logits(i, j))) / sum;
      h -= p * std::log(p);
    }
    REQUIRE(std::abs(gradient_sum) < 1e-5);
    REQUIRE(row_loss(i) == Approx(expected).margin(2e-6));
    REQUIRE(lse(i) == Approx(std::log(sum)).margin(2e-6));
    REQUIRE(entropy(i) == Approx(h).margin(2e-6));
    REQUIRE(correct(i) == (best == labels(i)));
    hits += best == labels(i);
    total += expected;
  }
  REQUIRE(correct(6));
  REQUIRE_FALSE(correct(7));
  REQUIRE(result.correct == hits);
  REQUIRE(result.rows == rows - 1);
  REQUIRE(result.weight == rows - 1);
  REQUIRE(result.loss == Approx(total).epsilon(1e-6));
}

TEST_CASE("cross_entropy: adding a constant to a row changes nothing, 1e4 is no trouble", "[loss][property]") {
  test::random_numbers random(104);
  tensor<float, 2> logits(3, 40), shifted(3, 40), d(3, 40), shifted_d(3, 40);
  tensor<index_t, 1> labels(3);
  for (float& z : logits) z = static_cast<float>(random.integer(-64, 64)) / 16;  // exact after the shift
  for (index_t i = 0; i < logits.size(); ++i) shifted.data()[i] = logits.data()[i] + 1e4f;
  const double loss = loss::cross_entropy(cpu{}, {}, logits, labels, d).loss;
  REQUIRE(loss::cross_entropy(cpu{}, {}, shifted, labels, shifted_d).loss == Approx(loss).epsilon(1e-9));
  REQUIRE(test::worst_error(shifted_d, d) < 1e-3);  // lse near 1e4 is stored to 1e-3 in float
}

TEST_CASE("cross_entropy: logits of -inf are impossible tokens, NaN stays in its row", "[loss]") {
  tensor<float, 2> logits(3, 20), d(3, 20);
  tensor<index_t, 1> labels(3);
  tensor<float, 1> row_loss(3), entropy(3);
  for (index_t j = 4; j < 20; ++j) logits(0, j) = -std::numeric_limits<float>::infinity();
  logits(1, 17) = std::numeric_limits<float>::quiet_NaN();
  const auto run = [&](const loss::cross_entropy_options& options) {
    return loss::cross_entropy(cpu{}, options, logits, labels, d, {.loss = row_loss.view(), .entropy = entropy.view()});
  };
  const auto result = run({});
  REQUIRE(row_loss(0) == Approx(std::log(4.0)));
  REQUIRE(entropy(0) == Approx(std::log(4.0)));
  REQUIRE(d(0, 7) == 0.0f);
  REQUIRE(d(0, 1) == Approx(0.25 / 3));
  REQUIRE(std::isnan(row_loss(1)));
  REQUIRE(std::isnan(d(1, 0)));
  REQUIRE(row_loss(2) == Approx(std::log(20.0)));
  REQUIRE(std::isnan(result.loss));
  run({.label_smoothing = 0.1});
  REQUIRE(static_cast<double>(row_loss(0)) == infinity);
}

TEST_CASE("cross_entropy: no row that counts is a loss of zero, and says so", "[loss]") {
  tensor<float, 2> logits(2, 5), d(2, 5), none(0, 5);
  tensor<index_t, 1> labels(2), no_labels(0);
  labels(0) = labels(1) = -100;
  logits.fill(1.0f);
  d.fill(7.0f);
  const auto result = loss::cross_entropy(cpu{}, {}, logits, labels, d);
  REQUIRE(result.empty);
  REQUIRE(result.loss == 0.0);
  REQUIRE(std::all_of(d.begin(), d.end(), [](float x) { return x == 0.0f; }));
  REQUIRE(loss::cross_entropy(cpu{}, {}, none, no_labels).empty);
  tensor<float, 1> weights(2);
  labels(0) = 1;
  REQUIRE(loss::cross_entropy(cpu{}, {}, logits, labels, d, {.weights = weights.view()}).empty);
  REQUIRE(std::all_of(d.begin(), d.end(), [](float x) { return x == 0.0f; }));
}

TEST_CASE("cross_entropy: micro-batches with one normalizer add up to the whole batch", "[loss][property]") {
  test::random_numbers random(105);
  tensor<float, 2> logits(24, 9), whole(24, 9), parts(24, 9);
  tensor<index_t, 1> labels(24);
  random.fill(logits);
  for (index_t& label : labels) label = random.integer(0, 3) == 0 ? -100 : random.integer(0, 8);
  const auto full = loss::cross_entropy(cpu{}, {}, logits, labels, whole);
  double sum = 0;
  for (const range part : {range{0, 5}, range{5, 6}, range{6, 24}})
    sum += loss::cross_entropy(cpu{}, {.normalizer = full.weight}, logits.view().slice(0, part),
                               labels.view().slice(0, part), parts.view().slice(0, part))
               .loss;
  REQUIRE(sum == Approx(full.loss).epsilon(1e-14));
  REQUIRE(std::equal(whole.begin(), whole.end(), parts.begin()));
}

TEST_CASE("cross_entropy: wrong labels, shapes and options are errors before anything is written", "[loss][errors]") {
  tensor<float, 2> logits(2, 5), d(2, 5), wrong(2, 4), none(2, 0);
  tensor<index_t, 1> labels(2), few(1);
  tensor<float, 1> short_rows(1);
  d.fill(9.0f);
  labels(1) = 5;
  REQUIRE_THROWS_WITH(loss::cross_entropy(cpu{}, {}, logits, labels, d),
                      ContainsSubstring("label (5) of row 1 must be in [0, vocab (5)) or the ignore index (-100)"));
  labels(1) = -1;
  REQUIRE_THROWS_AS(loss::cross_entropy(cpu{}, {}, logits, labels, d), precondition_error);
  labels(1) = 0;
  REQUIRE_THROWS_WITH(loss::cross_entropy(cpu{}, {}, logits, few, d),
                      ContainsSubstring("labels has rows 1 (axis 0), but logits has rows 2"));
  REQUIRE_THROWS_WITH(loss::cross_entropy(cpu{}, {}, logits, labels, wrong),
                      ContainsSubstring("dlogits has vocab 4 (axis 1), but logits has vocab 5"));
  REQUIRE_THROWS_AS(loss::cross_entropy(cpu{}, {}, none, labels), precondition_error);
  REQUIRE_THROWS_WITH(loss::cross_entropy(cpu{}, {}, logits.view().slice(0, {1, 0}), labels.view().slice(0, {1, 0}), d),
                      ContainsSubstring("loss::cross_entropy: axis 0 of logits has the negative length -1"));
  for (const auto& rows : {loss::cross_entropy_rows<float>{.weights = short_rows.view()},
                           loss::cross_entropy_rows<float>{.upstream = short_rows.view()},
                           loss::cross_entropy_rows<float>{.loss = short_rows.view()},
                           loss::cross_entropy_rows<float>{.lse = short_rows.view()},
                           loss::cross_entropy_rows<float>{.entropy = short_rows.view()}})
    REQUIRE_THROWS_AS(loss::cross_entropy(cpu{}, {}, logits, labels, d, rows), precondition_error);
  for (const auto& options :
       {loss::cross_entropy_options{.label_smoothing = 1.5}, loss::cross_entropy_options{.label_smoothing = -0.1},
        loss::cross_entropy_options{.z_loss = -1}, loss::cross_entropy_options{.soft_cap = -1},
        loss::cross_entropy_options{.normalizer = -1}, loss::cross_entropy_options{.upstream = infinity}})
    REQUIRE_THROWS_AS(loss::cross_entropy(cpu{}, options, logits, labels, d), precondition_error);
  REQUIRE_THROWS_AS(loss::cross_entropy(cpu{.threads = -1}, {}, logits, labels, d), precondition_error);
  REQUIRE(std::all_of(d.begin(), d.end(), [](float x) { return x == 9.0f; }));
  tensor<float, 1> memory(20);
  const tensor_view<float, 2> low(memory.data(), 2, 5), high(memory.data() + 5, 2, 5);
  REQUIRE_THROWS_WITH(loss::cross_entropy(cpu{}, {}, low, labels, high), ContainsSubstring("dlogits overlaps logits"));
  REQUIRE_THROWS_AS(loss::cross_entropy(cpu{}, {}, logits.view().transposed(0, 1), tensor<index_t, 1>(5)),
                    precondition_error);
}
