// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/tensor_view.hpp>

#include <cmath>
#include <concepts>
#include <type_traits>

namespace seqprim::position {

/// Frequencies of a rotary encoding: `from(coordinate, rotary_dim)`, or `from(coordinate, head, rotary_dim)` where heads differ,
/// returns a ladder, and each call of `next()` the angle of the next pair of channels in whole turns, in double. A type of
/// its own may read points: pairs that belong to different axes are a matter of the ladder alone.
template <class F>
concept frequencies_of_all_heads = requires(const F& f, const typename F::coordinate& n, index_t rotary_dim) {
  { f.from(n, rotary_dim).next() } -> std::same_as<double>;
};
template <class F>
concept frequencies_by_head = requires(const F& f, const typename F::coordinate& n, index_t head, index_t rotary_dim) {
  { f.from(n, head, rotary_dim).next() } -> std::same_as<double>;
};
template <class F>
concept frequencies = std::is_trivially_copyable_v<F> &&(frequencies_of_all_heads<F> || frequencies_by_head<F>);

namespace detail {

inline constexpr double two_pi = 6.283185307179586477;

/// The angle n * frequency in turns, formed and rounded in float as most frameworks do.
[[nodiscard]] SEQPRIM_HD double turns_in_float(double n, float frequency) noexcept {
  return static_cast<double>(static_cast<float>(n) * frequency) / two_pi;
}

}  // namespace detail

/// The usual frequencies, theta^(-2c / rotary_dim) for pair c.
///
/// Errors  precondition_error: theta is not finite and > 0.
struct geometric {
  using coordinate = double;

  double theta = 10000;      ///< base
  bool fp32_angles = false;  ///< reproduce frameworks that form angles in float

  /// The angles of one position, pair after pair.
  struct ladder {
    double turns, ratio, theta;
    bool fp32_angles;
    index_t rotary_dim, pair = 0;

    [[nodiscard]] SEQPRIM_HD double next() noexcept {
      if (fp32_angles) {
        const double exponent = static_cast<double>(2 * pair++) / static_cast<double>(rotary_dim);
        return detail::turns_in_float(turns, 1.0f / static_cast<float>(std::pow(theta, exponent)));
      }
      // Each frequency is the one before times a constant: in double the error of the product stays below 1e-15 of the
      // largest angle, because the angles shrink faster than the errors add up.
      const double now = turns;
      turns *= ratio;
      return now;
    }
  };
  [[nodiscard]] SEQPRIM_HD ladder from(double n, index_t rotary_dim) const noexcept {
    return {.turns = fp32_angles ? n : n / detail::two_pi,
            .ratio = fp32_angles ? 1.0 : std::pow(theta, -2.0 / static_cast<double>(rotary_dim)),
            .theta = theta,
            .fp32_angles = fp32_angles,
            .rotary_dim = rotary_dim};
  }

  void validate(index_t) const {
    SEQPRIM_EXPECTS(theta > 0 && std::isfinite(theta), "position::geometric: theta (", theta,
                    ") must be a finite number > 0. See docs/reference/position/frequencies.md");
  }
};
static_assert(frequencies<geometric>);

/// Any list of frequencies, one for each pair of channels: linear and NTK scaling, YaRN, Llama-3, LongRoPE are lists that are
/// computed once. What such a scaling multiplies vectors with is `rotary::attention_factor`.
///
/// Errors  precondition_error: not rotary_dim / 2 frequencies.
struct listed {
  using coordinate = double;

  tensor_view<const double, 1> inv_freq;  ///< [rotary_dim / 2], radians per token
  bool fp32_angles = false;               ///< reproduce frameworks that form angles in float

  /// The angles of one position, pair after pair.
  struct ladder {
    const double* frequency;
    index_t stride;
    double n;
    bool fp32_angles;

    [[nodiscard]] SEQPRIM_HD double next() noexcept {
      const double now = *frequency;
      frequency += stride;
      return fp32_angles ? detail::turns_in_float(n, static_cast<float>(now)) : n / detail::two_pi * now;
    }
  };
  [[nodiscard]] SEQPRIM_HD ladder from(double n, index_t) const noexcept {
    return {inv_freq.data, inv_freq.stride(0), n, fp32_angles};
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    visit(subject{"position::listed", "position/frequencies"}, "inv_freq", inv_freq);
  }

  void validate(index_t rotary_dim) const {
    SEQPRIM_EXPECTS(2 * inv_freq.extent(0) == rotary_dim, "position::listed: ", inv_freq.extent(0),
                    " frequencies for a rotary_dim of ", rotary_dim,
                    "; there must be one for each pair of channels. See docs/reference/position/frequencies.md");
  }
};
static_assert(frequencies<listed>);

}  // namespace seqprim::position
