// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/math.hpp>
#include <seqprim/linalg/rows.hpp>
#include <seqprim/nn/detail/rows.hpp>
#include <seqprim/nn/parameter.hpp>

#include <concepts>

namespace seqprim::nn {

/// Token ids: any integers, [batch, len].
template <class X> concept id_viewable = viewable<X, 2> && std::integral<element_of<X>>;

/// Embedding: out[b, t, :] = scale * weight[ids[b, t], :].
///
/// Shapes  ids [batch, len] of any integer type, out [batch, len, dim]; weight [vocab, dim].
/// Layout  ids with any strides; out dense.
/// Errors  precondition_error before anything is written: an id is not in [0, vocab); shapes disagree.
/// Repeat  same bits for any number of threads: the gradient of a row of `weight` is summed in the order of its tokens.
/// Cost    rows * dim loads and stores each way; backward also groups the tokens by id, O(vocab + rows).
/// Page docs/reference/nn/embedding.md
template <class T = float, class Isa = arch::native_isa> class embedding {
 public:
  using value_type = T;
  using isa = Isa;

  struct config {
    T scale = 1;           ///< sqrt(dim) in Gemma-like models
    index_t padding = -1;  ///< this row of `weight` gets no gradient; -1: every row does
  };

  /// Tokens grouped by id.
  struct activations {
    buffer<index_t> first;  ///< [vocab + 1] where the group of an id begins
    buffer<index_t> order;  ///< [rows] row indices, group after group, ascending inside
  };

  parameter<T, 2> weight;

  embedding() = default;
  embedding(index_t vocab, index_t dim, const config& options = {}) : options_(options) {
    self.expects(vocab >= 1 && dim >= 1, "vocab (", vocab, ") and dim (", dim, ") must be >= 1");
    self.expects(options.padding >= -1 && options.padding < vocab, "padding (", options.padding,
                 ") must be -1 or an id below vocab (", vocab, ")");
    weight = parameter<T, 2>(role::embedding, vocab, dim);
  }

  [[nodiscard]] index_t vocab() const noexcept { return weight.value.extent(0); }
  [[nodiscard]] index_t dim() const noexcept { return weight.value.extent(1); }

  template <id_viewable Ids, viewable<3> Y> void forward(const cpu& executor, const Ids& tokens, Y&& output) const {
    const auto ids = as_view(tokens);
    const auto y = as_view(output);
    executor.validate();
    check(ids, y, "out");
    const lanes scale(options_.scale);
    linalg::for_rows(executor, ids.size(), [&](index_t row) {
      const T* const from = weight.value.data() + id_at(ids, row) * dim();
      T* const to = y.data + row * dim();
      linalg::for_lanes<lanes>(dim(), [&](index_t j, auto part) { part.store(to + j, scale * part.load(from + j)); });
    });
  }

  /// weight.grad[id] += scale * sum of dy over the tokens with that id.
  template <id_viewable Ids, viewable<3> Dy>
  void backward(const cpu& executor, const Ids& tokens, const Dy& output_gradient, activations& saved) {
    const auto ids = as_view(tokens);
    const auto dy = as_view(output_gradient);
    executor.validate();
    check(ids, dy, "dy");
    const index_t rows = ids.size();
    index_t* const first = saved.first.view(vocab() + 1).data;
    index_t* const order = saved.order.view(rows).data;
    for (index_t id = 0; id <= vocab(); ++id) first[id] = 0;
    for (index_t row = 0; row < rows; ++row) ++first[id_at(ids, row) + 1];
    for (index_t id = 0; id < vocab(); ++id) first[id + 1] += first[id];
    for (index_t row = 0; row < rows; ++row) order[first[id_at(ids, row)]++] = row;  // first[id] becomes its end

    const lanes scale(options_.scale);
    constexpr index_t ids_per_piece = 16;
    parallel_for(executor, ceil_div(vocab(), ids_per_piece), [&](index_t p, int) {
      for (index_t id = p * ids_per_piece; id < min_of((p + 1) * ids_per_piece, vocab()); ++id) {
        const index_t begin = id > 0 ? first[id - 1] : 0, end = first[id];
        if (begin == end || id == options_.padding) continue;
        T* const total = weight.grad.data() + id * dim();
        linalg::for_lanes<lanes>(dim(), [&](index_t j, auto part) {
          lanes sum(T{0});
          for (index_t i = begin; i < end; ++i) sum += part.load(dy.data + order[i] * dim() + j);
          part.store(total + j, arch::fma(scale, sum, part.load(total + j)));
        });
      }
    });
  }

  /// Throws precondition_error when an id is not in [0, vocab).
  template <id_viewable Ids> void check_ids(const Ids& tokens) const {
    const auto ids = as_view(tokens);
    for (index_t row = 0; row < ids.size(); ++row) {
      const index_t id = id_at(ids, row);
      self.expects(id >= 0 && id < vocab(), "id (", id, ") of token ", row, " must be in [0, vocab (", vocab(), "))");
    }
  }

  template <class Visit> void visit_parameters(Visit&& visit) { visit(std::string("weight"), weight); }
  template <class Visit> void visit_parameters(Visit&& visit) const { visit(std::string("weight"), weight); }

 private:
  using lanes = arch::lanes<Isa, T>;
  static constexpr subject self{"nn::embedding", "nn/embedding"};

  template <class Ids> [[nodiscard]] static index_t id_at(const Ids& ids, index_t row) noexcept {
    return static_cast<index_t>(ids(row / ids.extent(1), row % ids.extent(1)));
  }

  template <class Ids, class Y> void check(const Ids& ids, const Y& y, const char* operand) const {
    self.expects_lengths("ids", ids);
    self.expects_shape(operand, y,
                       {{ids.extent(0), "batch", "ids"}, {ids.extent(1), "len", "ids"}, {dim(), "dim", "weight"}});
    self.expects(y.contiguous(), operand, " must be dense");
    check_ids(ids);
  }

  config options_;
};

}  // namespace seqprim::nn
