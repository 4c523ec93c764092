// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/position/position.hpp>

#include <cmath>
#include <string>
#include <support/catch.hpp>
#include <support/golden.hpp>
#include <vector>

using namespace seqprim;

namespace {

/// Golden tables hold float roundings of exact values (float16 a unit, 3e-8); ours are right to 1e-7 up to position 10^8.
constexpr float table_tolerance = 1.5e-7f;
/// Golden vectors were rotated in double; ours with float tables: three roundings of numbers up to 4.
constexpr float vector_tolerance = 2e-6f;

template <class Layout>
void require_table(const position::rotary<Layout>& r, const tensor<index_t, 1>& positions,
                   const tensor<float, 2>& cosines, const tensor<float, 2>& sines, float tolerance) {
  REQUIRE(cosines.extent(1) == r.pairs());
  std::vector<float> c(static_cast<std::size_t>(r.pairs())), s(c);
  for (index_t i = 0; i < positions.extent(0); ++i) {
    r.angles(positions(i), c.data(), s.data());
    for (index_t j = 0; j < r.pairs(); ++j) {
      CAPTURE(positions(i), j);
      REQUIRE(std::fabs(c[static_cast<std::size_t>(j)] - cosines(i, j)) <= tolerance);
      REQUIRE(std::fabs(s[static_cast<std::size_t>(j)] - sines(i, j)) <= tolerance);
    }
  }
  REQUIRE(positions.extent(0) > 0);
}

void require_near(const tensor<float, 4>& a, const tensor<float, 4>& b) {
  REQUIRE(a.size() == b.size());
  REQUIRE(a.size() > 0);
  for (index_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    REQUIRE(std::fabs(a.data()[i] - b.data()[i]) <= vector_tolerance * std::fmax(1.0f, std::fabs(b.data()[i])));
  }
}

template <class Layout>
void require_rotation(const position::rotary<Layout>& r, const tensor<index_t, 1>& positions, const tensor<float, 4>& x,
                      const tensor<float, 4>& expected) {
  tensor<float, 4> y(x.extent(0), x.extent(1), x.extent(2), x.extent(3));
  position::encode(cpu{}, r, position::token_ids{.ids = positions}, x, y);
  require_near(y, expected);
}

}  // namespace

TEST_CASE("rotary: golden tables", "[position][golden]") {
  for (const golden& g :
       {golden("positions", "rope_default_d64"), golden("positions", "rope_default_d128_theta500k")}) {
    const position::rotary<position::half_split> r{.rotary_dim = g.params.at("rotary_dim").get<index_t>(),
                                                   .theta = g.params.at("theta").get<double>()};
    require_table(r, g.load<index_t, 1>("positions"), g.load<float, 2>("cos"), g.load<float, 2>("sin"),
                  table_tolerance);
  }
}

TEST_CASE("rotary: golden tables at very long positions, reduced and with float angles", "[position][golden]") {
  const golden g("positions", "rope_high_positions_d64");
  const auto positions = g.load<index_t, 1>("positions");
  const auto cosines = g.load<float, 2>("cos"), sines = g.load<float, 2>("sin");
  const auto float_cosines = g.load<float, 2>("cos_fp32_angles"), float_sines = g.load<float, 2>("sin_fp32_angles");
  const index_t dim = g.params.at("rotary_dim");
  const double theta = g.params.at("theta");
  require_table(position::rotary<position::half_split>{.rotary_dim = dim, .theta = theta}, positions, cosines, sines,
                table_tolerance);
  // Frequency and angle are rounded to float at the same places, so only the rounding of the tables is left.
  const position::rotary<position::half_split> r{.rotary_dim = dim, .theta = theta, .fp32_angles = true};
  require_table(r, positions, float_cosines, float_sines, table_tolerance);
}

