// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/position/position.hpp>

#include <array>
#include <cmath>
#include <concepts>
#include <type_traits>

/// Encodings, frequencies and layouts that are not part of the library: what the contract must be able to express.
namespace seqprim::test {

/// A number on one axis, an entry of a point on more.
inline double axis(double n, index_t) noexcept { return n; }
template <int N> double axis(const position::point<N>& n, index_t i) noexcept { return n.at[i]; }

/// xPos: interleaved rotation, with queries grown and keys shrunk by a magnitude that depends on the position.
struct xpos {
  using coordinate = double;
  index_t head_dim;
  double scale_base = 512, center = 0, theta = 10000, gamma = 0.4;

  [[nodiscard]] constexpr index_t pairs() const noexcept { return head_dim / 2; }
  [[nodiscard]] constexpr index_t table_size() const noexcept { return 3 * pairs(); }  // cosines, sines, magnitudes
  template <std::floating_point Angle> void table(double n, Angle* out) const noexcept {
    const auto dim = static_cast<double>(head_dim);
    for (index_t c = 0; c < pairs(); ++c) {
      const auto channel = static_cast<double>(2 * c);
      const double angle = n * std::pow(theta, -channel / dim), zeta = (channel + gamma * dim) / ((1 + gamma) * dim);
      out[c] = static_cast<Angle>(std::cos(angle));
      out[pairs() + c] = static_cast<Angle>(std::sin(angle));
      out[2 * pairs() + c] = static_cast<Angle>(std::pow(zeta, (n - center) / scale_base));
    }
  }
  template <class T> void apply(position::side which, const T* x, T* y, const T* table, index_t) const noexcept {
    rotate(which, T{1}, x, y, table);
  }
  template <class T>
  void apply_transposed(position::side which, const T* dy, T* dx, const T* table, index_t) const noexcept {
    rotate(which, T{-1}, dy, dx, table);
  }

