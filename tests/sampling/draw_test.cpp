// SPDX-License-Identifier: Apache-2.0
#include "support/rows.hpp"

using namespace seqprim;
using namespace seqprim::sampling;

namespace {

// The definition: 128-bit arithmetic and one cumulative sum over all tokens.
index_t drawn(const std::vector<float>& logits, const random_stream& stream) {
  const float max = *std::max_element(logits.begin(), logits.end());
  const auto weight = [&](float logit) {
    return excluded(logit) ? std::uint64_t{0} : static_cast<std::uint64_t>(std::ldexp(det_exp(logit - max), 32));
  };
  std::uint64_t total = 0;
  for (const float l : logits) total += weight(l);
  const std::uint64_t x = stream.word(inverse_cdf, 0) | static_cast<std::uint64_t>(stream.word(inverse_cdf, 1)) << 32;
  __extension__ using wide = unsigned __int128;
  const auto target = static_cast<std::uint64_t>((static_cast<wide>(x) * total) >> 64);
  std::uint64_t sum = 0;
  for (std::size_t v = 0; v < logits.size(); ++v) {
    sum += weight(logits[v]);
    if (sum > target) return static_cast<index_t>(v);
  }
  return -1;
}

}  // namespace

TEST_CASE("draw: inverts the cumulative sum of the integer weights, for any vocabulary size", "[sampling][property]") {
  test::random_numbers random(61);
  for (int kind = 0; kind < 120; ++kind) {
    const index_t sizes[] = {1, 2, 15, 16, 17, 255, 256, 257, 4096, 4097, random.integer(1, 20000)};
    const auto row = test::random_row(random, sizes[kind % 11], kind);
    const random_stream stream{.seed = 9, .request = 4, .step = static_cast<std::uint32_t>(kind)};
    CAPTURE(kind);
    REQUIRE(sample(cpu{}, draw{}, test::view_of(row), stream).token == drawn(row, stream));
    const auto stages = temperature{0.9f} | top_k{20};
    REQUIRE(sample(cpu{}, stages | draw{}, test::view_of(row), stream).token ==
            drawn(test::applied(stages, row), stream));
  }
}

TEST_CASE("draw: its law is weight over sum of weights, and the softmax to within 2^-32", "[sampling][property]") {
  test::random_numbers random(62);
  for (int kind = 0; kind < 24; ++kind) {
    const auto row = test::random_row(random, random.integer(1, 500), kind);
    std::vector<float> p(row.size());
    REQUIRE(probabilities(cpu{}, draw{}, test::view_of(row), test::view_of(p)) == row_status::ok);
    const auto expected = reference::softmax(row);
    double sum = 0;
    for (std::size_t v = 0; v < p.size(); ++v) {
      CAPTURE(kind, v);
      // det_exp has relative error 1e-7, in the weight and in the sum; the weight is cut to 2^-32 of the largest.
      REQUIRE(std::fabs(static_cast<double>(p[v]) - expected[v]) <= 3e-7 * expected[v] + 0x1p-32);
      sum += static_cast<double>(p[v]);
      if (excluded(row[v])) REQUIRE(p[v] == 0.0f);
    }
    REQUIRE(std::fabs(sum - 1.0) < 1e-5);
  }
}

TEST_CASE("draw: never takes an excluded token or one of weight zero, whatever the random number", "[sampling]") {
  const std::vector<float> row{excluding_logit, 0.0f, -30.0f, excluding_logit};
  for (std::uint32_t step = 0; step < 2000; ++step)
    REQUIRE(sample(cpu{}, draw{}, test::view_of(row), {.seed = 3, .step = step}).token == 1);
}

TEST_CASE("multiply_high: is the upper half of the 128-bit product", "[sampling][property]") {
  test::random_numbers random(63);
  __extension__ using wide = unsigned __int128;
  for (int i = 0; i < 1000; ++i) {
    std::uint64_t a = static_cast<std::uint64_t>(random.word()) << 32 | random.word();
    std::uint64_t b = static_cast<std::uint64_t>(random.word()) << 32 | random.word();
    if (i % 5 == 0) a = ~std::uint64_t{0};
    if (i % 7 == 0) b = ~std::uint64_t{0};
    REQUIRE(sampling::detail::multiply_high(a, b) == static_cast<std::uint64_t>((static_cast<wide>(a) * b) >> 64));
  }
}
