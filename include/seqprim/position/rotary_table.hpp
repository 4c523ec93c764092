// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/isa.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/position/rotary.hpp>

namespace seqprim::position {

/// A rotary encoding that looks its cosines and sines up: made by `rotary_table::view`, used like `rotary` itself. Positions
/// must lie in [0, positions of the table); float tables only.
template <rotary_layout Layout> struct tabled_rotary {
  rotary<Layout> encoding;
  tensor_view<const float, 2> cosines;  ///< [positions, pairs]
  tensor_view<const float, 2> sines;    ///< [positions, pairs]

  [[nodiscard]] SEQPRIM_HD constexpr index_t pairs() const noexcept { return encoding.pairs(); }

  template <std::floating_point Angle>
  SEQPRIM_HD void angles(index_t position, Angle* cosine, Angle* sine) const noexcept {
    for (index_t c = 0; c < pairs(); ++c) cosine[c] = static_cast<Angle>(cosines(position, c));
    for (index_t c = 0; c < pairs(); ++c) sine[c] = static_cast<Angle>(sines(position, c));
  }

  template <element T, std::floating_point Angle>
  SEQPRIM_HD void rotate(const T* x, T* y, const Angle* cosine, const Angle* sine, index_t head_dim) const noexcept {
    encoding.rotate(x, y, cosine, sine, head_dim);
  }
  template <element T, std::floating_point Angle>
  SEQPRIM_HD void rotate_back(const T* x, T* y, const Angle* cosine, const Angle* sine,
                              index_t head_dim) const noexcept {
    encoding.rotate_back(x, y, cosine, sine, head_dim);
  }

  /// encode() asks this for every position before it writes.
  [[nodiscard]] SEQPRIM_HD constexpr bool covers(index_t position) const noexcept {
    return 0 <= position && position < cosines.extent(0);
  }

  void validate() const { encoding.validate(); }
  void validate(index_t head_dim) const { encoding.validate(head_dim); }
};

/// The cosines and sines of all positions in [0, positions), computed once for all layers, heads and steps.
///
/// Errors  precondition_error: the encoding's own rules are broken, positions < 0.
/// Repeat  bit for bit the angles that `rotary` computes itself, for any number of threads.
/// Cost    memory: 4 * rotary_dim bytes a position.
template <rotary_layout Layout, class Isa = arch::native_isa> class rotary_table {
 public:
  rotary_table(const cpu& executor, const rotary<Layout>& encoding, index_t positions) : encoding_(encoding) {
    executor.validate();
    encoding.validate();
    SEQPRIM_EXPECTS(positions >= 0, "position::rotary_table: positions (", positions,
                    ") must be >= 0. See docs/reference/position/rotary_table.md");
    cosines_ = tensor<float, 2>(positions, encoding.pairs());
    sines_ = tensor<float, 2>(positions, encoding.pairs());
    constexpr index_t block = 64;
    parallel_for(executor, ceil_div(positions, block), [&](index_t piece, int) {
      for (index_t n = piece * block; n < min((piece + 1) * block, positions); ++n)
        encoding_.angles(n, &cosines_(n, 0), &sines_(n, 0));
    });
  }

  [[nodiscard]] index_t positions() const noexcept { return cosines_.extent(0); }
  [[nodiscard]] tensor_view<const float, 2> cosines() const noexcept { return cosines_.view(); }
  [[nodiscard]] tensor_view<const float, 2> sines() const noexcept { return sines_.view(); }

  /// The encoding that reads this table; valid while the table lives.
  [[nodiscard]] tabled_rotary<Layout> view() const noexcept {
    return {.encoding = encoding_, .cosines = cosines_.view(), .sines = sines_.view()};
  }

 private:
  rotary<Layout> encoding_;
  tensor<float, 2> cosines_;
  tensor<float, 2> sines_;
};

}  // namespace seqprim::position
