// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/matmul.hpp>
#include <seqprim/loss/cross_entropy.hpp>
#include <seqprim/loss/tuning.hpp>

namespace seqprim::loss {

/// Memory of linear_cross_entropy, owned by the caller: sized on first use, then reused.
template <class T> struct linear_cross_entropy_workspace {
  tensor<T, 1> logits;              ///< one chunk [chunk, vocab]
  tensor<T, 1> states;              ///< the rows of a chunk that count, when some do not [chunk, dim]
  tensor<T, 1> gradients;           ///< their gradients
  tensor<index_t, 1> rows, labels;  ///< of the rows that count in a chunk
  tensor<T, 1> weights;
};

/// The gradients of linear_cross_entropy; each may be left empty. dx is overwritten, dweight and dbias are added to.
template <class T> struct linear_cross_entropy_gradients {
  tensor_view<T, 2> dx = {};
  tensor_view<T, 2> dweight = {};
  tensor_view<T, 1> dbias = {};
};

namespace detail {

/// The memory as [rows, columns], enlarged when it is too small.
template <class T> [[nodiscard]] tensor_view<T, 2> shaped(tensor<T, 1>& memory, index_t rows, index_t columns) {
  if (memory.size() < rows * columns) memory = tensor<T, 1>(rows * columns);
  return tensor_view<T, 2>(memory.data(), rows, columns);
}

/// body(row) for each row, in parallel.
template <class Body> void for_rows(const cpu& executor, index_t rows, const Body& body) {
  constexpr index_t piece = 32;
  parallel_for(executor, ceil_div(rows, piece), [&](index_t p, int) {
    for (index_t i = p * piece; i < min((p + 1) * piece, rows); ++i) body(i);
  });
}

template <class T>
[[nodiscard]] tensor_view<const T, 2> gather_rows(const cpu& executor, const tensor_view<const T, 2>& from,
                                                  const tensor<index_t, 1>& rows, const tensor_view<T, 2>& to) {
  for_rows(executor, to.extent(0), [&](index_t i) {
    for (index_t d = 0; d < to.extent(1); ++d) to(i, d) = from(rows(i), d);
  });
  return to;
}

template <class T>
void scatter_rows(const cpu& executor, const tensor_view<T, 2>& from, const tensor<index_t, 1>& rows,
                  const tensor_view<T, 2>& to) {
  for_rows(executor, from.extent(0), [&](index_t i) {
    for (index_t d = 0; d < from.extent(1); ++d) to(rows(i), d) = from(i, d);
  });
}

template <class T>
void fill_rows(const cpu& executor, const tensor_view<T, 2>& out, const tensor_view<const T, 1>& row) {
  for_rows(executor, out.extent(0), [&](index_t i) {
    for (index_t j = 0; j < out.extent(1); ++j) out(i, j) = row(j);
  });
}

/// total[j] += x[0, j] + x[1, j] + ... in this order.
template <class Isa, class T>
void add_columns(const cpu& executor, const tensor_view<T, 2>& x, const tensor_view<T, 1>& total) {
  using v = arch::simd<Isa, T>;
  constexpr index_t piece = 256;
  parallel_for(executor, ceil_div(x.extent(1), piece), [&](index_t p, int) {
    const index_t begin = p * piece;
    over_row<v>(min(piece, x.extent(1) - begin), [&](index_t j, int n) {
      auto sum = v::load_partial(total.data + begin + j, n);
      for (index_t i = 0; i < x.extent(0); ++i)
        sum = v::add(sum, v::load_partial(x.data + i * x.strides[0] + begin + j, n));
      v::store_partial(total.data + begin + j, sum, n);
    });
  });
}

}  // namespace detail

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
/// Cost    2 n dim vocab flop, and 4 n dim vocab for the gradients, n the rows that count; memory chunk_numbers logits.
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
  constexpr const char* page = ". See docs/reference/loss/linear_cross_entropy.md";
  executor.validate();
  options.validate();
  const index_t rows = x.extent(0), dim = x.extent(1), vocab = weight.extent(0);
  SEQPRIM_EXPECTS(options.reduction != reduction::none, "loss::linear_cross_entropy: reduction must be mean or sum",
                  page);
  SEQPRIM_EXPECTS(vocab >= 1 && weight.extent(1) == dim, "loss::linear_cross_entropy: weight [", vocab, ", ",
                  weight.extent(1), "] must be [vocab >= 1, dim (", dim, ")]", page);
  SEQPRIM_EXPECTS(bias.data == nullptr || (bias.extent(0) == vocab && bias.strides[0] == 1),
                  "loss::linear_cross_entropy: bias [", bias.extent(0), "] must be dense [", vocab, "]", page);
  SEQPRIM_EXPECTS(labels.extent(0) == rows, "loss::linear_cross_entropy: labels [", labels.extent(0), "] must be [",
                  rows, "]", page);
  SEQPRIM_EXPECTS(x.strides[1] == 1 || dim <= 1, "loss::linear_cross_entropy: x must be contiguous in dim", page);
  if (dx.data != nullptr) {
    SEQPRIM_EXPECTS(dx.extent(0) == rows && dx.extent(1) == dim && (dx.strides[1] == 1 || dim <= 1),
                    "loss::linear_cross_entropy: dx [", dx.extent(0), ", ", dx.extent(1), "] must be [", rows, ", ",
                    dim, "] and contiguous in dim", page);
    SEQPRIM_EXPECTS(!may_overlap(dx, x) && !may_overlap(dx, weight), "loss::linear_cross_entropy: dx overlaps an input",
                    page);
  }
  if (dweight.data != nullptr)
    SEQPRIM_EXPECTS(dweight.extent(0) == vocab && dweight.extent(1) == dim && (dweight.strides[1] == 1 || dim <= 1) &&
                        !may_overlap(dweight, x) && !may_overlap(dweight, weight),
                    "loss::linear_cross_entropy: dweight [", dweight.extent(0), ", ", dweight.extent(1), "] must be [",
                    vocab, ", ", dim, "], contiguous in dim and apart from the inputs", page);
  SEQPRIM_EXPECTS(dbias.data == nullptr || (dbias.extent(0) == vocab && dbias.strides[0] == 1),
                  "loss::linear_cross_entropy: dbias [", dbias.extent(0), "] must be dense [", vocab, "]", page);
  detail::expect_rows(weights, "weights", rows);
  cross_entropy_result result = detail::count_rows<T>(options, labels, weights, vocab);
  const double scale = detail::gradient_scale(options, result);
  const bool wants_gradient = dx.data != nullptr || dweight.data != nullptr || dbias.data != nullptr;

