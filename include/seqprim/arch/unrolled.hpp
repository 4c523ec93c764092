// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>
#include <utility>

namespace seqprim::arch {

/// Calls body(std::integral_constant<int, 0>) ... body(std::integral_constant<int, N - 1>): a loop that is gone after
/// compilation, so that arrays indexed by it live in registers.
template <int N, class Body> [[gnu::always_inline]] inline void unrolled(Body&& body) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, I>{}), ...);
  }
  (std::make_integer_sequence<int, N>{});
}

}  // namespace seqprim::arch
