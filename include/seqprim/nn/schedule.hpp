// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/constants.hpp>
#include <seqprim/core/index.hpp>
#include <seqprim/core/subject.hpp>

#include <cmath>

/// Learning rate schedules over the steps 0, 1, ...: values that are called with a step. All begin with a linear
/// warm-up over [0, warmup): base * step / warmup, which is 0 at step 0; warmup = 0 means none. `total` counts all
/// steps.
///
/// Errors  validate() throws precondition_error: warmup < 0, total <= warmup, a rate that is not finite, a ratio
///         outside [0, 1]. Calls do not check.
/// Source  Loshchilov and Hutter, "SGDR" (cosine); Vaswani et al., "Attention is all you need" (inverse square root);
///         Hu et al., "MiniCPM" (warmup-stable-decay).  Page docs/reference/nn/schedule.md
namespace seqprim::nn {

namespace detail {

[[nodiscard]] constexpr double progress(index_t step, index_t warmup, index_t total) noexcept {
  return static_cast<double>(step - warmup) / static_cast<double>(total - warmup);
}
/// From 1 at 0 to 0 at 1, and up again beyond.
[[nodiscard]] inline double half_cosine(double part) noexcept { return 0.5 * (1 + std::cos(constants::pi * part)); }

[[nodiscard]] constexpr double ramp(index_t step, index_t warmup) noexcept {
  return static_cast<double>(step) / static_cast<double>(warmup);
}

inline void check_schedule(const subject& self, double base, index_t warmup, index_t total, double ratio = 0) {
  self.expects(std::isfinite(base), "base must be finite");
  self.expects(warmup >= 0, "warmup (", warmup, ") must be >= 0");
  self.expects(total > warmup, "total (", total, ") must be more than warmup (", warmup, ")");
  self.expects(ratio >= 0 && ratio <= 1, "min_ratio (", ratio, ") must be in [0, 1]");
}

}  // namespace detail

/// Decreases linearly to 0 at `total`, and stays there.
struct linear_schedule {
  static constexpr subject self{"nn::linear_schedule", "nn/schedule"};

  double base;
  index_t warmup = 0;
  index_t total = 0;

  [[nodiscard]] double operator()(index_t step) const noexcept {
    if (step < warmup) return base * detail::ramp(step, warmup);
    return step >= total ? 0.0 : base * (1 - detail::progress(step, warmup, total));
  }
  void validate() const { detail::check_schedule(self, base, warmup, total); }
};

/// Half a cosine from base to base * min_ratio at `total`. Beyond it the common public form rises again; `clamped` holds
/// the minimum instead. warmup_from > 0 begins the warm-up there and not at 0.
struct cosine_schedule {
  static constexpr subject self{"nn::cosine_schedule", "nn/schedule"};

  double base;
  index_t warmup = 0;
  index_t total = 0;
  double min_ratio = 0;
  bool clamped = true;
  double warmup_from = 0;  ///< rate at step 0

  [[nodiscard]] double operator()(index_t step) const noexcept {
    if (step < warmup) return warmup_from + (base - warmup_from) * detail::ramp(step, warmup);
    if (clamped && step >= total) return base * min_ratio;
    return base * (min_ratio + (1 - min_ratio) * detail::half_cosine(detail::progress(step, warmup, total)));
  }
  void validate() const {
    detail::check_schedule(self, base, warmup, total, min_ratio);
    self.expects(std::isfinite(warmup_from), "warmup_from must be finite");
  }
};

/// base * sqrt(warmup / step) after the warm-up; warmup = 0 counts as 1.
struct inverse_sqrt_schedule {
  static constexpr subject self{"nn::inverse_sqrt_schedule", "nn/schedule"};

  double base;
  index_t warmup = 0;

  [[nodiscard]] double operator()(index_t step) const noexcept {
    if (step < warmup) return base * detail::ramp(step, warmup);
    return base *
           std::sqrt(static_cast<double>(max_of<index_t>(warmup, 1)) / static_cast<double>(max_of<index_t>(step, 1)));
  }
  void validate() const { detail::check_schedule(self, base, warmup, warmup + 1); }
};

/// Stays at base until `decay_start`, then decreases linearly to base * min_ratio at `total`, and stays there.
struct warmup_stable_decay_schedule {
  static constexpr subject self{"nn::warmup_stable_decay_schedule", "nn/schedule"};

  double base;
  index_t warmup = 0;
  index_t total = 0;
  double min_ratio = 0;
  index_t decay_start = -1;  ///< -1: 0.8 total

  [[nodiscard]] double operator()(index_t step) const noexcept {
    if (step < warmup) return base * detail::ramp(step, warmup);
    const index_t start = decay_start >= 0 ? decay_start : total * 4 / 5;
    if (step < start) return base;
    if (step >= total) return base * min_ratio;
    return base * (1 - (1 - min_ratio) * detail::progress(step, start, total));
  }
  void validate() const {
    detail::check_schedule(self, base, warmup, total, min_ratio);
    self.expects(decay_start >= -1 && decay_start <= total, "decay_start (", decay_start,
                 ") must be -1 or in [0, total (", total, ")]");
  }
};

}  // namespace seqprim::nn
