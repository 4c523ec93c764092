// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/linalg/buffer.hpp>
#include <seqprim/linalg/gather.hpp>
#include <seqprim/linalg/matmul.hpp>
#include <seqprim/linalg/reduce.hpp>
#include <seqprim/loss/cross_entropy.hpp>
#include <seqprim/loss/tuning.hpp>

namespace seqprim::loss {

/// Memory of linear_cross_entropy, owned by the caller: sized on first use, then reused.
template <class T> struct linear_cross_entropy_workspace {
  linalg::buffer<T> logits;              ///< one chunk [chunk, vocab]
  linalg::buffer<T> states;              ///< the rows of a chunk that count, when some do not [chunk, dim]
  linalg::buffer<T> gradients;           ///< their gradients
  linalg::buffer<index_t> rows, labels;  ///< of the rows that count in a chunk
  linalg::buffer<T> weights;
};

/// The gradients of linear_cross_entropy; each may be left empty. dx is overwritten, dweight and dbias are added to.
template <class T> struct linear_cross_entropy_gradients {
  tensor_view<T, 2> dx = {};
  tensor_view<T, 2> dweight = {};
  tensor_view<T, 1> dbias = {};
};

/// Head and cross entropy in one: cross_entropy(x W^T + b, labels) without ever storing all logits. Rows are processed
/// in chunks; the logits of a chunk are overwritten by their gradient, and both products of the backward pass follow at
/// once. Ignored rows cost nothing.
///
/// Shapes  x, dx [rows, dim]; weight, dweight [vocab, dim]; bias, dbias [vocab]; labels and weights [rows]. The bias
///         may be left out.
/// Types   float, or double for gradient checks.
/// Layout  x, dx and dweight contiguous in dim, weight with any strides; gradients may not overlap an input. dx is
///         overwritten, dweight and dbias are added to; each may be left out, without any the call returns the loss
///         alone.
/// Edge    as cross_entropy. dx of an ignored row is 0. No row counts: loss 0, nothing is added.
/// Errors  precondition_error before anything is written, as cross_entropy. reduction::none is an error: the gradient
///         needs one value to start from; weights of rows are the way to differ between them.
/// Repeat  same bits for any number of threads, and for any chunks as long as none (the last included) has fewer than
///         five rows that count; the matrix product sums so few rows in another order.
/// Cost    2 n dim vocab flop, and 4 n dim vocab for the gradients, n the rows that count; memory chunk_rows x vocab logits.
/// Source  Wijmans et al., "Cut your losses in large-vocabulary language models".  Page
///         docs/reference/loss/linear_cross_entropy.md
template <class Isa = arch::native_isa, class Selector = default_linear_cross_entropy_policy, viewable<2> X,
          viewable<2> Weight, viewable<1> Bias, viewable<1> Labels>
cross_entropy_result linear_cross_entropy(const cpu& executor, const cross_entropy_options& options, const X& states,
                                          const Weight& head, const Bias& offsets, const Labels& targets,
                                          const linear_cross_entropy_gradients<element_of<X>>& gradients,
                                          linear_cross_entropy_workspace<element_of<X>>& workspace,
                                          const tensor_view<const element_of<X>, 1>& weights = {}) {
  using T = element_of<X>;
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                "seqprim: linear_cross_entropy takes float, or double for gradient checks");
  static_assert(detail::label_element<element_of<Labels>>, "seqprim: labels are integers");
  const auto x = tensor_view<const T, 2>(as_view(states));
  const auto weight = tensor_view<const T, 2>(as_view(head));
  const auto bias = tensor_view<const T, 1>(as_view(offsets));
  const auto labels = tensor_view<const element_of<Labels>, 1>(as_view(targets));
  const auto& [dx, dweight, dbias] = gradients;
  constexpr subject self{"loss::linear_cross_entropy", "loss/linear_cross_entropy"};
  executor.validate();
  options.validate();
  const index_t rows = x.extent(0), dim = x.extent(1), vocab = weight.extent(0);
  self.expects(options.reduction != reduction::none, "reduction must be mean or sum");
  self.expects(vocab >= 1, "vocab (", vocab, ") must be >= 1");
  self.expects_extent("weight", weight, 1, "dim", dim, "x");
  self.expects_extent("labels", labels, 0, "rows", rows, "x");
  self.expects_contiguous("x", x);
  if (bias.data != nullptr) {
    self.expects_extent("bias", bias, 0, "vocab", vocab, "weight");
    self.expects_contiguous("bias", bias);
  }
  if (dx.data != nullptr) {
    self.expects_extent("dx", dx, 0, "rows", rows, "x");
    self.expects_extent("dx", dx, 1, "dim", dim, "x");
    self.expects_contiguous("dx", dx);
    self.expects_apart("dx", dx, "x", x);
    self.expects_apart("dx", dx, "weight", weight);
  }
  if (dweight.data != nullptr) {
    self.expects_extent("dweight", dweight, 0, "vocab", vocab, "weight");
    self.expects_extent("dweight", dweight, 1, "dim", dim, "weight");
    self.expects_contiguous("dweight", dweight);
    self.expects_apart("dweight", dweight, "x", x);
    self.expects_apart("dweight", dweight, "weight", weight);
  }
  if (dbias.data != nullptr) {
    self.expects_extent("dbias", dbias, 0, "vocab", vocab, "weight");
    self.expects_contiguous("dbias", dbias);
  }
  detail::expect_rows(self, weights, "weights", rows);
  cross_entropy_result result = detail::count_rows<T>(self, options, labels, weights, vocab);
  const double scale = detail::gradient_scale(options, result);
  const bool wants_gradient = dx.data != nullptr || dweight.data != nullptr || dbias.data != nullptr;

