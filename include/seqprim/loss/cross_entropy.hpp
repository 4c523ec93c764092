// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/math.hpp>
#include <seqprim/core/constants.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/scratch.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/linalg/rows.hpp>
#include <seqprim/score/soft_cap.hpp>

#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace seqprim::loss {

/// How the losses of the rows become one value.
enum class reduction {
  mean,  ///< sum of w l / sum of w over the rows that count
  sum,   ///< sum of w l
  none,  ///< no reduction: the gradient is that of sum of w l upstream[row]
};

/// The variants of cross entropy; the defaults are the plain mean.
struct cross_entropy_options {
  double label_smoothing = 0;  ///< e in [0, 1]
  double z_loss = 0;           ///< c >= 0: adds c lse^2
  float soft_cap = 0;          ///< > 0: logits pass score::soft_cap first; 0: not
  index_t ignore_index = -100;
  loss::reduction reduction = loss::reduction::mean;
  double normalizer =
      0;  ///< of the mean; 0: sum of the weights. Give the total of all micro-batches to accumulate exactly
  double upstream = 1;  ///< gradient of the loss itself, for mean and sum

  void validate() const {
    constexpr subject self{"loss::cross_entropy", "loss/cross_entropy"};
    self.expects(label_smoothing >= 0 && label_smoothing <= 1, "label_smoothing (", label_smoothing,
                 ") must be in [0, 1]");
    self.expects(z_loss >= 0 && std::isfinite(z_loss), "z_loss (", z_loss, ") must be finite and >= 0");
    self.expects(soft_cap >= 0 && std::isfinite(soft_cap), "soft_cap (", soft_cap, ") must be finite and >= 0");
    self.expects(normalizer >= 0 && std::isfinite(normalizer), "normalizer (", normalizer, ") must be finite and >= 0");
    self.expects(std::isfinite(upstream), "upstream must be finite");
  }
};

/// Inputs and outputs per row; each view [rows], or left empty.
template <class T> struct cross_entropy_rows {
  tensor_view<const T, 1> weights = {};   ///< w of each row; empty: 1
  tensor_view<const T, 1> upstream = {};  ///< gradient of each row's loss, for reduction::none; empty: 1
  tensor_view<T, 1> loss = {};            ///< out: l of each row without its weight; 0 where ignored
  tensor_view<T, 1> lse = {};             ///< out: log-sum-exp of the (capped) logits; 0 where ignored
  tensor_view<T, 1> entropy = {};         ///< out: of the predicted distribution, in nats; 0 where ignored
  tensor_view<bool, 1> correct = {};      ///< out: the label is the first of the largest logits
};

/// The loss, and counts of the rows.
struct cross_entropy_result {
  double loss = 0;    ///< reduced; for reduction::none the sum of w l
  double weight = 0;  ///< sum of the weights of the rows that count
  index_t rows = 0;   ///< how many rows count
  index_t correct = 0;
  bool empty = false;  ///< no row counts (or all weights are 0): loss 0, gradients 0
};

