// SPDX-License-Identifier: Apache-2.0
#include <seqprim/score/score.hpp>

#include <cmath>
#include <string>
#include <support/catch.hpp>
#include <support/golden.hpp>

using namespace seqprim;

TEST_CASE("soft_cap: golden files, forward and backward", "[score][golden]") {
  for (const golden& g : {golden("layers", "softcap_0"), golden("layers", "softcap_2")}) {
    const auto x = g.load<float, 2>("x"), out = g.load<float, 2>("out");
    const auto dout = g.load<float, 2>("dout"), dx = g.load<float, 2>("dx");
    const score::soft_cap f{g.params.at("cap")};
    for (index_t i = 0; i < x.size(); ++i) {
      CAPTURE(i, f.cap);
      const float* const at = x.data() + i;
      // Three units in the last place of tanh, and the rounding of the golden value itself.
      REQUIRE(std::fabs(f(*at, {}) - out.data()[i]) <= 5e-7f * std::fabs(out.data()[i]));
      REQUIRE(std::fabs(dout.data()[i] * f.derivative(*at, {}) - dx.data()[i]) <=
              1e-6f * std::fabs(dx.data()[i]) + 1e-12f);
    }
    REQUIRE(x.size() > 0);
  }
}

TEST_CASE("alibi: golden slopes for many numbers of heads", "[score][golden]") {
  const golden g("positions", "alibi_slopes");
  int tables = 0;
  for (index_t heads = 1; heads <= 128; ++heads) {
    const std::string name = "slopes_" + std::to_string(heads);
    if (!g.contains(name)) continue;
    ++tables;
    const auto slopes = g.load<float, 1>(name);
    REQUIRE(slopes.extent(0) == heads);
    for (index_t h = 0; h < heads; ++h) {
      CAPTURE(heads, h);
      REQUIRE(std::fabs(score::alibi_slope(h, heads) - slopes(h)) <= 0x1p-24f * slopes(h));  // one rounding each
    }
  }
  REQUIRE(tables == 22);
}

TEST_CASE("alibi: golden biases, square and with a cache", "[score][golden]") {
  for (const golden& g :
       {golden("positions", "alibi_attention_causal"), golden("positions", "alibi_attention_decode")}) {
    const auto slopes = g.load<float, 1>("slopes");
    const auto bias = g.load<float, 3>("bias");
    const auto visible = g.load<bool, 2>("mask");
    const index_t heads = bias.extent(0), q_len = bias.extent(1), k_len = bias.extent(2);
    const score::alibi f{.heads = heads};
    const score::alibi_table table{.slopes = slopes.view()};
    int compared = 0;
    for (index_t h = 0; h < heads; ++h)
      for (index_t q = 0; q < q_len; ++q)
        for (index_t k = 0; k < k_len; ++k) {
          if (!visible(q, k)) continue;
          ++compared;
          CAPTURE(h, q, k);
          const score::site at{k_len - q_len + q, k};
          REQUIRE(score::bind(f, 0, h)(0.0f, at) == bias(h, q, k));
          REQUIRE(score::bind(table, 0, h)(0.0f, at) == bias(h, q, k));
        }
    REQUIRE(compared > 0);
  }
}