  const linear_cross_entropy_policy policy = Selector{}(Isa{}, linear_cross_entropy_shape{rows, dim, vocab});
  const index_t chunk = min_of(policy.chunk_rows, max_of<index_t>(rows, 1));
  index_t* const chosen = workspace.rows.view(chunk).data;
  index_t* const chosen_labels = workspace.labels.view(chunk).data;
  T* const chosen_weights = workspace.weights.view(chunk).data;
  double total = 0;
  for (index_t begin = 0; begin < rows;) {
    // The next rows, until `chunk` of them count. Neighbors that all count are used where they are.
    index_t end = begin, live = 0;
    for (; end < rows && live < chunk; ++end) {
      const auto label = static_cast<index_t>(labels(end));
      if (label == options.ignore_index) continue;
      chosen[live] = end;
      chosen_labels[live] = label;
      chosen_weights[live] = weights.data == nullptr ? T{1} : weights(end);
      ++live;
    }
    const bool all = live == end - begin;
    if (dx.data != nullptr && !all)
      for (index_t i = begin; i < end; ++i)
        for (index_t d = 0; d < dim; ++d) dx(i, d) = 0;
    if (live > 0) {
      const auto gather = [&] {
        const auto to = workspace.states.view(live, dim);
        linalg::gather_rows(executor, x, chosen, to);
        return to;
      };
      const auto xs = all ? x.slice(0, {begin, end}) : tensor_view<const T, 2>(gather());
      const auto logits = workspace.logits.view(live, vocab);
      if (bias.data != nullptr) linalg::fill_rows(executor, bias, logits);
      linalg::matmul<Isa>(executor, xs, weight.transposed(0, 1), logits,
                          bias.data != nullptr ? linalg::store::accumulate : linalg::store::overwrite);
      const tensor_view<const index_t, 1> chunk_labels(chosen_labels, live);
      const cross_entropy_rows<T> chunk_rows{.weights = tensor_view<const T, 1>(chosen_weights, live)};
      total += detail::run_rows<Isa>(executor, options, tensor_view<const T, 2>(logits), chunk_labels,
                                     wants_gradient ? logits : tensor_view<T, 2>{}, chunk_rows, scale, result.correct);
      if (dx.data != nullptr) {
        const auto dxs = all ? dx.slice(0, {begin, end}) : workspace.gradients.view(live, dim);
        linalg::matmul<Isa>(executor, logits, weight, dxs);
        if (!all) linalg::scatter_rows(executor, tensor_view<const T, 2>(dxs), chosen, dx);
      }
      if (dweight.data != nullptr)
        linalg::matmul<Isa>(executor, logits.transposed(0, 1), xs, dweight, linalg::store::accumulate);
      if (dbias.data != nullptr) linalg::add_rows<Isa>(executor, logits, dbias.data);
    }
    begin = end;
  }
  const double normalizer = options.normalizer > 0 ? options.normalizer : result.weight;
  result.loss = options.reduction == reduction::sum ? total : normalizer == 0 ? 0 : total / normalizer;
  return result;
}

/// The same without a bias.
template <class Isa = arch::native_isa, class Selector = default_linear_cross_entropy_policy, viewable<2> X,
          viewable<2> Weight, viewable<1> Labels>
cross_entropy_result linear_cross_entropy(const cpu& executor, const cross_entropy_options& options, const X& states,
                                          const Weight& head, const Labels& labels,
                                          const linear_cross_entropy_gradients<element_of<X>>& gradients,
                                          linear_cross_entropy_workspace<element_of<X>>& workspace,
                                          const tensor_view<const element_of<X>, 1>& weights = {}) {
  return linear_cross_entropy<Isa, Selector>(executor, options, states, head, tensor_view<const element_of<X>, 1>{},
                                             labels, gradients, workspace, weights);
}

}  // namespace seqprim::loss