namespace detail {

/// The statistics of a row of logits.
struct row_statistics {
  double lse = 0;
  double sum = 0;  ///< of the (capped) logits
  double entropy = 0;
  bool correct = false;
};

/// Reads logits, through the soft cap when there is one.
template <class X> struct logits_reader {
  using T = typename X::value_type;
  const T* row;
  score::soft_cap cap;

  template <class Part> [[gnu::always_inline]] X operator()(index_t j, Part part) const noexcept {
    const X z = part.load(row + j);
    return cap.cap > 0 ? cap(z, {}) : z;
  }
  template <class Part> [[gnu::always_inline]] X slope(index_t j, Part part) const noexcept {
    return cap.derivative(part.load(row + j), {});
  }
  /// One logit, with the bits that it has in a register.
  [[nodiscard]] T at(index_t j) const noexcept {
    T value;
    const linalg::first_lanes<X> one{1};
    one.store(&value, (*this)(j, one));
    return value;
  }
};

/// Two passes over one row. Sums run over chunks in registers and over the row in double.
template <class Isa, class T>
[[nodiscard]] row_statistics examine(const T* row, index_t vocab, index_t label, float soft_cap) noexcept {
  using lanes = arch::lanes<Isa, T>;
  using limits = std::numeric_limits<T>;
  const logits_reader<lanes> z{row, {.cap = soft_cap}};
  const lanes minus_infinity(-limits::infinity()), zero(T{0});
  lanes tops = minus_infinity;
  linalg::for_lanes<lanes>(vocab,
                           [&](index_t j, auto part) { tops = max_of(part.select(z(j, part), minus_infinity), tops); });
  // Infinite tops would turn infinity - infinity into NaN; a finite stand-in keeps the terms 0 or infinite.
  const T top = min_of(max_of(arch::maximum(tops), limits::lowest()), limits::max());
  const lanes shift(top), log2_e(static_cast<T>(constants::log2_e)), lowest(limits::lowest());

  row_statistics result;
  double sum = 0, weighted = 0;
  constexpr index_t chunk = 4096;
  for (index_t begin = 0; begin < vocab; begin += chunk) {
    lanes exps = zero, weights = zero, logits = zero;
    linalg::for_lanes<lanes>(min_of(chunk, vocab - begin), [&](index_t j, auto part) {
      const lanes x = z(begin + j, part);
      const lanes e = part.select(arch::exp2((x - shift) * log2_e), zero);
      exps += e;
      weights = arch::fma(e, max_of(lowest, x - shift), weights);
      logits += part.select(x, zero);
    });
    sum += static_cast<double>(arch::sum(exps));
    weighted += static_cast<double>(arch::sum(weights));
    result.sum += static_cast<double>(arch::sum(logits));
  }
  result.lse = static_cast<double>(top) + std::log(sum);
  result.entropy = std::log(sum) - weighted / sum;

  result.correct = z.at(label) == top;
  for (index_t j = 0; result.correct && j < label; ++j) result.correct = z.at(j) != top;
  return result;
}

/// dz = w [p (1 + 2 c lse) - (1 - e) onehot - e / vocab] * cap'. `out` may be `row`.
template <class Isa, class T>
void row_gradient(const T* row, T* out, index_t vocab, index_t label, const cross_entropy_options& options, double lse,
                  double weight) noexcept {
  using lanes = arch::lanes<Isa, T>;
  const logits_reader<lanes> z{row, {.cap = options.soft_cap}};
  const lanes shift(static_cast<T>(lse)), log2_e(static_cast<T>(constants::log2_e));
  const lanes scale(static_cast<T>(weight * (1 + 2 * options.z_loss * lse)));
  const lanes smooth(static_cast<T>(-weight * options.label_smoothing / static_cast<double>(vocab)));
  T hit = static_cast<T>(-weight * (1 - options.label_smoothing));
  if (options.soft_cap > 0) hit *= z.cap.derivative(row[label], {});
  linalg::for_lanes<lanes>(vocab, [&](index_t j, auto part) {
    lanes d = arch::fma(scale, arch::exp2((z(j, part) - shift) * log2_e), smooth);
    if (options.soft_cap > 0) d = d * z.slope(j, part);
    part.store(out + j, d);
  });
  out[label] += hit;
}

/// A view with an entry for each row, or an empty one.
template <class T>
void expect_rows(const subject& self, const tensor_view<T, 1>& view, const char* operand, index_t rows) {
  self.expects(view.data == nullptr || view.extent(0) == rows, operand, " has ", view.extent(0), " entries for ", rows,
               " rows");
}

/// Which rows count, and their weight; checks labels and weights.
template <class T, class Id>
[[nodiscard]] cross_entropy_result count_rows(const subject& self, const cross_entropy_options& options,
                                              const tensor_view<const Id, 1>& labels,
                                              const tensor_view<const T, 1>& weights, index_t vocab) {
  cross_entropy_result result;
  for (index_t i = 0; i < labels.extent(0); ++i) {
    const auto label = static_cast<index_t>(labels(i));
    if (label == options.ignore_index) continue;
    self.expects(label >= 0 && label < vocab, "label (", label, ") of row ", i, " must be in [0, vocab (", vocab,
                 ")) or the ignore index (", options.ignore_index, ")");
    ++result.rows;
    result.weight += weights.data == nullptr ? 1.0 : static_cast<double>(weights(i));
  }
  result.empty = result.weight == 0;
  return result;
}

/// The factor of the gradient of a row of weight 1.
[[nodiscard]] inline double gradient_scale(const cross_entropy_options& options,
                                           const cross_entropy_result& counted) noexcept {
  if (options.reduction == reduction::none) return 1;
  if (options.reduction == reduction::sum) return options.upstream;
  const double normalizer = options.normalizer > 0 ? options.normalizer : counted.weight;
  return normalizer == 0 ? 0 : options.upstream / normalizer;
}

/// All rows, after validation. `scale` is gradient_scale. Adds to result.correct and returns the sum of w l.
template <class Isa, class T, class Id>
[[nodiscard]] double run_rows(const cpu& executor, const cross_entropy_options& options,
                              const tensor_view<const T, 2>& logits, const tensor_view<const Id, 1>& labels,
                              const tensor_view<T, 2>& dlogits, const cross_entropy_rows<T>& rows, double scale,
                              index_t& correct) {
  const index_t count = logits.extent(0), vocab = logits.extent(1);
  constexpr index_t piece = 16;
  const index_t pieces = ceil_div(count, piece);
  const scratch<double> sums(1, 2 * pieces);
  double* const losses = sums.slab(0);
  double* const hits = losses + pieces;
  parallel_for(executor, pieces, [&](index_t p, int) {
    losses[p] = hits[p] = 0;
    for (index_t i = p * piece; i < min_of((p + 1) * piece, count); ++i) {
      const auto label = static_cast<index_t>(labels(i));
      const T* const z = logits.data + i * logits.strides[0];
      T* const dz = dlogits.data == nullptr ? nullptr : dlogits.data + i * dlogits.strides[0];
      double row_loss = 0;
      row_statistics row;
      if (label == options.ignore_index) {
        for (index_t j = 0; dz != nullptr && j < vocab; ++j) dz[j] = 0;
      } else {
        row = examine<Isa>(z, vocab, label, options.soft_cap);
        const T hit = options.soft_cap > 0 ? score::soft_cap{.cap = options.soft_cap}(z[label], {}) : z[label];
        row_loss = row.lse - (1 - options.label_smoothing) * static_cast<double>(hit);
        // 0 * -inf is NaN: logits of -inf (a padded vocabulary) are fine as long as nothing is smoothed onto them.
        if (options.label_smoothing > 0) row_loss -= options.label_smoothing * row.sum / static_cast<double>(vocab);
        if (options.z_loss > 0) row_loss += options.z_loss * row.lse * row.lse;
        const double weight = rows.weights.data == nullptr ? 1.0 : static_cast<double>(rows.weights(i));
        losses[p] += weight * row_loss;
        hits[p] += row.correct ? 1 : 0;
        if (dz != nullptr) {
          const double upstream = options.reduction == reduction::none && rows.upstream.data != nullptr
                                      ? static_cast<double>(rows.upstream(i))
                                      : 1.0;
          row_gradient<Isa>(z, dz, vocab, label, options, row.lse, weight * scale * upstream);
        }
      }
      if (rows.loss.data != nullptr) rows.loss(i) = static_cast<T>(row_loss);
      if (rows.lse.data != nullptr) rows.lse(i) = static_cast<T>(row.lse);
      if (rows.entropy.data != nullptr) rows.entropy(i) = static_cast<T>(row.entropy);
      if (rows.correct.data != nullptr) rows.correct(i) = row.correct;
    }
  });
  double total = 0;
  for (index_t p = 0; p < pieces; ++p) {
    total += losses[p];
    correct += static_cast<index_t>(hits[p]);
  }
  return total;
}

template <class Id> concept label_element = std::integral<Id> && !std::same_as<Id, bool>;

}  // namespace detail

