// SPDX-License-Identifier: Apache-2.0
// Draws follow their law. Seeds are fixed: a test that passes once passes forever.
#include "support/rows.hpp"

using namespace seqprim;
using namespace seqprim::sampling;

namespace {

// Upper quantile of chi-square at alpha = 1e-6 by Wilson and Hilferty; 4.753424 is the normal quantile.
double chi_square_limit(int degrees) {
  const double k = degrees;
  const double root = 1.0 - 2.0 / (9.0 * k) + 4.753424 * std::sqrt(2.0 / (9.0 * k));
  return k * root * root * root;
}

template <class Chain> void require_law(const Chain& chain, const std::vector<float>& row, std::uint64_t seed) {
  constexpr index_t draws = 200000, batch = 1000;
  const auto vocab = static_cast<index_t>(row.size());
  tensor<float, 2> logits(batch, vocab);
  for (index_t i = 0; i < batch; ++i)
    for (index_t v = 0; v < vocab; ++v) logits(i, v) = row[static_cast<std::size_t>(v)];
  tensor<index_t, 1> tokens(batch);
  tensor<row_status, 1> status(batch);
  tensor<std::uint32_t, 1> requests(batch), steps(batch);
  std::vector<double> counts(row.size(), 0.0);
  for (index_t first = 0; first < draws; first += batch) {
    for (index_t i = 0; i < batch; ++i) {  // both keys of the stream vary
      requests(i) = static_cast<std::uint32_t>((first + i) % 500);
      steps(i) = static_cast<std::uint32_t>((first + i) / 500);
    }
    sample(cpu{}, chain, logits, tokens, status, seed, requests, steps);
    for (const index_t token : tokens) counts[static_cast<std::size_t>(token)] += 1;
  }
  const auto p = reference::probabilities(chain, row);
  double chi_square = 0, rest_expected = 0, rest_count = 0, variation = 0;
  int cells = 0;
  for (std::size_t v = 0; v < row.size(); ++v) {
    const double expected = p[v] * static_cast<double>(draws);
    if (p[v] == 0) REQUIRE(counts[v] == 0);
    variation += 0.5 * std::fabs(counts[v] / static_cast<double>(draws) - p[v]);
    if (expected >= 5) {
      chi_square += (counts[v] - expected) * (counts[v] - expected) / expected;
      ++cells;
    } else {
      rest_expected += expected;
      rest_count += counts[v];
    }
  }
  if (rest_expected >= 5) {
    chi_square += (rest_count - rest_expected) * (rest_count - rest_expected) / rest_expected;
    ++cells;
  }
  CAPTURE(seed, cells, chi_square, variation);
  if (cells > 1) REQUIRE(chi_square < chi_square_limit(cells - 1));
  REQUIRE(variation < 2.0 * std::sqrt(static_cast<double>(vocab) / static_cast<double>(draws)));
}

}  // namespace

TEST_CASE("draw and gumbel_max: 200000 draws follow the law of the row", "[sampling][statistical]") {
  test::random_numbers random(91);
  const auto smooth = test::random_row(random, 64, 0), ties = test::random_row(random, 40, 1),
             masked = test::random_row(random, 50, 2), equal = test::random_row(random, 7, 3);
  for (const auto& row : {smooth, ties, masked, equal}) {
    require_law(draw{}, row, 1001);
    require_law(gumbel_max{}, row, 1002);
  }
}

TEST_CASE("draw and gumbel_max: 200000 draws follow the law of a filtered row", "[sampling][statistical]") {
  test::random_numbers random(92);
  const auto row = test::random_row(random, 64, 0);
  require_law(temperature{1.7f} | top_k{20} | top_p{0.9f} | draw{}, row, 1003);
  require_law(temperature{1.7f} | top_k{20} | top_p{0.9f} | gumbel_max{}, row, 1004);
  require_law(min_p{0.02f} | temperature{2.0f} | draw{}, row, 1005);
  require_law(min_p{0.02f} | temperature{2.0f} | gumbel_max{}, row, 1006);
  require_law(temperature{test::infinity} | draw{}, row, 1007);
}

TEST_CASE("draw: a wrong law would be noticed", "[sampling][statistical]") {
  // The same statistic with draws at temperature 1 against the law at temperature 1.05.
  test::random_numbers random(93);
  const auto row = test::random_row(random, 64, 0);
  std::vector<double> counts(row.size(), 0.0);
  for (std::uint32_t i = 0; i < 200000; ++i)
    counts[static_cast<std::size_t>(sample(cpu{}, draw{}, test::view_of(row), {.seed = 1, .step = i}).token)] += 1;
  const auto p = reference::probabilities(temperature{1.05f}, row);
  double chi_square = 0;
  for (std::size_t v = 0; v < row.size(); ++v)
    if (p[v] * 200000 >= 5) chi_square += std::pow(counts[v] - p[v] * 200000, 2) / (p[v] * 200000);
  REQUIRE(chi_square > chi_square_limit(63));
}
