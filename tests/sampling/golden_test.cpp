// SPDX-License-Identifier: Apache-2.0
#include "support/rows.hpp"

#include <support/golden.hpp>

using namespace seqprim;
using namespace seqprim::sampling;

namespace {

std::vector<float> row_of(const tensor<float, 2>& t, index_t i) {
  return {t.begin() + i * t.extent(1), t.begin() + (i + 1) * t.extent(1)};
}

// The tolerance of the golden files for values computed in float64.
bool close(float value, float expected) { return std::fabs(value - expected) <= 2e-6f + 2e-5f * std::fabs(expected); }

random_stream stream_of(const golden& g, std::int64_t request) {
  return {.seed = g.params.at("seed").get<std::uint64_t>(),
          .request = static_cast<std::uint32_t>(request),
          .step = g.params.at("step").get<std::uint32_t>()};
}

template <class Stages>
void require_mask(const Stages& stages, const tensor<float, 2>& logits, const tensor<bool, 2>& mask) {
  for (index_t i = 0; i < logits.extent(0); ++i) {
    const auto left = test::applied(stages, row_of(logits, i));
    for (index_t v = 0; v < logits.extent(1); ++v) {
      CAPTURE(i, v);
      REQUIRE(!excluded(left[static_cast<std::size_t>(v)]) == mask(i, v));
    }
  }
}

// Both limits on the same probabilities, as flashinfer's joint order has them.
struct joint {
  index_t count;
  float mass;
  prefix limit(const row_summary&) const { return {.count = count, .mass = mass}; }
};

}  // namespace

TEST_CASE("gumbel_max: words, keys and tokens equal the golden files bit for bit", "[sampling][golden]") {
  const golden files[] = {golden("sampling", "gumbel_bits_a"), golden("sampling", "gumbel_bits_b")};
  for (const golden& g : files) {
    const auto logits = g.load<float, 2>("logits"), keys = g.load<float, 2>("keys");
    const auto t = g.load<float, 1>("temperature");
    const auto request = g.load<std::int64_t, 1>("request"), token = g.load<std::int64_t, 1>("token");
    const auto words = g.load<std::uint32_t, 2>("words");
    for (index_t i = 0; i < logits.extent(0); ++i) {
      const auto stream = stream_of(g, request(i));
      const auto row = row_of(logits, i);
      const auto scaled = test::applied(temperature{t(i)}, row);
      for (index_t v = 0; v < logits.extent(1); ++v) {
        CAPTURE(i, v);
        const std::uint32_t word = stream.word(token_noise, static_cast<std::uint32_t>(v));
        REQUIRE(word == words(i, v));
        const float logit = scaled[static_cast<std::size_t>(v)];
        const float key = excluded(logit) ? excluding_logit : gumbel_max::key(logit, word);
        REQUIRE(bit_cast<std::uint32_t>(key) == bit_cast<std::uint32_t>(keys(i, v)));
      }
      REQUIRE(sample(cpu{}, temperature{t(i)} | gumbel_max{}, test::view_of(row), stream).token == token(i));
    }
  }
}

TEST_CASE("draw: words, weights and tokens, plain and filtered, equal the golden files bit for bit",
          "[sampling][golden]") {
  const golden files[] = {golden("sampling", "intcdf_a"), golden("sampling", "intcdf_b")};
  for (const golden& g : files) {
    const auto logits = g.load<float, 2>("logits");
    const auto t = g.load<float, 1>("temperature"), p = g.load<float, 1>("p");
    const auto request = g.load<std::int64_t, 1>("request"), k = g.load<std::int64_t, 1>("k");
    const auto words = g.load<std::uint32_t, 2>("words");
    const auto weights = g.load<std::int64_t, 2>("weights");
    const auto token = g.load<std::int64_t, 1>("token"), token_top_k = g.load<std::int64_t, 1>("token_top_k"),
               token_top_p = g.load<std::int64_t, 1>("token_top_p");
    for (index_t i = 0; i < logits.extent(0); ++i) {
      CAPTURE(i);
      const auto stream = stream_of(g, request(i));
      const auto row = row_of(logits, i);
      REQUIRE(stream.word(inverse_cdf, 0) == words(i, 0));
      REQUIRE(stream.word(inverse_cdf, 1) == words(i, 1));
      const auto scaled = test::applied(temperature{t(i)}, row);
      const float max = *std::max_element(scaled.begin(), scaled.end());
      for (index_t v = 0; v < logits.extent(1); ++v)
        REQUIRE(static_cast<std::int64_t>(integer_weight(scaled[static_cast<std::size_t>(v)], max)) == weights(i, v));
      const auto pick = [&](const auto& chain) { return sample(cpu{}, chain, test::view_of(row), stream).token; };
      REQUIRE(pick(temperature{t(i)} | draw{}) == token(i));
      REQUIRE(pick(temperature{t(i)} | top_k{k(i)} | draw{}) == token_top_k(i));
      REQUIRE(pick(temperature{t(i)} | top_p{p(i)} | draw{}) == token_top_p(i));
    }
  }
}