/// Cross entropy of rows of logits, forward and backward in one call:
///
///     l = lse - (1 - e) z_label - e mean(z) + c lse^2         lse = log sum exp z
///     dz = w [p (1 + 2 c lse) - (1 - e) onehot(label) - e / vocab],   w = weight * upstream / normalizer
///
/// e is the label smoothing, c the weight of the z-loss.
///
/// Shapes  logits, dlogits [rows, vocab]; labels [rows]; the views of `rows` [rows].
/// Types   logits float (double for gradient checks); labels of any integer type. Sums of a row run in registers over
///         at most 4096 logits, then in double.
/// Layout  vocab contiguous. dlogits may be logits; an empty dlogits view means the loss alone.
/// Edge    rows with the ignore index have no loss and zero gradients. When no row counts: loss 0, gradients 0, `empty`
///         set. Logits of -inf get probability 0 (with label_smoothing > 0 the loss is then infinite). NaN stays in its
///         row.
/// Errors  precondition_error before anything is written: a label outside [0, vocab) that is not the ignore index,
///         shapes disagree, an option out of range, dlogits overlaps logits in part.
/// Repeat  same bits for any number of threads; the gradient of a row does not depend on its position in the batch.
/// Cost    three passes over a row that fits the cache, two exponentials per logit. Allocates 16 bytes for each 16
///         rows.
/// Source  Szegedy et al., "Rethinking the Inception architecture for computer vision" (label smoothing); Chowdhery et
///         al., "PaLM" (z-loss).  Page docs/reference/loss/cross_entropy.md
template <class Isa = arch::native_isa, viewable<2> Logits, viewable<1> Labels, viewable<2> Dlogits>
cross_entropy_result cross_entropy(const cpu& executor, const cross_entropy_options& options, const Logits& scores,
                                   const Labels& targets, Dlogits&& gradient,
                                   const cross_entropy_rows<element_of<Logits>>& rows = {}) {
  using T = element_of<Logits>;
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                "seqprim: cross_entropy takes float logits, or double for gradient checks");
  static_assert(detail::label_element<element_of<Labels>>, "seqprim: labels are integers");
  const auto logits = tensor_view<const T, 2>(as_view(scores));
  const auto labels = tensor_view<const element_of<Labels>, 1>(as_view(targets));
  const auto dlogits = tensor_view<T, 2>(as_view(gradient));
  constexpr subject self{"loss::cross_entropy", "loss/cross_entropy"};
  executor.validate();
  options.validate();
  const index_t count = logits.extent(0), vocab = logits.extent(1);
  self.expects(vocab >= 1, "vocab (", vocab, ") must be >= 1");
  self.expects_contiguous("logits", logits);
  self.expects_extent("labels", labels, 0, "rows", count, "logits");
  if (dlogits.data != nullptr) {
    self.expects_extent("dlogits", dlogits, 0, "rows", count, "logits");
    self.expects_extent("dlogits", dlogits, 1, "vocab", vocab, "logits");
    self.expects_contiguous("dlogits", dlogits);
    self.expects(
        (dlogits.data == logits.data && dlogits.strides[0] == logits.strides[0]) || !may_overlap(dlogits, logits),
        "dlogits overlaps logits without being the same view");
  }
  detail::expect_rows(self, rows.weights, "weights", count);
  detail::expect_rows(self, rows.upstream, "upstream", count);
  detail::expect_rows(self, rows.loss, "loss", count);
  detail::expect_rows(self, rows.lse, "lse", count);
  detail::expect_rows(self, rows.entropy, "entropy", count);
  detail::expect_rows(self, rows.correct, "correct", count);
  cross_entropy_result result = detail::count_rows<T>(self, options, labels, rows.weights, vocab);
  const double scale = detail::gradient_scale(options, result);
  result.loss = detail::run_rows<Isa>(executor, options, logits, labels, dlogits, rows, scale, result.correct);
  if (options.reduction == reduction::mean) {
    const double normalizer = options.normalizer > 0 ? options.normalizer : result.weight;
    result.loss = normalizer == 0 ? 0 : result.loss / normalizer;
  }
  return result;
}

/// The loss alone, without gradients.
template <class Isa = arch::native_isa, viewable<2> Logits, viewable<1> Labels>
cross_entropy_result cross_entropy(const cpu& executor, const cross_entropy_options& options, const Logits& logits,
                                   const Labels& labels, const cross_entropy_rows<element_of<Logits>>& rows = {}) {
  return cross_entropy<Isa>(executor, options, logits, labels, tensor_view<element_of<Logits>, 2>{}, rows);
}

}  // namespace seqprim::loss
