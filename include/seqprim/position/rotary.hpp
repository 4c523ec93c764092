// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/element.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/position/rule.hpp>

#include <cmath>
#include <concepts>
#include <type_traits>

namespace seqprim::position {

/// Which channels of the rotary block [0, r) form pair c. Checkpoints are trained with one of the two, and the wrong one
/// gives plausible nonsense: there is no default.
struct half_split {  ///< c and c + r/2: GPT-NeoX, Llama in Hugging Face format, Qwen
  SEQPRIM_HD static constexpr index_t first(index_t c, index_t) noexcept { return c; }
  SEQPRIM_HD static constexpr index_t second(index_t c, index_t pairs) noexcept { return c + pairs; }
};
struct interleaved {  ///< 2c and 2c + 1: GPT-J, the original Llama weights
  SEQPRIM_HD static constexpr index_t first(index_t c, index_t) noexcept { return 2 * c; }
  SEQPRIM_HD static constexpr index_t second(index_t c, index_t) noexcept { return 2 * c + 1; }
};
template <class L> concept rotary_layout = std::same_as<L, half_split> || std::same_as<L, interleaved>;

/// Stands where the layout was left out, so that one sentence can say so.
struct layout_left_out {};

namespace detail {

template <class T> struct cosine_and_sine {
  T cosine;
  T sine;
};

/// Cosine and sine of an angle in whole turns. The turns are reduced in double, so the float result is right to about one
/// unit in the last place however large the angle was; no library call, so host and device agree and loops vectorize.
SEQPRIM_HD cosine_and_sine<float> of_turns(double turns, float) noexcept {
  const double rest = turns - std::floor(turns + 0.5);                                 // [-1/2, 1/2]
  const double quarters = std::floor(rest * 4.0 + 0.5);                                // -2 .. 2
  const auto x = static_cast<float>((rest - quarters * 0.25) * 6.283185307179586477);  // [-pi/4, pi/4]
  const auto quarter = static_cast<int>(quarters);
  const float xx = x * x;
  // Taylor series; the next terms are below 2e-9.
  const float s = x + x * xx * (-1.0f / 6 + xx * (1.0f / 120 + xx * (-1.0f / 5040 + xx * (1.0f / 362880))));
  const float c =
      1.0f + xx * (-0.5f + xx * (1.0f / 24 + xx * (-1.0f / 720 + xx * (1.0f / 40320 + xx * (-1.0f / 3628800)))));
  const bool odd = (quarter & 1) != 0;
  const float cosine = odd ? s : c;
  const float sine = odd ? c : s;
  return {((quarter + 1) & 2) != 0 ? -cosine : cosine, (quarter & 2) != 0 ? -sine : sine};
}
SEQPRIM_HD cosine_and_sine<double> of_turns(double turns, double) noexcept {
  const double angle = (turns - std::floor(turns + 0.5)) * 6.283185307179586477;
  return {std::cos(angle), std::sin(angle)};
}

}  // namespace detail

/// Rotary position encoding (RoPE): rotates pairs of channels by an angle that grows with the position, so that
/// <rotated q, rotated k> depends on the difference of the positions only.
///
///     angle(n, c) = n * theta^(-2c / rotary_dim),   c in [0, rotary_dim / 2)
///     (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)
///
/// Acts on channels [begin, begin + rotary_dim) of head_dim; the others pass through (partial rotary). attention_factor
/// multiplies cosines and sines, so that logits are scaled by its square. The pairing of channels is a template argument
/// without default: `rotary<half_split>` or `rotary<interleaved>`.
///
/// Types   vectors float, float16, bfloat16 (arithmetic in float, one rounding) or double; positions any index_t.
/// Edge    angles are reduced in double: cosines and sines are right to 1e-7 up to position 10^8, to 1e-6 up to 10^9.
///         `fp32_angles` forms them in float as most frameworks do, wrong by up to 0.03 at position 10^6.
/// Errors  precondition_error: rotary_dim odd or < 2, begin < 0, begin + rotary_dim > head_dim, theta not a finite
///         number > 0, attention_factor not finite.
/// Cost    rotate: 3 rotary_dim flop per vector. angles: rotary_dim / 2 sines and cosines per token, for all heads.
/// Source  spec positions 1; golden positions/rope_default_*, rope_apply_*, rope_layout_permutation, rope_high_positions_d64.
template <class Layout = layout_left_out> struct rotary {
  static_assert(
      rotary_layout<Layout>,
      "seqprim: a rotary encoding needs its layout: 'rotary<half_split>' (GPT-NeoX, Llama in Hugging Face format, "
      "Qwen) or 'rotary<interleaved>' (GPT-J, original Llama weights). See docs/reference/position/rotary.md");

  index_t rotary_dim;          ///< channels that are rotated, even
  index_t begin = 0;           ///< first rotated channel
  double theta = 10000;        ///< base of the ladder of frequencies
  float attention_factor = 1;  ///< multiplies cosines and sines
  bool fp32_angles = false;    ///< reproduce frameworks that form angles in float

  using layout = Layout;

  /// Width of the tables of cosines and sines.
  [[nodiscard]] SEQPRIM_HD constexpr index_t pairs() const noexcept { return rotary_dim / 2; }

  /// Fills cosines[pairs()] and sines[pairs()] for one position. Table may be float or double.
  template <std::floating_point Angle>
  SEQPRIM_HD void angles(index_t position, Angle* cosines, Angle* sines) const noexcept {
    const auto factor = static_cast<Angle>(attention_factor);
    if (fp32_angles) {
      for (index_t c = 0; c < pairs(); ++c) {
        const double exponent = static_cast<double>(2 * c) / static_cast<double>(rotary_dim);
        const float frequency = 1.0f / static_cast<float>(std::pow(theta, exponent));
        const double angle = static_cast<double>(static_cast<float>(position) * frequency);
        cosines[c] = static_cast<Angle>(std::cos(angle)) * factor;
        sines[c] = static_cast<Angle>(std::sin(angle)) * factor;
      }
      return;
    }
    // Each frequency is the one before times a constant: in double the error of the product stays below 1e-15 of the
    // largest angle, because the angles shrink faster than the errors add up.
    const double ratio = std::pow(theta, -2.0 / static_cast<double>(rotary_dim));
    double turns = static_cast<double>(position) / 6.283185307179586477;
    for (index_t c = 0; c < pairs(); ++c, turns *= ratio) {
      const auto [cosine, sine] = detail::of_turns(turns, Angle{});
      cosines[c] = cosine * factor;
      sines[c] = sine * factor;
    }
  }

  /// y = R x for one vector of head_dim numbers; x may be y.
  template <element T, std::floating_point Angle>
  SEQPRIM_HD void rotate(const T* x, T* y, const Angle* cosines, const Angle* sines, index_t head_dim) const noexcept {
    turn<false>(x, y, cosines, sines, head_dim);
  }

  /// y = R^T x, the gradient of rotate: rotation by the opposite angle, attention_factor kept. x may be y.
  template <element T, std::floating_point Angle>
  SEQPRIM_HD void rotate_back(const T* x, T* y, const Angle* cosines, const Angle* sines,
                              index_t head_dim) const noexcept {
    turn<true>(x, y, cosines, sines, head_dim);
  }

  void validate() const {
    SEQPRIM_EXPECTS(rotary_dim >= 2 && rotary_dim % 2 == 0, "position::rotary: rotary_dim (", rotary_dim,
                    ") must be even and >= 2. See docs/reference/position/rotary.md");
    SEQPRIM_EXPECTS(begin >= 0, "position::rotary: begin (", begin,
                    ") must be >= 0. See docs/reference/position/rotary.md");
    SEQPRIM_EXPECTS(theta > 0 && std::isfinite(theta), "position::rotary: theta (", theta,
                    ") must be a finite number > 0. See docs/reference/position/rotary.md");
    SEQPRIM_EXPECTS(std::isfinite(attention_factor), "position::rotary: attention_factor (", attention_factor,
                    ") must be finite. See docs/reference/position/rotary.md");
  }
  void validate(index_t head_dim) const {
    SEQPRIM_EXPECTS(begin <= head_dim - rotary_dim, "position::rotary: begin (", begin, ") + rotary_dim (", rotary_dim,
                    ") must be <= head_dim (", head_dim, "). See docs/reference/position/rotary.md");
  }

 private:
  template <bool Back, class T, class Angle>
  SEQPRIM_HD void turn(const T* x, T* y, const Angle* cosines, const Angle* sines, index_t head_dim) const noexcept {
    if (x != y) {
      for (index_t d = 0; d < begin; ++d) y[d] = x[d];
      for (index_t d = begin + rotary_dim; d < head_dim; ++d) y[d] = x[d];
    }
    // Fixed blocks in local arrays: the compiler need not know that x, y and the tables do not overlap to vectorize them.
    constexpr index_t block = 16;
    index_t c = 0;
    for (; c + block <= pairs(); c += block) turn_block<Back, block>(x, y, cosines, sines, c);
    for (; c < pairs(); ++c) turn_block<Back, 1>(x, y, cosines, sines, c);
  }

  template <bool Back, index_t Block, class T, class Angle>
  SEQPRIM_HD void turn_block(const T* x, T* y, const Angle* cosines, const Angle* sines, index_t c) const noexcept {
    using A = accumulator<T>;
    A first[Block];
    A second[Block];
    for (index_t i = 0; i < Block; ++i) {
      const A x1 = static_cast<A>(x[begin + Layout::first(c + i, pairs())]);
      const A x2 = static_cast<A>(x[begin + Layout::second(c + i, pairs())]);
      const A cosine = static_cast<A>(cosines[c + i]);
      const A sine = static_cast<A>(Back ? -sines[c + i] : sines[c + i]);
      first[i] = x1 * cosine - x2 * sine;
      second[i] = x2 * cosine + x1 * sine;
    }
    for (index_t i = 0; i < Block; ++i) y[begin + Layout::first(c + i, pairs())] = static_cast<T>(first[i]);
    for (index_t i = 0; i < Block; ++i) y[begin + Layout::second(c + i, pairs())] = static_cast<T>(second[i]);
  }
};
static_assert(encoding<rotary<half_split>> && encoding<rotary<interleaved>>);

}  // namespace seqprim::position
