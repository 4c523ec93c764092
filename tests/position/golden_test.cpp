// SPDX-License-Identifier: Apache-2.0
#include <seqprim/attention/forward.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/position/position.hpp>

#include <array>
#include <cmath>
#include <position/encodings.hpp>
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

template <class Rotary>
void require_table(const Rotary& r, const tensor<index_t, 1>& positions, const tensor<float, 2>& cosines,
                   const tensor<float, 2>& sines, float tolerance) {
  REQUIRE(cosines.extent(1) == r.pairs());
  std::vector<float> table(static_cast<std::size_t>(r.table_size()));
  for (index_t i = 0; i < positions.extent(0); ++i) {
    r.table(static_cast<double>(positions(i)), table.data());
    for (index_t j = 0; j < r.pairs(); ++j) {
      CAPTURE(positions(i), j);
      REQUIRE(std::fabs(table[static_cast<std::size_t>(j)] - cosines(i, j)) <= tolerance);
      REQUIRE(std::fabs(table[static_cast<std::size_t>(r.pairs() + j)] - sines(i, j)) <= tolerance);
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

/// y = encode(x) is `expected`, a golden tensor.
template <class E, class Map>
void require_encoding(const E& e, const Map& map, position::side which, const tensor<float, 4>& x,
                      const tensor<float, 4>& expected) {
  tensor<float, 4> y(expected.extent(0), expected.extent(1), expected.extent(2), expected.extent(3));
  position::encode(cpu{}, e, map, which, x, y);
  require_near(y, expected);
}
template <class E>
void require_rotation(const E& r, const tensor<index_t, 1>& positions, const tensor<float, 4>& x,
                      const tensor<float, 4>& expected) {
  require_encoding(r, position::token_ids{.ids = positions}, position::side::query, x, expected);
}

/// Integer coordinates as numbers; `transposed` where the axes come first.
tensor<double, 2> as_numbers(const tensor<index_t, 2>& ids, bool transposed) {
  tensor<double, 2> result(ids.extent(transposed ? 1 : 0), ids.extent(transposed ? 0 : 1));
  for (index_t i = 0; i < result.extent(0); ++i)
    for (index_t axis = 0; axis < result.extent(1); ++axis)
      result(i, axis) = static_cast<double>(transposed ? ids(axis, i) : ids(i, axis));
  return result;
}

/// Tokens of a grid in row-major order.
tensor<double, 2> grid(index_t rows, index_t columns) {
  tensor<double, 2> result(rows * columns, 2);
  for (index_t i = 0; i < rows * columns; ++i) {
    result(i, 0) = static_cast<double>(i / columns);
    result(i, 1) = static_cast<double>(i % columns);
  }
  return result;
}

}  // namespace

TEST_CASE("rotary: golden tables, of the usual frequencies and of a list", "[position][golden]") {
  for (const golden& g : {golden("positions", "rope_default_d64"), golden("positions", "rope_default_d128_theta500k"),
                          golden("positions", "rope_linear_x4")}) {
    const index_t dim = g.params.at("rotary_dim");
    const double theta = g.params.at("theta"), slower = g.params.value("factor", 1.0);
    const auto positions = g.load<index_t, 1>("positions");
    const auto cosines = g.load<float, 2>("cos"), sines = g.load<float, 2>("sin");
    const auto rounded = g.load<float, 1>("inv_freq");
    const float factor = g.load<float, 1>("attention_factor")(0);
    tensor<double, 1> list(dim / 2);
    for (index_t c = 0; c < dim / 2; ++c) {
      list(c) = std::pow(theta, -2.0 * static_cast<double>(c) / static_cast<double>(dim)) / slower;
      REQUIRE(static_cast<float>(list(c)) == rounded(c));
    }
    const position::rotary<position::half_split, position::listed> listed{
        .rotary_dim = dim, .frequencies = {.inv_freq = list.view()}, .attention_factor = factor};
    require_table(listed, positions, cosines, sines, table_tolerance);
    if (slower == 1.0) {
      const position::rotary<position::half_split> r{
          .rotary_dim = dim, .frequencies = {.theta = theta}, .attention_factor = factor};
      require_table(r, positions, cosines, sines, table_tolerance);
    }
  }
}

TEST_CASE("rotary: golden tables at very long positions, reduced and with float angles", "[position][golden]") {
  const golden g("positions", "rope_high_positions_d64");
  const auto positions = g.load<index_t, 1>("positions");
  const auto cosines = g.load<float, 2>("cos"), sines = g.load<float, 2>("sin");
  const auto float_cosines = g.load<float, 2>("cos_fp32_angles"), float_sines = g.load<float, 2>("sin_fp32_angles");
  require_table(position::rotary<position::half_split>{.rotary_dim = 2 * cosines.extent(1)}, positions, cosines, sines,
                table_tolerance);
  // Frequency and angle are rounded to float at the same places, so only the rounding of the tables is left.
  const position::rotary<position::half_split> r{.rotary_dim = 2 * cosines.extent(1),
                                                 .frequencies = {.fp32_angles = true}};
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
      check(position::rotary<position::half_split>{.rotary_dim = dim, .begin = begin, .frequencies = {.theta = theta}});
    } else {
      check(
          position::rotary<position::interleaved>{.rotary_dim = dim, .begin = begin, .frequencies = {.theta = theta}});
    }
  }
}

