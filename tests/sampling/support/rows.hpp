// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/tensor.hpp>
#include <seqprim/sampling/reference.hpp>
#include <seqprim/sampling/sampling.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <support/catch.hpp>
#include <support/random.hpp>
#include <vector>

namespace seqprim::test {

inline constexpr float infinity = std::numeric_limits<float>::infinity();
inline constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

/// The kinds of rows that samplers meet, in rotation: smooth, many exact ties, excluded tokens, all equal, huge, both
/// zeros. Never all excluded.
inline std::vector<float> random_row(random_numbers& random, index_t vocab, int kind) {
  std::vector<float> row(static_cast<std::size_t>(vocab));
  for (float& x : row) {
    const float n = random.normal();
    switch (kind % 6) {
      case 0: x = 3.0f * n; break;
      case 1: x = 0.5f * std::floor(2.0f * n); break;
      case 2: x = random.integer(0, 2) == 0 ? -infinity : 2.0f * n; break;
      case 3: x = -1.25f; break;
      case 4: x = 1e4f * n; break;
      default: x = n > 1.0f ? n : n > 0.0f ? 0.0f : -0.0f; break;
    }
  }
  if (kind % 6 == 2) row[static_cast<std::size_t>(random.integer(0, vocab - 1))] = 0.5f;
  return row;
}

inline tensor_view<const float, 1> view_of(const std::vector<float>& row) {
  return tensor_view<const float, 1>(row.data(), static_cast<index_t>(row.size()));
}
inline tensor_view<float, 1> view_of(std::vector<float>& row) {
  return tensor_view<float, 1>(row.data(), static_cast<index_t>(row.size()));
}

/// The logits that the library leaves; -inf where a token was dropped.
template <class Stages> std::vector<float> applied(const Stages& stages, const std::vector<float>& row) {
  std::vector<float> out(row.size(), not_a_number);
  sampling::apply(cpu{}, stages, view_of(row), view_of(out));
  return out;
}

/// The logits that the definition leaves.
template <class Stages> std::vector<float> defined(const Stages& stages, std::vector<float> row) {
  sampling::reference::apply(stages, row);
  return row;
}

/// How far the nearest cumulative probability of the total order is from `mass`: below the rounding of the definition,
/// either answer is right.
inline double margin_of_mass(const std::vector<float>& row, double mass) {
  const auto p = sampling::reference::softmax(row);
  double before = 0, margin = 1;
  for (const std::size_t token : sampling::reference::total_order(row)) {
    if (before > 0) margin = std::min(margin, std::fabs(before - mass));
    before += p[token];
  }
  return margin;
}

}  // namespace seqprim::test
