// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <support/stopwatch.hpp>
#include <vector>

namespace seqprim::bench {

inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// What a duel measures.
struct duel_result {
  double seconds;       ///< of one call of the body, median
  double base_seconds;  ///< of one call of the base, median
  double ratio;         ///< time of the body / time of the base, median over pairs of neighbors
};

/// Times two bodies in turn, so that a machine whose speed changes changes both: their ratio is steadier than either time.
/// Runs for about `budget` seconds, and at least five pairs.
template <class Body, class Base> duel_result duel(const Body& body, const Base& base, double budget = 0.25) {
  const auto seconds_of = [](int calls, const auto& f) {
    const stopwatch watch;
    for (int i = 0; i < calls; ++i) f();
    return watch.seconds();
  };
  seconds_of(1, body);  // warm up
  seconds_of(1, base);
  // Intervals of 100 us or more: the clock costs some 25 ns a reading.
  const int calls = 1 + static_cast<int>(1e-4 / std::max(1e-9, std::min(seconds_of(1, body), seconds_of(1, base))));
  std::vector<double> body_times, base_times, ratios;
  const stopwatch total;
  while (ratios.size() < 5 || total.seconds() < budget) {
    body_times.push_back(seconds_of(calls, body) / calls);
    base_times.push_back(seconds_of(calls, base) / calls);
    ratios.push_back(body_times.back() / base_times.back());
  }
  return {median(body_times), median(base_times), median(ratios)};
}

}  // namespace seqprim::bench
