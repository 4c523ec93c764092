// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/loss/cross_entropy.hpp>

#include <cmath>

/// The definition of cross entropy, one row at a time, in double. Slow and obvious; the kernels are tested against it.
namespace seqprim::loss::reference {

/// Loss of one row, and its gradient with respect to the logits when `weight` multiplies the loss. No validation; the
/// row counts.
template <class Row, class Gradient>
double cross_entropy_row(const cross_entropy_options& options, const Row& logits, index_t label, double weight,
                         Gradient&& dlogits) {
  const index_t vocab = logits.extent(0);
  const double cap = static_cast<double>(options.soft_cap);
  const auto z = [&](index_t j) {
    const auto logit = static_cast<double>(logits(j));
    return cap > 0 ? cap * std::tanh(logit / cap) : logit;
  };
  double top = z(0), mean = 0, sum = 0;
  for (index_t j = 0; j < vocab; ++j) top = std::max(top, z(j));
  for (index_t j = 0; j < vocab; ++j) {
    mean += z(j) / static_cast<double>(vocab);
    sum += std::exp(z(j) - top);
  }
  const double lse = top + std::log(sum), e = options.label_smoothing, c = options.z_loss;
  for (index_t j = 0; j < vocab; ++j) {
    const double p = std::exp(z(j) - lse);
    const double slope = cap > 0 ? 1 - (z(j) / cap) * (z(j) / cap) : 1;
    dlogits(j) =
        weight * slope * (p * (1 + 2 * c * lse) - (1 - e) * (j == label ? 1 : 0) - e / static_cast<double>(vocab));
  }
  return lse - (1 - e) * z(label) - (e > 0 ? e * mean : 0) + c * lse * lse;
}

}  // namespace seqprim::loss::reference
