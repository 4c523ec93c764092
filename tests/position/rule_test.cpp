// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/position/position.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <position/encodings.hpp>
#include <support/catch.hpp>
#include <support/random.hpp>
#include <vector>

using namespace seqprim;
using position::side;

namespace {

template <class T> tensor<T, 4> random_tensor(index_t batch, index_t heads, index_t len, index_t dim) {
  test::random_numbers random(31);
  tensor<T, 4> x(batch, heads, len, dim);
  random.fill(x);
  return x;
}

/// A map that differs between batch rows and heads.
struct shifted_by_head {
  struct one {
    index_t start;
    double operator()(index_t row) const noexcept { return static_cast<double>(start + row); }
  };
  [[nodiscard]] one bind(index_t batch, index_t head) const noexcept { return {100 * batch + 10 * head}; }
};
static_assert(position::depends_on_head<shifted_by_head> && !position::map<shifted_by_head>);

/// Vector by vector through the free functions, in double.
template <class E, class Map>
tensor<double, 4> encoded_one_by_one(const E& given, side which, const Map& map, const tensor<double, 4>& x) {
  const index_t dim = x.extent(3);
  const E e = position::for_head_dim(given, dim);
  tensor<double, 4> y(x.extent(0), x.extent(1), x.extent(2), position::encoded_dim(e, dim));
  std::vector<double> table(static_cast<std::size_t>(e.table_size()));
  for (index_t b = 0; b < x.extent(0); ++b)
    for (index_t h = 0; h < x.extent(1); ++h)
      for (index_t i = 0; i < x.extent(2); ++i) {
        position::fill_table(e, typename E::coordinate(position::bind(map, b, h)(i)), h, table.data());
        position::apply(e, which, &x(b, h, i, 0), &y(b, h, i, 0), table.data(), dim);
      }
  return y;
}

// example-begin encoding
/// Multiplies vectors by 1 + position / period: an encoding of a few lines.
struct growing {
  using coordinate = double;
  double period;

  SEQPRIM_HD static constexpr index_t table_size() noexcept { return 1; }
  template <class Angle> SEQPRIM_HD constexpr void table(double n, Angle* size) const noexcept {
    size[0] = static_cast<Angle>(1 + n / period);
  }
  SEQPRIM_HD static void apply(const float* x, float* y, const float* size, index_t head_dim) noexcept {
    for (index_t d = 0; d < head_dim; ++d) y[d] = x[d] * size[0];
  }
  SEQPRIM_HD static void apply_transposed(const float* dy, float* dx, const float* size, index_t head_dim) noexcept {
    apply(dy, dx, size, head_dim);
  }
};
static_assert(position::encoding<growing>);
// example-end encoding

double inner(const tensor<double, 4>& a, const tensor<double, 4>& b) {
  double sum = 0;
  for (index_t i = 0; i < a.size(); ++i) sum += a.data()[i] * b.data()[i];
  return sum;
}

double farthest(const tensor<double, 4>& a, const tensor<double, 4>& b) {
  double most = a.size() == b.size() ? 0 : HUGE_VAL;
  for (index_t i = 0; i < std::min(a.size(), b.size()); ++i)
    most = std::fmax(most, std::fabs(a.data()[i] - b.data()[i]));
  return most;
}

/// What encode must do with any encoding: the same as vector by vector, in one rounding for narrow types, with a backward that
/// is its transpose, whatever the threads.
template <class E, class Map> void check_encoding(const E& e, const Map& map, index_t head_dim) {
  const index_t batch = 2, heads = 3, len = 37, width = position::encoded_dim(e, head_dim);
  const auto x = random_tensor<double>(batch, heads, len, head_dim),
             dy = random_tensor<double>(batch, heads, len, width);
  for (const side which : {side::query, side::key}) {
    tensor<double, 4> y(batch, heads, len, width), dx(batch, heads, len, head_dim);
    position::encode(cpu{.threads = 2}, e, map, which, x, y);
    REQUIRE(farthest(y, encoded_one_by_one(e, which, map, x)) == 0);
    position::encode_backward(cpu{.threads = 3}, e, map, which, dy, dx);
    const double scale = std::sqrt(inner(dy, dy) * inner(y, y));
    REQUIRE(std::fabs(inner(dy, y) - inner(dx, x)) <= 1e-12 * scale);

    tensor<bfloat16, 4> narrow(batch, heads, len, head_dim), narrow_y(batch, heads, len, width);
    tensor<float, 4> wide(batch, heads, len, head_dim), wide_y(batch, heads, len, width),
        mixed(batch, heads, len, width);
    for (index_t i = 0; i < x.size(); ++i)
      wide.data()[i] = static_cast<float>(narrow.data()[i] = bfloat16(static_cast<float>(x.data()[i])));
    position::encode(cpu{.threads = 1}, e, map, which, narrow, narrow_y);
    position::encode(cpu{.threads = 4}, e, map, which, wide, wide_y);
    position::encode(cpu{.threads = 2}, e, map, which, narrow, mixed);
    for (index_t i = 0; i < y.size(); ++i) {
      REQUIRE(mixed.data()[i] == wide_y.data()[i]);
      REQUIRE(narrow_y.data()[i].bits == bfloat16(wide_y.data()[i]).bits);
    }
  }
}

}  // namespace

