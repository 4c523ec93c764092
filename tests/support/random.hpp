// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/element.hpp>
#include <seqprim/core/philox.hpp>
#include <seqprim/core/tensor.hpp>

#include <cmath>

namespace seqprim::test {

/// Numbers for tests: a pure function of (seed, how many were drawn), the same on every platform.
class random_numbers {
 public:
  explicit random_numbers(std::uint64_t seed) : stream_{.seed = seed} {}

  std::uint32_t word() {
    if (next_ == 4) {
      words_ = stream_.four(random_domain::caller, block_++);
      next_ = 0;
    }
    return words_[next_++];
  }
  /// Uniform integer in [low, high].
  index_t integer(index_t low, index_t high) {
    return low + static_cast<index_t>(word() % static_cast<std::uint32_t>(high - low + 1));
  }
  /// Uniform in (-1, 1).
  float uniform() { return 2.0f * uniform_open(word()) - 1.0f; }
  /// Standard normal.
  float normal() {
    const double radius = std::sqrt(-2.0 * std::log(static_cast<double>(uniform_open(word()))));
    return static_cast<float>(radius * std::cos(6.283185307179586 * static_cast<double>(uniform_open(word()))));
  }
  template <class T, int Rank> void fill(tensor<T, Rank>& t, float scale = 1.0f) {
    for (T& x : t) x = static_cast<T>(scale * normal());
  }

 private:
  random_stream stream_;
  philox_words words_{};
  int next_ = 4;
  std::uint32_t block_ = 0;
};

}  // namespace seqprim::test
