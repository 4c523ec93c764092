// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/config.hpp>

namespace seqprim {

/// std::bit_cast that device code may call too, without <bit>.
template <class To, class From>
requires(sizeof(To) == sizeof(From)) [[nodiscard]] SEQPRIM_HD constexpr To bit_cast(const From& from) noexcept {
  return __builtin_bit_cast(To, from);
}

}  // namespace seqprim
