// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/score/relative_bias.hpp>

#include <cmath>

namespace seqprim::score {

/// The buckets of T5's relative bias: near distances have a bucket each, farther ones share buckets that grow with the logarithm,
/// and everything beyond max_distance is in the last.
///
///     bucket(d) = n                                                              n < exact
///                 min(of - 1, exact + floor(log(n / exact) / log(max_distance / exact) (of - exact)))     else
///
///     causal:         n = max(-d, 0),  of = buckets,      exact = of / 2            d = k - q
///     bidirectional:  n = |d|,         of = buckets / 2,  exact = of / 2;  later keys (d > 0) have the upper half of the buckets
///
/// Logarithms are float, as in T5. T5 adds the bias to unscaled logits: scale the operator by 1. A model has one table of weights
/// for all its layers.
///
/// Errors  precondition_error: buckets < 2 (4 if bidirectional) or odd if bidirectional; max_distance <= exact; tables of
///         other shapes.
/// Cost    spread and gather: two logarithms for each distance, one step for each head and distance.
/// Source  Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer".
struct t5_buckets {
  index_t buckets = 32;        ///< of each head
  index_t max_distance = 128;  ///< where the last bucket ends [tokens]
  bool bidirectional = true;   ///< encoders; false in decoders

  /// The bucket of a distance k - q; the members must be valid.
  [[nodiscard]] SEQPRIM_INLINE index_t operator()(index_t distance) const noexcept {
    const index_t of = bidirectional ? buckets / 2 : buckets, exact = of / 2;
    const index_t first = bidirectional && distance > 0 ? of : 0;
    const index_t n = bidirectional && distance > 0 ? distance : max_of<index_t>(-distance, 0);
    if (n < exact) return first + n;
    const float ratio = std::log(static_cast<float>(n) / static_cast<float>(exact)) / log_of_range(exact);
    const float steps = ratio * static_cast<float>(of - exact);
    return first + min_of(of - 1, exact + static_cast<index_t>(steps));
  }

  /// The distances that a table needs: those beyond are in the bucket of the nearest.
  [[nodiscard]] constexpr range distances() const noexcept {
    return {-max_distance, (bidirectional ? max_distance : 0) + 1};
  }

  /// Writes table(head, d) = weights(bucket(d), head), and returns it as a score. weights [buckets, heads], table [heads,
  /// distances().size()].
  SEQPRIM_INLINE relative_bias spread(const tensor_view<const float, 2>& weights,
                                      const tensor_view<float, 2>& table) const {
    expect_shapes("weights", weights, "table", table);
    for (index_t n = 0; n < table.extent(1); ++n) {
      const index_t bucket = (*this)(distances().begin + n);
      for (index_t h = 0; h < table.extent(0); ++h) table(h, n) = weights(bucket, h);
    }
    return {.table = table, .least = distances().begin};
  }

  /// The transpose of spread: dweights(bucket, head) = sum of dtable(head, d) over the distances in the bucket.
  template <class T>
  SEQPRIM_INLINE void gather(const tensor_view<const T, 2>& dtable, const tensor_view<T, 2>& dweights) const {
    expect_shapes("dweights", dweights, "dtable", dtable);
    for (index_t bucket = 0; bucket < buckets; ++bucket)
      for (index_t h = 0; h < dtable.extent(0); ++h) dweights(bucket, h) = T{0};
    for (index_t n = 0; n < dtable.extent(1); ++n) {
      const index_t bucket = (*this)(distances().begin + n);
      for (index_t h = 0; h < dtable.extent(0); ++h) dweights(bucket, h) += dtable(h, n);
    }
  }

  SEQPRIM_INLINE constexpr void validate() const {
    const index_t least = bidirectional ? 4 : 2, exact = (bidirectional ? buckets / 2 : buckets) / 2;
    self.expects(buckets >= least, "buckets (", buckets, ") must be >= ", least);
    self.expects(!bidirectional || buckets % 2 == 0, "buckets (", buckets, ") must be even if bidirectional");
    self.expects(max_distance > exact, "max_distance (", max_distance, ") must be > ", exact,
                 ", the distances that have a bucket each");
  }

 private:
  static constexpr subject self{"score::t5_buckets", "score/t5_buckets"};

  [[nodiscard]] SEQPRIM_INLINE float log_of_range(index_t exact) const noexcept {
    return static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(exact)));
  }
  template <class Weights, class Table>
  SEQPRIM_INLINE void expect_shapes(const char* of_weights, const Weights& weights, const char* of_table,
                                    const Table& table) const {
    validate();
    self.expects(weights.extent(0) == buckets, of_weights, " has ", weights.extent(0), " buckets (axis 0), expected ",
                 buckets);
    self.expects(table.extent(0) == weights.extent(1), of_table, " has ", table.extent(0), " heads (axis 0) but ",
                 of_weights, " has ", weights.extent(1));
    self.expects(table.extent(1) == distances().size(), of_table, " has ", table.extent(1),
                 " distances (axis 1), expected ", distances().size());
  }
};

}  // namespace seqprim::score