TEST_CASE("rotary: golden permutation between the layouts", "[position][golden]") {
  const golden g("positions", "rope_layout_permutation");
  const auto positions = g.load<index_t, 1>("positions"), perm = g.load<index_t, 1>("perm");
  const auto interleaved = g.load<float, 4>("q_interleaved"), half = g.load<float, 4>("q_half");
  const position::geometric frequencies{.theta = g.params.at("theta")};
  require_rotation(position::rotary<position::interleaved>{.frequencies = frequencies}, positions, interleaved,
                   g.load<float, 4>("q_rot_interleaved"));
  require_rotation(position::rotary<position::half_split>{.frequencies = frequencies}, positions, half,
                   g.load<float, 4>("q_rot_half"));
  const index_t pairs = perm.extent(0) / 2;
  for (index_t c = 0; c < pairs; ++c) {
    REQUIRE(perm(position::half_split::first(c, pairs)) == position::interleaved::first(c, pairs));
    REQUIRE(perm(position::half_split::second(c, pairs)) == position::interleaved::second(c, pairs));
  }
}

TEST_CASE("rotary: golden causal attention, at any common position of the rows", "[position][golden]") {
  const golden g("positions", "rope_attention_causal");
  const auto q = g.load<float, 4>("q"), k = g.load<float, 4>("k"), v = g.load<float, 4>("v"),
             out = g.load<float, 4>("out");
  const index_t heads = q.extent(1), len = q.extent(2), dim = q.extent(3);
  const auto start = GENERATE(as<index_t>{}, 0, 1, 1000);
  const position::rotary<position::half_split> r{.rotary_dim = dim,
                                                 .frequencies = {.theta = g.params.at("theta").get<double>()}};
  tensor<float, 4> rq(1, heads, len, dim), rk(1, heads, len, dim);
  position::encode(cpu{}, r, position::sequential{.start = start}, q, rq);
  position::encode(cpu{}, r, position::sequential{.start = start}, k, rk);
  for (index_t h = 0; h < heads; ++h)
    for (index_t i = 0; i < len; ++i) {
      std::vector<double> weights;
      double sum = 0;
      for (index_t j = 0; j <= i; ++j) {
        double logit = 0;
        for (index_t d = 0; d < dim; ++d)
          logit += static_cast<double>(rq(0, h, i, d)) * static_cast<double>(rk(0, h, j, d));
        weights.push_back(std::exp(logit / std::sqrt(static_cast<double>(dim))));
        sum += weights.back();
      }
      for (index_t d = 0; d < dim; ++d) {
        double value = 0;
        for (index_t j = 0; j <= i; ++j)
          value += weights[static_cast<std::size_t>(j)] / sum * static_cast<double>(v(0, h, j, d));
        CAPTURE(start, h, i, d);
        REQUIRE(std::fabs(value - static_cast<double>(out(0, h, i, d))) <= 5e-6);
      }
    }
}

// What follows is not part of the library: it shows that the contract carries it.

TEST_CASE("rule: golden rotations on several axes, M-RoPE and axial", "[position][golden]") {
  {
    const golden g("positions", "mrope_apply_d32");
    const auto numbers = as_numbers(g.load<index_t, 2>("position_ids"), true);
    const position::coordinates<3> map{.values = numbers.view()};
    for (const std::string allocation : {"sections", "videorope"}) {
      const auto axes = g.load<index_t, 1>("axis_of_pair_" + allocation);
      position::rotary<position::half_split, test::by_axis<3>> r{
          .frequencies = {.axis_of_pair = {}, .theta = g.params.at("theta")}};
      for (index_t c = 0; c < axes.extent(0); ++c)
        r.frequencies.axis_of_pair.at(static_cast<std::size_t>(c)) = static_cast<int>(axes(c));
      for (const std::string x : {"q", "k"})
        require_encoding(r, map, position::side::query, g.load<float, 4>(x),
                         g.load<float, 4>(x + "_rot_" + allocation));
    }
  }
  const golden g("positions", "axial2d_3x4");
  const auto numbers = as_numbers(g.load<index_t, 2>("position_ids"), false);
  const position::coordinates<2> map{.values = numbers.view()};
  const auto dims = g.params.at("axes").get<std::vector<index_t>>();
  const std::array<index_t, 2> axes = {dims.at(0), dims.at(1)};
  const test::axial<2> frequencies{axes, g.params.at("theta")};
  const auto q = g.load<float, 4>("q");
  const auto check = [&](const auto& r, const char* name) {
    require_encoding(r, map, position::side::query, q, g.load<float, 4>(name));
  };
  check(position::rotary<position::interleaved, test::axial<2>>{.frequencies = frequencies}, "q_rot_interleaved");
  check(position::rotary<position::half_split, test::axial<2>>{.frequencies = frequencies}, "q_rot_half");
  check(position::rotary<test::block_half<2>, test::axial<2>>{.frequencies = frequencies, .layout = {axes}},
        "q_rot_block_half");
}

