// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/bits.hpp>
#include <seqprim/core/element.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/position/frequencies.hpp>
#include <seqprim/position/rule.hpp>

#include <cmath>
#include <concepts>
#include <cstdint>
#include <type_traits>

namespace seqprim::position {

/// Which channels of the rotary block [0, r) form pair c. Checkpoints are trained with one layout, and the wrong one gives
/// plausible nonsense: there is no default.
struct half_split {  ///< c and c + r/2: GPT-NeoX, Llama in Hugging Face format, Qwen
  SEQPRIM_HD static constexpr index_t first(index_t c, index_t) noexcept { return c; }
  SEQPRIM_HD static constexpr index_t second(index_t c, index_t pairs) noexcept { return c + pairs; }
};
struct interleaved {  ///< 2c and 2c + 1: GPT-J, the original Llama weights
  SEQPRIM_HD static constexpr index_t first(index_t c, index_t) noexcept { return 2 * c; }
  SEQPRIM_HD static constexpr index_t second(index_t c, index_t) noexcept { return 2 * c + 1; }
};
/// A layout: the two channels of pair c of `pairs`, a permutation of the rotary block.
template <class L> concept rotary_layout = std::is_trivially_copyable_v<L> && requires(const L& l, index_t c) {
  { l.first(c, c) } -> std::same_as<index_t>;
  { l.second(c, c) } -> std::same_as<index_t>;
};

/// Marks a missing layout, for one sentence at compile time.
struct layout_left_out {};

namespace detail {

template <class T> struct cosine_and_sine {
  T cosine;
  T sine;
};

/// The rest of an angle beyond whole quarters, in [-pi/4, pi/4], from the angle in whole turns; `quarters` is how many. Reduced
/// in double, so that cosine and sine in float are right to about one unit in the last place however large the angle was.
[[nodiscard]] SEQPRIM_HD float reduce_turns(double turns, std::int32_t& quarters) noexcept {
  const double rest = turns - std::floor(turns + 0.5);  // [-1/2, 1/2]
  const double whole = std::floor(rest * 4.0 + 0.5);    // -2 .. 2
  quarters = static_cast<std::int32_t>(whole);
  return static_cast<float>((rest - whole * 0.25) * two_pi);
}
/// No library call and no branch, so host and device agree and loops vectorize.
[[nodiscard]] SEQPRIM_HD cosine_and_sine<float> cosine_and_sine_of(float x, std::int32_t quarters) noexcept {
  const float xx = x * x;
  // Taylor series; the next terms are below 2e-9.
  const float s = x + x * xx * (-1.0f / 6 + xx * (1.0f / 120 + xx * (-1.0f / 5040 + xx * (1.0f / 362880))));
  const float c =
      1.0f + xx * (-0.5f + xx * (1.0f / 24 + xx * (-1.0f / 720 + xx * (1.0f / 40320 + xx * (-1.0f / 3628800)))));
  // Quarter 1 is (-s, c), 2 is (-c, -s), 3 is (s, -c).
  const auto bits = static_cast<std::uint32_t>(quarters);
  const auto c_bits = bit_cast<std::uint32_t>(c), s_bits = bit_cast<std::uint32_t>(s);
  const std::uint32_t exchanged = (c_bits ^ s_bits) & (0u - (bits & 1u));
  return {bit_cast<float>((c_bits ^ exchanged) ^ ((bits + 1u) & 2u) << 30),
          bit_cast<float>((s_bits ^ exchanged) ^ (bits & 2u) << 30)};
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
/// without default: `rotary<half_split>` or `rotary<interleaved>`. Other frequencies, and other coordinates than a number, are
/// the second template argument (frequencies.hpp).
///
/// Types   vectors float, float16, bfloat16 (arithmetic in float, one rounding) or double.
/// Edge    angles are reduced in double: cosines and sines are right to 1e-7 up to position 10^8, to 1e-6 up to 10^9.
///         `fp32_angles` of the frequencies forms them in float as most frameworks do, wrong by up to 0.03 at position 10^6.
/// Errors  precondition_error: rotary_dim odd or < 2, begin < 0, begin + rotary_dim > head_dim, attention_factor not finite;
///         those of the frequencies.
/// Cost    apply: 3 rotary_dim flop per vector. table: rotary_dim / 2 sines and cosines per token, for all heads.
/// Source  Su et al., "RoFormer: enhanced transformer with rotary position embedding".
template <class Layout = layout_left_out, class Frequencies = geometric> struct rotary {
  static_assert(
      rotary_layout<Layout>,
      "seqprim: a rotary encoding needs its layout: 'rotary<half_split>' (GPT-NeoX, Llama in Hugging Face format, "
      "Qwen) or 'rotary<interleaved>' (GPT-J, original Llama weights). See docs/reference/position/rotary.md");
  static_assert(
      frequencies<Frequencies>,
      "seqprim: the frequencies of a rotary encoding need 'coordinate' and 'from(coordinate, rotary_dim)'. See "
      "docs/reference/position/frequencies.md");
  using coordinate = typename Frequencies::coordinate;

  index_t rotary_dim = 0;      ///< channels that are rotated, even; 0: all of head_dim from `begin` on
  index_t begin = 0;           ///< first rotated channel
  Frequencies frequencies{};   ///< base or list of the frequencies
  float attention_factor = 1;  ///< multiplies cosines and sines
  Layout layout{};

  [[nodiscard]] SEQPRIM_HD constexpr index_t pairs() const noexcept { return rotary_dim / 2; }
  /// Cosines [pairs], then sines [pairs].
  [[nodiscard]] SEQPRIM_HD constexpr index_t table_size() const noexcept { return 2 * pairs(); }

  template <std::floating_point Angle>
  SEQPRIM_HD void table(const coordinate& n,
                        Angle* angles) const noexcept requires frequencies_of_all_heads<Frequencies> {
    fill(frequencies.from(n, rotary_dim), angles);
  }
  template <std::floating_point Angle>
  SEQPRIM_HD void table(const coordinate& n, index_t head,
                        Angle* angles) const noexcept requires frequencies_by_head<Frequencies> {
    fill(frequencies.from(n, head, rotary_dim), angles);
  }

  /// y = R x for one vector of head_dim channels; x may be y.
  template <element T, std::floating_point Angle>
  SEQPRIM_HD void apply(const T* x, T* y, const Angle* angles, index_t head_dim) const noexcept {
    rotate<false>(x, y, angles, head_dim);
  }

  /// dx = R^T dy, the gradient of apply: rotation by the opposite angle, attention_factor kept. dy may be dx.
  template <element T, std::floating_point Angle>
  SEQPRIM_HD void apply_transposed(const T* dy, T* dx, const Angle* angles, index_t head_dim) const noexcept {
    rotate<true>(dy, dx, angles, head_dim);
  }

  [[nodiscard]] SEQPRIM_HD constexpr rotary for_head_dim(index_t head_dim) const noexcept {
    rotary result = *this;
    if (rotary_dim == 0) result.rotary_dim = head_dim - begin;
    return result;
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    seqprim::for_arrays(frequencies, visit);
  }
  void validate() const {
    SEQPRIM_EXPECTS(rotary_dim >= 0 && rotary_dim % 2 == 0, "position::rotary: rotary_dim (", rotary_dim,
                    ") must be even and >= 2. See docs/reference/position/rotary.md");
    SEQPRIM_EXPECTS(begin >= 0, "position::rotary: begin (", begin,
                    ") must be >= 0. See docs/reference/position/rotary.md");
    SEQPRIM_EXPECTS(std::isfinite(attention_factor), "position::rotary: attention_factor (", attention_factor,
                    ") must be finite. See docs/reference/position/rotary.md");
    if constexpr (requires { frequencies.validate(rotary_dim); }) {
      if (rotary_dim > 0) frequencies.validate(rotary_dim);
    }
  }
  void validate(index_t head_dim) const {
    SEQPRIM_EXPECTS(rotary_dim >= 2, "position::rotary: rotary_dim (", rotary_dim,
                    ") must be even and >= 2. See docs/reference/position/rotary.md");
    SEQPRIM_EXPECTS(begin <= head_dim - rotary_dim, "position::rotary: begin (", begin, ") + rotary_dim (", rotary_dim,
                    ") must be <= head_dim (", head_dim, "). See docs/reference/position/rotary.md");
  }

 private:
  template <class Ladder, class Angle> SEQPRIM_HD void fill(Ladder ladder, Angle* angles) const noexcept {
    const auto factor = static_cast<Angle>(attention_factor);
    // Fixed blocks: the ladder is a chain, the sines and cosines of a block are computed side by side.
    constexpr index_t block = 16;
    for (index_t begin_of_block = 0; begin_of_block < pairs(); begin_of_block += block) {
      const index_t live = min(block, pairs() - begin_of_block);
      double turns[block] = {};
      Angle cosines[block], sines[block];
      for (index_t i = 0; i < live; ++i) turns[i] = ladder.next();
      if constexpr (std::same_as<Angle, float>) {
        float rest[block];
        std::int32_t quarters[block];
        for (index_t i = 0; i < block; ++i) rest[i] = detail::reduce_turns(turns[i], quarters[i]);
        for (index_t i = 0; i < block; ++i) {
          const auto [cosine, sine] = detail::cosine_and_sine_of(rest[i], quarters[i]);
          cosines[i] = cosine * factor;
          sines[i] = sine * factor;
        }
      } else {
        for (index_t i = 0; i < block; ++i) {
          const double angle = (turns[i] - std::floor(turns[i] + 0.5)) * detail::two_pi;
          cosines[i] = std::cos(angle) * factor;
          sines[i] = std::sin(angle) * factor;
        }
      }
      for (index_t i = 0; i < live; ++i) angles[begin_of_block + i] = cosines[i];
      for (index_t i = 0; i < live; ++i) angles[pairs() + begin_of_block + i] = sines[i];
    }
  }

  template <bool Transposed, class T, class Angle>
  SEQPRIM_HD void rotate(const T* x, T* y, const Angle* angles, index_t head_dim) const noexcept {
    if (x != y) {
      for (index_t d = 0; d < begin; ++d) y[d] = x[d];
      for (index_t d = begin + rotary_dim; d < head_dim; ++d) y[d] = x[d];
    }
    // Fixed blocks in local arrays: the compiler need not know that x, y and the tables do not overlap to vectorize them.
    constexpr index_t block = 16;
    index_t c = 0;
    for (; c + block <= pairs(); c += block) rotate_block<Transposed, block>(x, y, angles, c);
    for (; c < pairs(); ++c) rotate_block<Transposed, 1>(x, y, angles, c);
  }

  template <bool Transposed, index_t Block, class T, class Angle>
  SEQPRIM_HD void rotate_block(const T* x, T* y, const Angle* angles, index_t c) const noexcept {
    using A = accumulator<T>;
    A first[Block];
    A second[Block];
    for (index_t i = 0; i < Block; ++i) {
      const A x1 = static_cast<A>(x[begin + layout.first(c + i, pairs())]);
      const A x2 = static_cast<A>(x[begin + layout.second(c + i, pairs())]);
      const A cosine = static_cast<A>(angles[c + i]);
      const A sine = static_cast<A>(Transposed ? -angles[pairs() + c + i] : angles[pairs() + c + i]);
      first[i] = x1 * cosine - x2 * sine;
      second[i] = x2 * cosine + x1 * sine;
    }
    for (index_t i = 0; i < Block; ++i) y[begin + layout.first(c + i, pairs())] = static_cast<T>(first[i]);
    for (index_t i = 0; i < Block; ++i) y[begin + layout.second(c + i, pairs())] = static_cast<T>(second[i]);
  }
};
static_assert(encoding<rotary<half_split>> && encoding<rotary<interleaved, listed>>);

}  // namespace seqprim::position
