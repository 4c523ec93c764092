// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index.hpp>
#include <seqprim/score/score.hpp>

/// Checks of the score modifiers that run on the host and on the device from one source: no test framework inside.
namespace seqprim::test {

template <class T> SEQPRIM_HD constexpr T distance(T a, T b) noexcept { return a < b ? b - a : a - b; }

/// How often the derivative disagrees with the slope of the modifier itself between two points 1/8 apart, over logits in
/// [-24, 24]. The secant over h differs from the derivative by at most h^2 / 24 times the third derivative (<= 2 / cap^2).
template <class S> SEQPRIM_HD constexpr int derivative_faults(const S& s, score::site at) noexcept {
  int faults = 0;
  constexpr float h = 0.125f;
  for (int i = -192; i <= 192; ++i) {
    const float x = static_cast<float>(i) * h;
    const float secant = (s(x + 0.5f * h, at) - s(x - 0.5f * h, at)) / h;
    if (!(distance(secant, s.derivative(x, at)) <= 2e-4f)) ++faults;
  }
  return faults;
}

/// Number of wrong answers of all modifiers; 0 is right.
SEQPRIM_HD constexpr int all_score_faults() noexcept {
  const score::site at{7, 3};
  const score::soft_cap cap{8.0f};
  const score::alibi alibi{.heads = 6};
  const float slopes[] = {0.5f, 0.25f};
  const score::alibi_table table{.slopes = tensor_view<const float, 1>(slopes, 2), .bidirectional = true};
  int faults = 0;
  faults += derivative_faults(score::identity{}, at);
  faults += derivative_faults(cap, at);
  for (index_t head = 0; head < 6; ++head) faults += derivative_faults(score::bind(cap | alibi, 0, head), at);
  faults += derivative_faults(score::bind(alibi | cap, 0, 5), at);
  faults += score::bind(table, 0, 1)(1.0f, {2, 6}) != 0.0f;
  faults += score::bind(alibi, 0, 3)(1.0f, at) != 1.0f - 4.0f / 256.0f;
  const std::int64_t q_offsets[] = {0, 2, 3}, k_offsets[] = {0, 5, 9};
  const score::packed within{packing{{q_offsets, 3}, {k_offsets, 3}}, alibi};
  faults += derivative_faults(score::bind(within, 0, 1), {2, 7});
  faults += score::bind(within, 0, 3)(1.0f, {2, 6}) != score::bind(alibi, 0, 3)(1.0f, {3, 1});
  const float values[] = {1.0f, -2.0f, 0.5f, 4.0f, 3.0f, -0.25f, 0.125f, 0.75f};
  const score::key_bias keys{tensor_view<const float, 3>(values, 1, 2, 4)};
  const score::query_scale queries{tensor_view<const float, 3>(values, 1, 1, 8)};
  const score::relative_bias distances{tensor_view<const float, 2>(values, 2, 4), -2};
  faults += derivative_faults(score::bind(keys | cap | queries | distances, 0, 1), at);
  faults += score::bind(keys, 0, 1)(1.0f, at) != 1.75f;
  faults += score::bind(queries, 0, 1)(2.0f, at) != 1.5f;
  faults += score::bind(distances, 0, 1)(1.0f, at) != 4.0f;       // before the first distance
  faults += score::bind(distances, 0, 1)(1.0f, {7, 8}) != 1.75f;  // the last one
  faults += score::constant{2.0f}(1.0f, at) != 2.0f || score::constant{2.0f}.derivative(1.0f, at) != 0.0f;
  faults += !(cap(1e30f, at) == 8.0f && cap(-1e30f, at) == -8.0f && cap(0.0f, at) == 0.0f);
  for (int i = -4000; i < 4000; ++i) {
    const float x = static_cast<float>(i) * 0.01f;
    faults += cap(-x, at) != -cap(x, at);
    faults += !(cap(x, at) <= cap(x + 0.01f, at));
    faults += !(distance(cap(x, at), x) <= (x < 0 ? -x : x));
  }
  return faults;
}

}  // namespace seqprim::test
