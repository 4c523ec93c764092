// SPDX-License-Identifier: Apache-2.0
// The examples of docs/reference/sampling.
#include "support/rows.hpp"

using namespace seqprim;

// example-begin stage
struct banned_words {  // elementwise: a new logit from the old one
  const bool* banned;  // [vocab]
  float operator()(float logit, index_t token) const { return banned[token] ? sampling::excluding_logit : logit; }
};
// example-end stage

TEST_CASE("reference pages of sampling: the examples do what they say", "[sampling]") {
  constexpr index_t rows = 2, vocab = 5;
  const cpu executor;
  tensor<float, 2> logits(rows, vocab);
  for (index_t i = 0; i < rows; ++i)
    for (index_t v = 0; v < vocab; ++v) logits(i, v) = static_cast<float>(v);

  SECTION("sample") {
    // example-begin sample
    const auto sampler = sampling::temperature{0.8f} | sampling::top_k{50} | sampling::top_p{0.95f} | sampling::draw{};

    tensor<index_t, 1> tokens(rows);
    tensor<sampling::row_status, 1> status(rows);
    tensor<std::uint32_t, 1> requests(rows), steps(rows);  // one stream per sequence, one step per position
    for (index_t i = 0; i < rows; ++i) requests(i) = static_cast<std::uint32_t>(i);
    sampling::sample(executor, sampler, logits, tokens, status, /*seed=*/1234, requests, steps);
    // example-end sample
    for (const auto s : status) REQUIRE(s == sampling::row_status::ok);

    // example-begin one_row
    const random_stream stream{.seed = 1234, .request = 1, .step = 0};
    const sampling::sampled one = sampling::sample(executor, sampler, logits.view()[1], stream);
    // example-end one_row
    REQUIRE(one.token == tokens(1));

    // example-begin probabilities
    tensor<float, 1> p(vocab);
    sampling::probabilities(executor, sampler, logits.view()[0], p);  // what `sampler` draws from
    // example-end probabilities
    REQUIRE(p(4) > p(3));
  }

  SECTION("stage") {
    const bool banned[vocab] = {false, false, false, false, true};
    // example-begin use_stage
    const auto sampler = banned_words{banned} | sampling::greedy{};
    // example-end use_stage
    REQUIRE(sampling::sample(executor, sampler, logits.view()[0], {}).token == 3);
  }

  SECTION("stages") {
    // example-begin filters
    const auto sharper = sampling::temperature{0.7f};  // logits divided by 0.7
    const auto shortlist = sampling::top_k{40};        // exactly the 40 first tokens
    const auto nucleus = sampling::top_p{0.9f};        // the shortest prefix with 90 % of the probability
    const auto floor = sampling::min_p{0.05f};         // at least 5 % as likely as the likeliest
    const auto sampler = sharper | shortlist | nucleus | floor | sampling::gumbel_max{};
    // example-end filters
    REQUIRE(sampling::sample(executor, sampler, logits.view()[0], {.seed = 1}).status == sampling::row_status::ok);
  }
}