TEST_CASE("rotary: golden rotations of q and k in both layouts, whole and partial", "[position][golden]") {
  for (const golden& g :
       {golden("positions", "rope_apply_neox"), golden("positions", "rope_apply_gptj"),
        golden("positions", "rope_apply_partial_neox"), golden("positions", "rope_apply_partial_gptj"),
        golden("positions", "rope_apply_tail_partial")}) {
    const auto positions = g.load<index_t, 1>("positions");
    const auto check = [&](const auto& r) {
      require_rotation(r, positions, g.load<float, 4>("q"), g.load<float, 4>("q_rot"));
      require_rotation(r, positions, g.load<float, 4>("k"), g.load<float, 4>("k_rot"));
    };
    const index_t dim = g.params.at("rotary_dim").get<index_t>(), begin = g.params.at("rotary_begin").get<index_t>();
    const double theta = g.params.at("theta").get<double>();
    if (g.params.at("layout").get<std::string>() == "half-split") {
      check(position::rotary<position::half_split>{.rotary_dim = dim, .begin = begin, .theta = theta});
    } else {
      check(position::rotary<position::interleaved>{.rotary_dim = dim, .begin = begin, .theta = theta});
    }
  }
}

TEST_CASE("rotary: golden permutation between the layouts", "[position][golden]") {
  const golden g("positions", "rope_layout_permutation");
  const auto positions = g.load<index_t, 1>("positions"), perm = g.load<index_t, 1>("perm");
  const auto interleaved = g.load<float, 4>("q_interleaved"), halves = g.load<float, 4>("q_half");
  const index_t dim = g.params.at("head_dim"), pairs = dim / 2;
  const double theta = g.params.at("theta");
  REQUIRE(g.params.at("rule").get<std::string>() == "half[c]=interleaved[perm[c]]");
  require_rotation(position::rotary<position::interleaved>{.rotary_dim = dim, .theta = theta}, positions, interleaved,
                   g.load<float, 4>("q_rot_interleaved"));
  require_rotation(position::rotary<position::half_split>{.rotary_dim = dim, .theta = theta}, positions, halves,
                   g.load<float, 4>("q_rot_half"));
  for (index_t c = 0; c < pairs; ++c) {
    REQUIRE(perm(position::half_split::first(c, pairs)) == position::interleaved::first(c, pairs));
    REQUIRE(perm(position::half_split::second(c, pairs)) == position::interleaved::second(c, pairs));
  }
}

TEST_CASE("rotary: golden causal attention, at any common position of the rows", "[position][golden]") {
  const golden g("positions", "rope_attention_causal");
  const auto q = g.load<float, 4>("q"), k = g.load<float, 4>("k"), v = g.load<float, 4>("v"),
             out = g.load<float, 4>("out");
  const index_t batch = q.extent(0), heads = q.extent(1), kv_heads = k.extent(1), len = q.extent(2), dim = q.extent(3);
  const auto start = GENERATE(as<index_t>{}, 0, 1, 1000);
  REQUIRE(g.params.at("layout").get<std::string>() == "half-split");
  const position::rotary<position::half_split> r{.rotary_dim = dim, .theta = g.params.at("theta")};
  const double scale = 1 / std::sqrt(static_cast<double>(dim));
  tensor<float, 4> rq(batch, heads, len, dim), rk(batch, kv_heads, len, dim);
  position::encode(cpu{}, r, position::sequential{.start = start}, q, rq);
  position::encode(cpu{}, r, position::sequential{.start = start}, k, rk);
  for (index_t row = 0; row < batch * heads * len; ++row) {
    const index_t b = row / (heads * len), h = row / len % heads, i = row % len, kv = h / (heads / kv_heads);
    std::vector<double> weights;
    double sum = 0;
    for (index_t j = 0; j <= i; ++j) {
      double logit = 0;
      for (index_t d = 0; d < dim; ++d)
        logit += static_cast<double>(rq(b, h, i, d)) * static_cast<double>(rk(b, kv, j, d));
      weights.push_back(std::exp(scale * logit));
      sum += weights.back();
    }
    for (index_t d = 0; d < v.extent(3); ++d) {
      double value = 0;
      for (index_t j = 0; j <= i; ++j)
        value += weights[static_cast<std::size_t>(j)] / sum * static_cast<double>(v(b, kv, j, d));
      CAPTURE(start, b, h, i, d);
      REQUIRE(std::fabs(value - static_cast<double>(out(b, h, i, d))) <= 5e-6);
    }
  }
}
