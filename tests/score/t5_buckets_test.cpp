// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/score/t5_buckets.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <support/catch.hpp>
#include <support/golden.hpp>
#include <support/random.hpp>

using namespace seqprim;

namespace {

/// The formula, as T5 writes it.
index_t bucket_of(const score::t5_buckets& m, index_t distance) {
  index_t of = m.buckets, bucket = 0, n = -distance;
  if (m.bidirectional) {
    of /= 2;
    if (distance > 0) bucket = of;
    n = n < 0 ? -n : n;
  } else if (n < 0) {
    n = 0;
  }
  const index_t exact = of / 2;
  if (n < exact) return bucket + n;
  const double ratio = std::log(static_cast<double>(n) / static_cast<double>(exact)) /
                       std::log(static_cast<double>(m.max_distance) / static_cast<double>(exact));
  // The float that T5 computes is at an integer where the exact number is.
  const auto far = static_cast<index_t>(std::floor(ratio * static_cast<double>(of - exact) + 1e-6));
  return bucket + std::min(of - 1, exact + far);
}

}  // namespace

TEST_CASE("t5_buckets: agree with the formula, also beyond the distances of the table", "[score][property]") {
  for (const score::t5_buckets m :
       {score::t5_buckets{}, score::t5_buckets{.bidirectional = false}, score::t5_buckets{12, 100, true},
        score::t5_buckets{4, 2, true}, score::t5_buckets{2, 5, false}, score::t5_buckets{64, 256, false}}) {
    m.validate();
    const range held = m.distances();
    for (index_t distance = -1000; distance <= 1000; ++distance) {
      CAPTURE(m.buckets, m.max_distance, m.bidirectional, distance);
      REQUIRE(m(distance) == bucket_of(m, distance));
      REQUIRE(m(distance) == m(std::clamp(distance, held.begin, held.end - 1)));
    }
  }
}

TEST_CASE("t5_buckets: golden buckets and biases", "[score][golden]") {
  for (const char* name : {"t5_bias_bidirectional_32_128", "t5_bias_bidirectional_12_100", "t5_bias_causal_32_128"}) {
    const golden g("positions", name);
    const score::t5_buckets m{g.params.at("num_buckets"), g.params.at("max_distance"), g.params.at("bidirectional")};
    const auto distance = g.load<std::int64_t, 1>("relative_position"), bucket = g.load<std::int64_t, 1>("bucket"),
               in_double = g.load<std::int64_t, 1>("bucket_float64");
    for (index_t i = 0; i < distance.size(); ++i) {
      CAPTURE(name, distance(i));
      REQUIRE(m(distance(i)) == bucket(i));
      REQUIRE(m(distance(i)) == in_double(i));
    }
    const auto weights = g.load<float, 2>("table");
    const auto bias = g.load<float, 3>("bias");
    tensor<float, 2> table(weights.extent(1), m.distances().size());
    const score::relative_bias f = m.spread(weights.view(), table.view());
    score::validate(f, {.heads = bias.extent(0), .q_len = bias.extent(1), .k_len = bias.extent(2)});
    for (index_t h = 0; h < bias.extent(0); ++h)
      for (index_t q = 0; q < bias.extent(1); ++q)
        for (index_t k = 0; k < bias.extent(2); ++k) REQUIRE(score::bind(f, 0, h)(0.0f, {q, k}) == bias(h, q, k));
  }
}

TEST_CASE("t5_buckets: golden buckets of other sizes", "[score][golden]") {
  const golden g("layers", "t5_buckets_0");
  const auto distance = g.load<std::int64_t, 1>("rel");
  const std::string prefix[] = {"causal_", "bidirectional_"};
  int compared = 0;
  for (const std::string& name : g.names()) {
    if (name == "rel") continue;
    const bool bidirectional = name.rfind(prefix[1], 0) == 0;
    const std::size_t sizes = prefix[bidirectional].size(), gap = name.find('_', sizes);
    const score::t5_buckets m{std::stol(name.substr(sizes, gap - sizes)), std::stol(name.substr(gap + 1)),
                              bidirectional};
    const auto bucket = g.load<std::int64_t, 1>(name);
    for (index_t i = 0; i < distance.size(); ++i) {
      CAPTURE(name, distance(i));
      REQUIRE(m(distance(i)) == bucket(i));
      ++compared;
    }
  }
  REQUIRE(compared > 0);
}

TEST_CASE("t5_buckets: gather is the transpose of spread", "[score][property]") {
  test::random_numbers random(7);
  for (const bool bidirectional : {false, true}) {
    const score::t5_buckets m{12, 30, bidirectional};
    tensor<float, 2> weights(12, 3), dweights(12, 3), table(3, m.distances().size()), dtable(3, m.distances().size());
    random.fill(weights);
    random.fill(dtable);
    dweights.fill(7.0f);
    (void)m.spread(weights.view(), table.view());
    m.gather<float>(dtable.view(), dweights.view());
    double left = 0, right = 0;  // <spread(w), d> = <w, gather(d)>
    for (index_t i = 0; i < table.size(); ++i) left += static_cast<double>(table.data()[i]) * dtable.data()[i];
    for (index_t i = 0; i < weights.size(); ++i) right += static_cast<double>(weights.data()[i]) * dweights.data()[i];
    REQUIRE(std::fabs(left - right) <= 1e-6 * static_cast<double>(table.size()));  // sums of floats
  }
}

TEST_CASE("t5_buckets: rejects buckets and tables that do not fit", "[score][errors]") {
  // example-begin t5_buckets
  const score::t5_buckets m{.buckets = 32, .max_distance = 128, .bidirectional = false};  // a decoder
  tensor<float, 2> weights(32, 8);                           // [buckets, heads], as checkpoints have them
  tensor<float, 2> table(8, m.distances().size());           // [heads, distances]
  const auto bias = m.spread(weights.view(), table.view());  // again whenever the weights change
  // example-end t5_buckets
  REQUIRE(bias.least == -128);
  REQUIRE_THROWS_WITH(score::t5_buckets{.buckets = 2}.validate(), ContainsSubstring("buckets (2) must be >= 4"));
  REQUIRE_THROWS_WITH((score::t5_buckets{.buckets = 1, .bidirectional = false}.validate()),
                      ContainsSubstring("buckets (1) must be >= 2"));
  REQUIRE_THROWS_WITH(score::t5_buckets{.buckets = 7}.validate(),
                      ContainsSubstring("buckets (7) must be even if bidirectional"));
  REQUIRE_THROWS_WITH((score::t5_buckets{.buckets = 32, .max_distance = 8}.validate()),
                      ContainsSubstring("score::t5_buckets: max_distance (8) must be > 8, the distances that have a "
                                        "bucket each. See docs/reference/score/t5_buckets.md"));
  REQUIRE_THROWS_WITH(m.spread(table.view(), table.view()),
                      ContainsSubstring("weights has 8 buckets (axis 0), expected 32"));
  tensor<float, 2> short_table(8, 128), few_heads(7, 129);
  REQUIRE_THROWS_WITH(m.spread(weights.view(), short_table.view()),
                      ContainsSubstring("table has 128 distances (axis 1), expected 129"));
  REQUIRE_THROWS_WITH(m.gather<float>(few_heads.view(), weights.view()),
                      ContainsSubstring("dtable has 7 heads (axis 0) but dweights has 8"));
}