TEST_CASE("temperature: probabilities and the argmax equal the golden files", "[sampling][golden]") {
  const golden files[] = {golden("sampling", "softmax_a"), golden("sampling", "softmax_b")};
  for (const golden& g : files) {
    const auto logits = g.load<float, 2>("logits"), probs = g.load<float, 2>("probs");
    const auto t = g.load<float, 1>("temperature");
    const auto argmax = g.load<std::int64_t, 1>("argmax");
    for (index_t i = 0; i < logits.extent(0); ++i) {
      const auto row = row_of(logits, i);
      std::vector<float> softmax(row.size()), weights(row.size());
      REQUIRE(probabilities(cpu{}, temperature{t(i)}, test::view_of(row), test::view_of(softmax)) == row_status::ok);
      probabilities(cpu{}, temperature{t(i)} | draw{}, test::view_of(row), test::view_of(weights));
      for (index_t v = 0; v < logits.extent(1); ++v) {
        CAPTURE(i, v);
        REQUIRE(close(softmax[static_cast<std::size_t>(v)], probs(i, v)));
        REQUIRE(close(weights[static_cast<std::size_t>(v)], probs(i, v)));
      }
      REQUIRE(sample(cpu{}, temperature{t(i)} | greedy{}, test::view_of(row), {}).token == argmax(i));
    }
  }
}

TEST_CASE("top_k, top_p, min_p: kept tokens equal the golden files, with and without ties", "[sampling][golden]") {
  const golden files[] = {golden("sampling", "filters_a"), golden("sampling", "filters_b"),
                          golden("sampling", "filters_a_ties"), golden("sampling", "filters_b_ties")};
  for (const golden& g : files) {
    const auto logits = g.load<float, 2>("logits");
    require_mask(top_k{g.params.at("top_k").get<index_t>()}, logits, g.load<bool, 2>("canon_top_k"));
    require_mask(top_p{g.params.at("top_p").get<float>()}, logits, g.load<bool, 2>("canon_top_p"));
    require_mask(min_p{g.params.at("min_p").get<float>()}, logits, g.load<bool, 2>("min_p"));
  }
}

TEST_CASE("sample: status, greedy tokens and filters at the limits of their parameters equal the golden file",
          "[sampling][golden]") {
  const golden g("sampling", "edge_a");
  const auto logits = g.load<float, 2>("logits"), probs = g.load<float, 2>("probs");
  const auto status = g.load<std::int64_t, 1>("status"), token = g.load<std::int64_t, 1>("greedy");
  for (index_t i = 0; i < logits.extent(0); ++i) {
    const auto row = row_of(logits, i);
    const sampled result = sample(cpu{}, greedy{}, test::view_of(row), {});
    REQUIRE(static_cast<std::int64_t>(result.status) == status(i));
    REQUIRE(result.token == token(i));
    std::vector<float> p(row.size());
    probabilities(cpu{}, gumbel_max{}, test::view_of(row), test::view_of(p));
    for (index_t v = 0; v < logits.extent(1); ++v) REQUIRE(close(p[static_cast<std::size_t>(v)], probs(i, v)));

    const auto check = [&](const auto& stages, const std::string& name) {
      const auto keep = g.load<bool, 2>(name);
      const auto left = test::applied(stages, row);
      for (index_t v = 0; v < logits.extent(1); ++v) {
        // Where probabilities underflow to zero the file orders the tokens by id, the total order by their logits.
        if (probs(i, v) == 0.0f && row[static_cast<std::size_t>(v)] > excluding_logit && name.starts_with("keep_topk"))
          continue;
        CAPTURE(i, v, name);
        REQUIRE(!excluded(left[static_cast<std::size_t>(v)]) == keep(i, v));
      }
    };
    index_t filters = 0;
    for (const std::string& name : g.names()) {  // the limit is part of the name: keep_topk100, keep_topp05 (0.5)
      if (!name.starts_with("keep_top")) continue;
      const std::string limit = name.substr(9);
      if (name.starts_with("keep_topk")) check(top_k{std::stoll(limit)}, name);
      if (name.starts_with("keep_topp"))
        check(top_p{std::stof(limit.substr(0, 1) + '.' + limit.substr(1) + '0')}, name);
      ++filters;
    }
    REQUIRE(filters > 0);
  }
}

TEST_CASE("chain: the two orders of flashinfer give its distributions", "[sampling][golden]") {
  const golden files[] = {golden("sampling", "chain_a"), golden("sampling", "chain_b")};
  for (const golden& g : files) {
    const auto logits = g.load<float, 2>("logits");
    const temperature t{g.params.at("temperature").get<float>()};
    const auto k = g.params.at("top_k").get<index_t>();
    const auto mass = g.params.at("top_p").get<float>();
    const auto first = g.load<float, 2>("flashinfer_topk_first"), together = g.load<float, 2>("flashinfer_joint");
    for (index_t i = 0; i < logits.extent(0); ++i) {
      const auto row = row_of(logits, i);
      std::vector<float> p(row.size()), q(row.size());
      probabilities(cpu{}, t | top_k{k} | top_p{mass}, test::view_of(row), test::view_of(p));
      probabilities(cpu{}, t | joint{k, mass}, test::view_of(row), test::view_of(q));
      for (index_t v = 0; v < logits.extent(1); ++v) {
        CAPTURE(i, v);
        REQUIRE(close(p[static_cast<std::size_t>(v)], first(i, v)));
        REQUIRE(close(q[static_cast<std::size_t>(v)], together(i, v)));
      }
    }
  }
}