  constexpr linear_cross_entropy_policy policy = Selector{}();
  const index_t chunk = min(policy.chunk_rows(vocab), max<index_t>(rows, 1));
  if (workspace.rows.size() < chunk) {
    workspace.rows = tensor<index_t, 1>(chunk);
    workspace.labels = tensor<index_t, 1>(chunk);
    workspace.weights = tensor<T, 1>(chunk);
  }
  double total = 0;
  for (index_t begin = 0; begin < rows;) {
    // The next rows, until `chunk` of them count. Neighbors that all count are used where they are.
    index_t end = begin, live = 0;
    for (; end < rows && live < chunk; ++end) {
      const auto label = static_cast<index_t>(labels(end));
      if (label == options.ignore_index) continue;
      workspace.rows(live) = end;
      workspace.labels(live) = label;
      workspace.weights(live) = weights.data == nullptr ? T{1} : weights(end);
      ++live;
    }
    const bool all = live == end - begin;
    if (dx.data != nullptr && !all)
      for (index_t i = begin; i < end; ++i)
        for (index_t d = 0; d < dim; ++d) dx(i, d) = 0;
    if (live > 0) {
      const auto xs =
          all ? x.slice(0, {begin, end})
              : detail::gather_rows(executor, x, workspace.rows, detail::shaped(workspace.states, live, dim));
      const auto logits = detail::shaped(workspace.logits, live, vocab);
      if (bias.data != nullptr) detail::fill_rows(executor, logits, bias);
      arch::matmul<Isa>(executor, xs, weight.transposed(0, 1), logits,
                        bias.data != nullptr ? arch::store::accumulate : arch::store::overwrite);
      const tensor_view<const index_t, 1> chunk_labels(workspace.labels.data(), live);
      const cross_entropy_rows<T> chunk_rows{.weights = tensor_view<const T, 1>(workspace.weights.data(), live)};
      total += detail::run_rows<Isa>(executor, options, tensor_view<const T, 2>(logits), chunk_labels,
                                     wants_gradient ? logits : tensor_view<T, 2>{}, chunk_rows, scale, result.correct);
      if (dx.data != nullptr) {
        const auto dxs = all ? dx.slice(0, {begin, end}) : detail::shaped(workspace.gradients, live, dim);
        arch::matmul<Isa>(executor, logits, weight, dxs);
        if (!all) detail::scatter_rows(executor, dxs, workspace.rows, dx);
      }
      if (dweight.data != nullptr)
        arch::matmul<Isa>(executor, logits.transposed(0, 1), xs, dweight, arch::store::accumulate);
      if (dbias.data != nullptr) detail::add_columns<Isa>(executor, logits, dbias);
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