TEST_CASE("rule: encode serves sides, widths, heads and points", "[position][property]") {
  const index_t len = 37;
  tensor<double, 2> plane(len, 2), space(len, 3);
  for (index_t i = 0; i < len; ++i) {
    plane(i, 0) = space(i, 0) = static_cast<double>(i / 6);
    plane(i, 1) = space(i, 1) = static_cast<double>(i % 6);
    space(i, 2) = 0.5 * static_cast<double>(i);
  }
  test::random_numbers random(32);
  tensor<float, 2> theta(3, 8);
  random.fill(theta);
  const position::coordinates<2> points{.values = plane.view()};
  check_encoding(test::xpos{.head_dim = 12}, position::sequential{.start = 5}, 12);
  check_encoding(test::cosine_lrpe<2>{.theta = theta.view()}, points, 16);
  check_encoding(test::cosine_lrpe<2>{.theta = theta.view()}, points, 15);  // the last axis is cut short
  check_encoding(position::rotary<position::interleaved, test::theta_per_head<1>>{.frequencies = {theta.view()}},
                 position::sequential{}, 16);
  check_encoding(position::rotary<position::half_split, test::by_axis<3>>{.frequencies = {{0, 1, 2, 0, 1, 2}}},
                 position::coordinates<3>{.values = space.view()}, 12);
  check_encoding(position::rotary<test::block_half<2>, test::axial<2>>{.frequencies = {{6, 10}}, .layout = {{6, 10}}},
                 points, 16);
  check_encoding(position::rotary<position::half_split>{.rotary_dim = 8, .begin = 3}, shifted_by_head{}, 12);
  check_encoding(test::xpos{.head_dim = 12}, shifted_by_head{}, 12);
}

TEST_CASE("rule: members that an encoding leaves out have defaults", "[position]") {
  const position::rotary<position::half_split> rope;
  REQUIRE(position::encoded_dim(rope, 10) == 10);
  REQUIRE(position::keys_may_be_cached(rope));
  REQUIRE(position::for_head_dim(rope, 10).rotary_dim == 10);
  REQUIRE(position::for_head_dim(test::xpos{.head_dim = 4}, 10).head_dim == 4);
  STATIC_REQUIRE_FALSE(position::sided<decltype(rope)>);
  STATIC_REQUIRE_FALSE(position::per_head<decltype(rope)>);
  STATIC_REQUIRE_FALSE(position::learnable<position::rotary<position::half_split>>);
}

TEST_CASE("rule: integers serve where numbers do, and points are neither", "[position]") {
  STATIC_REQUIRE(position::coordinate_for<index_t, double>);
  STATIC_REQUIRE_FALSE(position::coordinate_for<double, index_t>);
  STATIC_REQUIRE_FALSE(position::coordinate_for<double, position::point<2>>);
  STATIC_REQUIRE_FALSE(position::coordinate_for<position::point<2>, position::point<3>>);
  STATIC_REQUIRE(std::is_same_v<position::coordinate_of<position::sequential>, index_t>);
  STATIC_REQUIRE(std::is_same_v<position::coordinate_of<shifted_by_head>, double>);
  REQUIRE(position::point<2>{{1, 2}} == position::point<2>{{1, 2}});
  REQUIRE_FALSE(position::point<2>{{1, 2}} == position::point<2>{{1, 3}});
}

TEST_CASE("rule: an encoding may be a page of code", "[position]") {
  tensor<bfloat16, 4> x(1, 1, 3, 5);
  x.fill(bfloat16(2.0f));
  position::encode(cpu{}, growing{.period = 2}, position::sequential{.start = 2}, x, x);
  REQUIRE(static_cast<float>(x(0, 0, 0, 4)) == 4.0f);
  REQUIRE(static_cast<float>(x(0, 0, 2, 0)) == 6.0f);
}
