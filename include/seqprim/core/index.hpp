// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/config.hpp>

#include <cstdint>

namespace seqprim {

/// Lengths, positions and offsets. Signed 64-bit, so that differences need no care.
using index_t = std::int64_t;

/// Half-open range of indices [begin, end). Empty when end <= begin.
struct range {
  index_t begin = 0;
  index_t end = 0;

  [[nodiscard]] SEQPRIM_HD constexpr index_t size() const noexcept { return end > begin ? end - begin : 0; }
  [[nodiscard]] SEQPRIM_HD constexpr bool empty() const noexcept { return end <= begin; }
  [[nodiscard]] SEQPRIM_HD constexpr bool contains(index_t i) const noexcept { return begin <= i && i < end; }
  friend constexpr bool operator==(const range&, const range&) = default;
};

/// The indices that are in both ranges.
[[nodiscard]] SEQPRIM_HD constexpr range intersect(range a, range b) noexcept {
  return {a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end};
}

/// The smallest range that holds both; an empty range adds nothing.
[[nodiscard]] SEQPRIM_HD constexpr range bounding_range(range a, range b) noexcept {
  if (a.empty()) return b;
  if (b.empty()) return a;
  return {a.begin < b.begin ? a.begin : b.begin, a.end > b.end ? a.end : b.end};
}

/// ceil(a / b) for a >= 0, b > 0; never overflows.
[[nodiscard]] SEQPRIM_HD constexpr index_t ceil_div(index_t a, index_t b) noexcept {
  return a / b + (a % b != 0 ? 1 : 0);
}

/// The smallest multiple of b that is >= a, for a >= 0, b > 0.
[[nodiscard]] SEQPRIM_HD constexpr index_t round_up(index_t a, index_t b) noexcept { return ceil_div(a, b) * b; }

/// The largest integer <= a / b, and what is left of a: a = floor_div(a, b) * b + floor_mod(a, b), 0 <= floor_mod < b; for b > 0.
[[nodiscard]] SEQPRIM_HD constexpr index_t floor_div(index_t a, index_t b) noexcept {
  return a / b - (a % b < 0 ? 1 : 0);
}
[[nodiscard]] SEQPRIM_HD constexpr index_t floor_mod(index_t a, index_t b) noexcept {
  const index_t rest = a % b;
  return rest < 0 ? rest + b : rest;
}

/// The smaller and the larger; the first operand where neither is, as with NaN. Named apart from the min and max of std and
/// CUDA, so that a program may say `using namespace` for several; <algorithm> costs more to include than all of core.
template <class T> [[nodiscard]] SEQPRIM_HD constexpr T min_of(T a, T b) noexcept { return b < a ? b : a; }
template <class T> [[nodiscard]] SEQPRIM_HD constexpr T max_of(T a, T b) noexcept { return a < b ? b : a; }

template <class T> [[nodiscard]] SEQPRIM_HD constexpr T min(T a, T b) noexcept { return b < a ? b : a; }
template <class T> [[nodiscard]] SEQPRIM_HD constexpr T max(T a, T b) noexcept { return a < b ? b : a; }

}  // namespace seqprim