 private:
  template <class T> void rotate(position::side which, T way, const T* x, T* y, const T* table) const noexcept {
    for (index_t c = 0; c < pairs(); ++c) {
      const T magnitude = table[2 * pairs() + c], size = which == position::side::query ? magnitude : 1 / magnitude;
      const T cosine = size * table[c], sine = way * size * table[pairs() + c], x1 = x[2 * c], x2 = x[2 * c + 1];
      y[2 * c] = x1 * cosine - x2 * sine;
      y[2 * c + 1] = x2 * cosine + x1 * sine;
    }
  }
};
static_assert(position::encoding<xpos> && position::sided<xpos> && !position::per_head<xpos>);

/// The cosine form of MD-LRPE: y = [x cos | x sin], twice as wide. Channel c belongs to axis c / entries and has the angle
/// coordinate * theta(head, c % entries); theta is learned.
template <int N> struct cosine_lrpe {
  using coordinate = std::conditional_t<N == 1, double, position::point<N>>;
  tensor_view<const float, 2> theta;  ///< [heads, entries]
  index_t head_dim = 0;

  [[nodiscard]] constexpr index_t entries() const noexcept { return ceil_div(head_dim, index_t{N}); }
  [[nodiscard]] constexpr index_t encoded_dim(index_t dim) const noexcept { return 2 * dim; }
  [[nodiscard]] constexpr index_t table_size() const noexcept { return 2 * head_dim; }
  [[nodiscard]] constexpr cosine_lrpe for_head_dim(index_t dim) const noexcept { return {theta, dim}; }

  template <std::floating_point Angle> void table(const coordinate& at, index_t head, Angle* out) const noexcept {
    for (index_t c = 0; c < head_dim; ++c) {
      out[c] = static_cast<Angle>(std::cos(angle(at, head, c)));
      out[head_dim + c] = static_cast<Angle>(std::sin(angle(at, head, c)));
    }
  }
  template <class T> void apply(const T* x, T* y, const T* table, index_t dim) const noexcept {
    for (index_t c = 0; c < 2 * dim; ++c) y[c] = x[c % dim] * table[c];
  }
  template <class T> void apply_transposed(const T* dy, T* dx, const T* table, index_t dim) const noexcept {
    for (index_t c = 0; c < dim; ++c) dx[c] = dy[c] * table[c] + dy[dim + c] * table[dim + c];
  }

  [[nodiscard]] constexpr index_t parameters() const noexcept { return theta.extent(0) * theta.extent(1); }
  template <class T>
  void add_parameter_gradient(position::side, const T* x, const T* dy, const coordinate& at, index_t head, index_t dim,
                              double* sums) const noexcept {
    for (index_t c = 0; c < dim; ++c) {
      const double a = angle(at, head, c), n = axis(at, c / entries()), value = static_cast<double>(x[c]);
      sums[head * theta.extent(1) + c % entries()] +=
          n * value * (static_cast<double>(dy[dim + c]) * std::cos(a) - static_cast<double>(dy[c]) * std::sin(a));
    }
  }

 private:
  [[nodiscard]] double angle(const coordinate& at, index_t head, index_t c) const noexcept {
    return axis(at, c / entries()) * static_cast<double>(theta(head, c % entries()));
  }
};
static_assert(position::encoding<cosine_lrpe<1>> && position::encoding<cosine_lrpe<2>> &&
              position::per_head<cosine_lrpe<2>> && position::learnable<cosine_lrpe<2>>);

/// M-RoPE: one ladder over all pairs, each of which reads the axis that it belongs to.
template <int N> struct by_axis {
  using coordinate = position::point<N>;
  std::array<int, 64> axis_of_pair;
  double theta = 10000;

  struct ladder {
    const by_axis& all;
    coordinate n;
    index_t rotary_dim, pair = 0;
    [[nodiscard]] double next() noexcept {
      const double frequency = std::pow(all.theta, -2.0 * static_cast<double>(pair) / static_cast<double>(rotary_dim));
      return n.at[all.axis_of_pair[static_cast<std::size_t>(pair++)]] * frequency / position::detail::two_pi;
    }
  };
  [[nodiscard]] ladder from(const coordinate& n, index_t rotary_dim) const noexcept { return {*this, n, rotary_dim}; }
};
static_assert(position::frequencies<by_axis<3>>);

/// Axial rotary: the ladder starts again with each axis, which has dims[axis] channels.
template <int N> struct axial {
  using coordinate = position::point<N>;
  std::array<index_t, N> dims;
  double theta = 10000;

  struct ladder {
    const axial& all;
    coordinate n;
    std::size_t axis = 0;
    index_t pair = 0;
    [[nodiscard]] double next() noexcept {
      for (; 2 * pair >= all.dims[axis]; ++axis) pair = 0;
      const double exponent = -2.0 * static_cast<double>(pair++) / static_cast<double>(all.dims[axis]);
      return n.at[axis] * std::pow(all.theta, exponent) / position::detail::two_pi;
    }
  };
  [[nodiscard]] ladder from(const coordinate& n, index_t) const noexcept { return {*this, n}; }
};
static_assert(position::frequencies<axial<2>>);

/// Each axis is a half-split block of its own.
template <int N> struct block_half {
  std::array<index_t, N> dims;

  [[nodiscard]] index_t first(index_t c, index_t) const noexcept { return channel(c, false); }
  [[nodiscard]] index_t second(index_t c, index_t) const noexcept { return channel(c, true); }

 private:
  [[nodiscard]] index_t channel(index_t c, bool second) const noexcept {
    index_t begin = 0;
    for (std::size_t axis = 0;; begin += dims[axis++]) {
      const index_t pairs = dims[axis] / 2;
      if (c < pairs) return begin + c + (second ? pairs : 0);
      c -= pairs;
    }
  }
};
static_assert(position::rotary_layout<block_half<3>>);

/// A ladder for each head; pair c belongs to axis c / entries.
template <int N> struct theta_per_head {
  using coordinate = std::conditional_t<N == 1, double, position::point<N>>;
  tensor_view<const float, 2> theta;  ///< [heads, entries], radians per step of the axis

  struct ladder {
    const theta_per_head& all;
    coordinate n;
    index_t head, pair = 0;
    [[nodiscard]] double next() noexcept {
      const index_t entries = all.theta.extent(1), c = pair++;
      return axis(n, c / entries) * static_cast<double>(all.theta(head, c % entries)) / position::detail::two_pi;
    }
  };
  [[nodiscard]] ladder from(const coordinate& n, index_t head, index_t) const noexcept { return {*this, n, head}; }
};
static_assert(position::per_head<position::rotary<position::interleaved, theta_per_head<1>>>);

}  // namespace seqprim::test
