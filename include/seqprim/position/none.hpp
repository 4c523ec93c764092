// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/position/rule.hpp>

#include <concepts>

namespace seqprim::position {

/// No position encoding (NoPE): vectors stay as they are. Kernels drop it at compile time: `encodes<none>` is false.
///
/// Source  spec positions 0, 6.
struct none {
  SEQPRIM_HD static constexpr index_t pairs() noexcept { return 0; }
  template <std::floating_point Angle> SEQPRIM_HD static constexpr void angles(index_t, Angle*, Angle*) noexcept {}
  template <element T, std::floating_point Angle>
  SEQPRIM_HD static constexpr void rotate(const T* x, T* y, const Angle*, const Angle*, index_t head_dim) noexcept {
    if (x == y) return;
    for (index_t d = 0; d < head_dim; ++d) y[d] = x[d];
  }
  template <element T, std::floating_point Angle>
  SEQPRIM_HD static constexpr void rotate_back(const T* x, T* y, const Angle* cosines, const Angle* sines,
                                               index_t head_dim) noexcept {
    rotate(x, y, cosines, sines, head_dim);
  }
  static constexpr void validate() noexcept {}
  static constexpr void validate(index_t) noexcept {}
};
static_assert(encoding<none>);

/// True when an encoding changes anything; what it guards costs nothing otherwise.
template <encoding E> inline constexpr bool encodes = !std::same_as<E, none>;

}  // namespace seqprim::position