TEST_CASE("rule: golden xPos, which treats queries and keys differently", "[position][golden]") {
  const golden g("positions", "xpos_s512");
  const auto q = g.load<float, 4>("q"), k = g.load<float, 4>("k"), v = g.load<float, 4>("v");
  const auto scores = g.load<float, 4>("scores"), out = g.load<float, 4>("out");
  const auto lse = g.load<float, 3>("lse");
  const index_t heads = q.extent(1), len = q.extent(2), dim = q.extent(3);
  test::xpos e{.head_dim = dim,
               .scale_base = g.params.at("scale_base"),
               .center = g.params.at("center"),
               .theta = g.params.at("theta"),
               .gamma = g.params.at("gamma")};
  require_encoding(e, position::sequential{}, position::side::query, q, g.load<float, 4>("q_rot"));
  require_encoding(e, position::sequential{}, position::side::key, k, g.load<float, 4>("k_rot"));
  const auto zeta = g.load<float, 1>("zeta");
  std::vector<double> table(static_cast<std::size_t>(e.table_size()));
  e.table(e.center + e.scale_base, table.data());
  for (index_t c = 0; c < e.pairs(); ++c)
    REQUIRE(static_cast<double>(zeta(c)) == Approx(table[static_cast<std::size_t>(2 * e.pairs() + c)]).epsilon(1e-7));

  e.center = 0;  // scores do not depend on it
  tensor<double, 4> wide_q(1, heads, len, dim), wide_k(1, heads, len, dim);
  for (index_t i = 0; i < q.size(); ++i) {
    wide_q.data()[i] = static_cast<double>(q.data()[i]);
    wide_k.data()[i] = static_cast<double>(k.data()[i]);
  }
  position::encode(cpu{}, e, position::sequential{}, position::side::query, wide_q, wide_q);
  position::encode(cpu{}, e, position::sequential{}, position::side::key, wide_k, wide_k);
  for (index_t h = 0; h < heads; ++h)
    for (index_t i = 0; i < len; ++i)
      for (index_t j = 0; j <= i; ++j) {
        double score = 0;
        for (index_t d = 0; d < dim; ++d) score += wide_q(0, h, i, d) * wide_k(0, h, j, d);
        REQUIRE(std::fabs(score - static_cast<double>(scores(0, h, i, j))) <= 1e-5);
      }
  const attention::softmax op{mask::causal{}, score::identity{}, e};
  tensor<float, 4> result(1, heads, len, dim);
  tensor<float, 3> result_lse(1, heads, len);
  attention::forward(cpu{}, op, q, k, v, result, result_lse);
  require_near(result, out);
  for (index_t i = 0; i < lse.size(); ++i) REQUIRE(std::fabs(result_lse.data()[i] - lse.data()[i]) <= 5e-6f);
}

TEST_CASE("rule: golden LRPE, rotations by any list and a cosine form of twice the width", "[position][golden]") {
  const golden g("positions", "lrpe_d16");
  const auto x = g.load<float, 4>("x");
  const auto positions = g.load<index_t, 1>("positions");
  for (const std::string type : {"type1", "type2", "type3"}) {
    const auto theta = g.load<float, 1>("theta_" + type);
    tensor<double, 1> list(theta.extent(0));
    for (index_t c = 0; c < list.extent(0); ++c) list(c) = static_cast<double>(theta(c));
    const position::listed frequencies{.inv_freq = list.view()};
    require_rotation(position::rotary<position::half_split, position::listed>{.frequencies = frequencies}, positions, x,
                     g.load<float, 4>("y_" + type));
    require_rotation(position::rotary<position::interleaved, position::listed>{.frequencies = frequencies}, positions,
                     x, g.load<float, 4>("y_" + type + "_interleaved"));
  }
  for (const std::string type : {"type4", "type5", "type6"}) {
    const auto theta = g.load<float, 1>("theta_" + type);
    const test::cosine_lrpe<1> e{.theta =
                                     tensor_view<const float, 2>(theta.data(), {x.extent(1), theta.extent(0)}, {0, 1})};
    require_rotation(e, positions, x, g.load<float, 4>("y_" + type));
  }
}

TEST_CASE("rule: golden MD-LRPE, frequencies of its own for each head and axis", "[position][golden]") {
  const golden g("positions", "md_lrpe_2d");
  const auto x = g.load<float, 4>("x");
  const auto theta = g.load<float, 2>("theta"), theta_rotate = g.load<float, 2>("theta_rotate");
  const auto shape = g.params.at("shape").get<std::vector<index_t>>();
  const auto numbers = grid(shape.at(0), shape.at(1));
  const position::coordinates<2> map{.values = numbers.view()};
  require_encoding(test::cosine_lrpe<2>{.theta = theta.view()}, map, position::side::query, x,
                   g.load<float, 4>("y_cosine"));
  require_encoding(
      position::rotary<position::interleaved, test::theta_per_head<2>>{.frequencies = {theta_rotate.view()}}, map,
      position::side::query, x, g.load<float, 4>("y_rotate"));
}
