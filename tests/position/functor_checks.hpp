// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index.hpp>
#include <seqprim/position/none.hpp>
#include <seqprim/position/packed.hpp>
#include <seqprim/position/rotary.hpp>
#include <seqprim/position/sequential.hpp>
#include <seqprim/position/token_ids.hpp>

/// Checks of the position encodings that run on the host and on the device from one source: no test framework inside.
namespace seqprim::test {

/// Number of wrong answers of one rotary encoding; 0 is right. Cosines and sines are compared with those of the angle
/// reduced in double; apply_transposed must undo apply.
template <class Layout> SEQPRIM_HD int rotary_faults(const position::rotary<Layout>& r, index_t head_dim) noexcept {
  constexpr index_t most = 64;
  float table[most], x[most], y[most], z[most];
  const index_t positions[] = {0, 1, 17, -5, 4095, 131072, 99999999};
  const auto near = [](double a, double b, double tolerance) { return a - b <= tolerance && b - a <= tolerance; };
  int faults = 0;
  for (const index_t n : positions) {
    r.table(static_cast<double>(n), table);
    for (index_t c = 0; c < r.pairs(); ++c) {
      const double frequency =
          std::pow(r.frequencies.theta, -2.0 * static_cast<double>(c) / static_cast<double>(r.rotary_dim));
      const double angle = std::fmod(static_cast<double>(n) * frequency, 6.283185307179586477);
      const double factor = static_cast<double>(r.attention_factor);
      faults += !near(static_cast<double>(table[c]), factor * std::cos(angle), 1e-7 * factor);
      faults += !near(static_cast<double>(table[r.pairs() + c]), factor * std::sin(angle), 1e-7 * factor);
    }
    for (index_t d = 0; d < head_dim; ++d) x[d] = static_cast<float>(d % 7) - 2.5f;
    r.apply(x, y, table, head_dim);
    r.apply_transposed(y, z, table, head_dim);
    const float scale = r.attention_factor * r.attention_factor;
    for (index_t d = 0; d < head_dim; ++d) {
      const bool rotated = r.begin <= d && d < r.begin + r.rotary_dim;
      faults += !near(static_cast<double>(z[d]), static_cast<double>(rotated ? scale * x[d] : x[d]), 4e-6);
      faults += !rotated && y[d] != x[d];
    }
  }
  return faults;
}

SEQPRIM_HD int all_position_faults() noexcept {
  int faults = 0;
  faults += rotary_faults(position::rotary<position::half_split>{.rotary_dim = 64}, 64);
  faults +=
      rotary_faults(position::rotary<position::interleaved>{.rotary_dim = 64, .frequencies = {.theta = 500000.0}}, 64);
  faults += rotary_faults(
      position::rotary<position::half_split>{.rotary_dim = 34, .begin = 6, .attention_factor = 1.25f}, 48);
  faults += rotary_faults(position::rotary<position::interleaved>{.rotary_dim = 2, .begin = 3}, 5);
  const std::int64_t ids[] = {4, 0, 9};
  faults += position::token_ids{.ids = {ids, 3}}(2) != 9;
  faults += position::sequential{.start = 5}(2) != 7;
  const std::int64_t q_offsets[] = {0, 2, 3}, k_offsets[] = {0, 5, 9};
  const packing sequences{{q_offsets, 3}, {k_offsets, 3}};
  faults += position::packed_queries{sequences}(1) != 4;
  faults += position::packed_keys{sequences}(7) != 2;
  return faults;
}

}  // namespace seqprim::test
