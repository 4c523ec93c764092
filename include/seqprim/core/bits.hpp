// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/config.hpp>

#include <cstdint>

namespace seqprim {

/// std::bit_cast that device code may call too, without <bit>.
template <class To, class From>
requires(sizeof(To) == sizeof(From)) [[nodiscard]] SEQPRIM_HD constexpr To bit_cast(const From& from) noexcept {
  return __builtin_bit_cast(To, from);
}

/// The position of the lowest bit that is set; `word` is not 0.
[[nodiscard]] SEQPRIM_HD int lowest_bit(std::uint32_t word) noexcept {
#if defined(__CUDA_ARCH__)
  return __ffs(static_cast<int>(word)) - 1;
#else
  return __builtin_ctz(word);
#endif
}

}  // namespace seqprim
