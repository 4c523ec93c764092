// SPDX-License-Identifier: Apache-2.0
#include "support/rows.hpp"

using namespace seqprim;
using namespace seqprim::sampling;

namespace {

// The definition: every key, then the argmax with ties to the lower id.
index_t drawn(const std::vector<float>& logits, const random_stream& stream) {
  index_t best = -1;
  float highest = 0;
  for (std::size_t v = 0; v < logits.size(); ++v) {
    if (excluded(logits[v])) continue;
    const float key = gumbel_max::key(logits[v], stream.word(token_noise, static_cast<std::uint32_t>(v)));
    if (best < 0 || key > highest) {
      best = static_cast<index_t>(v);
      highest = key;
    }
  }
  return best;
}

}  // namespace

TEST_CASE("gumbel_max: takes the largest of all keys though it computes few of them", "[sampling][property]") {
  test::random_numbers random(71);
  for (int kind = 0; kind < 300; ++kind) {
    const auto row = test::random_row(random, random.integer(1, kind % 10 == 0 ? 20000 : 300), kind);
    const random_stream stream{.seed = 10, .request = static_cast<std::uint32_t>(kind), .step = 3};
    CAPTURE(kind);
    REQUIRE(sample(cpu{}, gumbel_max{}, test::view_of(row), stream).token == drawn(row, stream));
    const auto flat = temperature{test::infinity};
    REQUIRE(sample(cpu{}, flat | gumbel_max{}, test::view_of(row), stream).token ==
            drawn(test::applied(flat, row), stream));
  }
}

TEST_CASE("gumbel_max: the bound on the noise is never below it", "[sampling][property]") {
  float gap = 0;
  for (std::uint64_t word = 0; word < 0x100000000u; word += 40009) {
    const auto w = static_cast<std::uint32_t>(word);
    const float over = sampling::detail::gumbel_bound(w) - gumbel(w);
    if (over < 0.0f) REQUIRE(over >= 0.0f);
    if (w < 0x40000000u) gap = max(gap, over);
  }
  for (const std::uint32_t w : {0u, 1u, 2u, 255u, 256u, 0x7fffffffu, 0x80000000u, 0xfffffffeu, 0xffffffffu})
    REQUIRE(sampling::detail::gumbel_bound(w) >= gumbel(w));
  REQUIRE(gap < 0.25f);  // and it is tight where keys win
}

TEST_CASE("gumbel_max: noise belongs to token ids, so masking and filtering are the same", "[sampling][property]") {
  test::random_numbers random(72);
  for (int kind = 0; kind < 60; ++kind) {
    const auto row = test::random_row(random, 200, kind);
    const random_stream stream{.seed = 11, .step = static_cast<std::uint32_t>(kind)};
    const auto filter = top_k{30} | min_p{0.01f};
    REQUIRE(sample(cpu{}, filter | gumbel_max{}, test::view_of(row), stream).token ==
            drawn(test::applied(filter, row), stream));
  }
}

TEST_CASE("gumbel_max: its law is the softmax", "[sampling][property]") {
  test::random_numbers random(73);
  for (int kind = 0; kind < 24; ++kind) {
    const auto row = test::random_row(random, random.integer(1, 500), kind);
    std::vector<float> p(row.size());
    REQUIRE(probabilities(cpu{}, gumbel_max{}, test::view_of(row), test::view_of(p)) == row_status::ok);
    const auto expected = reference::softmax(row);
    const float max = *std::max_element(row.begin(), row.end());
    for (std::size_t v = 0; v < p.size(); ++v) {
      // The exponent is rounded to float, det_exp is right to 1e-7 above and below the line and zero below e^-87.
      const double exponent = std::min(static_cast<double>(max) - static_cast<double>(row[v]), 100.0);
      CAPTURE(kind, v);
      REQUIRE(std::fabs(static_cast<double>(p[v]) - expected[v]) <=
              (3e-7 + exponent * 0x1p-24) * expected[v] + 1.7e-38);
    }
  }
}
