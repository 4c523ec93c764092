// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/nn/embedding.hpp>
#include <seqprim/nn/linear.hpp>
#include <seqprim/nn/parameter.hpp>

#include <concepts>
#include <string>
#include <utility>
#include <vector>

namespace seqprim::nn {

namespace detail {

template <class B, class T = typename B::value_type>
concept decoder_block = requires(B& block, const B& fixed, const cpu& executor, tensor_view<const T, 3> x,
                                 tensor_view<T, 3> y, index_t n, const typename B::config& options,
                                 typename B::activations& saved, typename B::state& past) {
  typename B::isa;
  typename B::norm_type;
  B(n, options);
  requires std::constructible_from<typename B::norm_type, index_t, decltype(options.norm)>;
  requires std::constructible_from<typename B::state, const B&, index_t, index_t>;
  fixed.forward(executor, x, y, saved);
  block.backward(executor, x, x, y, saved);
  fixed.extend(executor, x, y, past, n, n);
  fixed.validate_extend(std::as_const(past), n, n, n, n);
  { fixed.next_cut(n, n, n, n) } -> std::same_as<index_t>;
};

}  // namespace detail

/// Named requirement of the decoder.
template <class Block> consteval bool require_block() {
  static_assert(
      detail::decoder_block<Block>,
      "seqprim: a decoder is made of nn::block<Mixer, Mlp, Norm>, or of a type with its members; a mixer alone is "
      "no block. See docs/reference/nn/decoder.md");
  return true;
}

/// A decoder language model: embedding, blocks, final norm, head.
///
///     hidden = norm(block(... block(embed(ids))))        logits = hidden W_head^T
///
/// forward returns the hidden states; the loss takes them together with `head_weight()`, so that logits need never
/// exist (loss::linear_cross_entropy). Parameters are visited under the names of published Llama checkpoints.
///
/// Shapes  ids [batch, len]; hidden [batch, len, dim]; logits [..., vocab]. Hidden states live in `saved` until its
///         next use.
/// Errors  precondition_error, which changes nothing: an id outside [0, vocab), shapes disagree, decoding beyond the
///         capacity of the state, a state that was made for a model of another shape, a mask under which a token that the
///         state holds attends to a new one (all layers and chunks are checked before the first one writes), backward without
///         its forward.
/// Repeat  same bits for any number of threads, whole training steps included. prefill and step give the logits of one forward
///         pass over all tokens read so far, up to rounding, or refuse. A mask that looks ahead therefore needs the tokens that see
///         each other in one call: `prefix` its prefix, `full` all of them.
/// Cost    its parts. `activations` and `decode_state` grow on first use; later passes of that size allocate only
///         packing scratch inside the kernels.
/// Source  Touvron et al., "LLaMA".  Page docs/reference/nn/decoder.md
template <class Block> class decoder {
  static_assert(require_block<Block>());

 public:
  using value_type = typename Block::value_type;
  using isa = typename Block::isa;
  using norm_type = typename Block::norm_type;

  struct config {
    index_t vocab = 0;
    index_t dim = 0;
    index_t layers = 0;
    typename Block::config block = {};
    bool tied_head = false;  ///< the head is the embedding
    value_type embedding_scale = 1;
  };

  struct activations {
    typename embedding<value_type, isa>::activations embed;
    std::vector<typename Block::activations> blocks;
    std::vector<buffer<value_type>> streams;  ///< the input of each block, and of the final norm
    typename norm_type::activations norm;
    buffer<value_type> hidden;
    buffer<value_type> gradient;
    index_t batch = -1, len = -1;  ///< of the forward whose backward is due
  };

  /// The decode state of `batch` sequences of at most `capacity` tokens, all of one length.
  class decode_state {
   public:
    decode_state() = default;
    decode_state(const decoder& model, index_t batch, index_t capacity) : batch_(batch), capacity_(capacity) {
      SEQPRIM_EXPECTS(batch >= 1 && capacity >= 1, "nn::decoder: batch (", batch, ") and capacity (", capacity,
                      ") of a decode state must be >= 1. See docs/reference/nn/decoder.md");
      blocks_.reserve(model.blocks.size());
      for (const Block& b : model.blocks) blocks_.emplace_back(b, batch, capacity);
    }

    [[nodiscard]] index_t batch() const noexcept { return batch_; }
    [[nodiscard]] index_t capacity() const noexcept { return capacity_; }
    /// Tokens read so far.
    [[nodiscard]] index_t length() const noexcept { return length_; }
    /// Removes all tokens, keeps the memory.
    void clear() noexcept { length_ = 0; }

   private:
    friend class decoder;
    index_t batch_ = 0, capacity_ = 0, length_ = 0;
    std::vector<typename Block::state> blocks_;
    buffer<value_type> stream_, next_, hidden_;
    typename norm_type::activations norm_;
  };

  embedding<value_type, isa> embed;
  std::vector<Block> blocks;
  norm_type norm;
  linear<value_type, isa> head;  ///< without content when the head is tied

  decoder() = default;
  explicit decoder(const config& options) {
    SEQPRIM_EXPECTS(options.vocab >= 1 && options.dim >= 1 && options.layers >= 1, "nn::decoder: vocab (",
                    options.vocab, "), dim (", options.dim, ") and layers (", options.layers,
                    ") must be >= 1. See docs/reference/nn/decoder.md");
    embed = embedding<value_type, isa>(options.vocab, options.dim, {.scale = options.embedding_scale});
    blocks.reserve(static_cast<std::size_t>(options.layers));
    for (index_t l = 0; l < options.layers; ++l) blocks.emplace_back(options.dim, options.block);
    norm = norm_type(options.dim, options.block.norm);
    if (!options.tied_head) head = linear<value_type, isa>(options.dim, options.vocab);
  }

  [[nodiscard]] index_t vocab() const noexcept { return embed.vocab(); }
  [[nodiscard]] index_t dim() const noexcept { return embed.dim(); }
  [[nodiscard]] index_t layers() const noexcept { return static_cast<index_t>(blocks.size()); }

  /// The matrix [vocab, dim] that makes logits: of the head, or of the embedding when tied.
  [[nodiscard]] parameter<value_type, 2>& head_weight() noexcept {
    return head.weight.present() ? head.weight : embed.weight;
  }
  [[nodiscard]] const parameter<value_type, 2>& head_weight() const noexcept {
    return head.weight.present() ? head.weight : embed.weight;
  }

  /// The hidden states [batch, len, dim] after the final norm; they live in `saved` until its next use.
  template <id_viewable Ids>
  tensor_view<value_type, 3> forward(const cpu& executor, const Ids& tokens, activations& saved) const {
    const auto ids = as_view(tokens);
    const index_t batch = ids.extent(0), len = ids.extent(1);
    executor.validate();
    self.expects_lengths("ids", ids);
    embed.check_ids(ids);
    saved.batch = -1;  // whatever it held before is gone
    saved.blocks.resize(blocks.size());
    saved.streams.resize(blocks.size() + 1);
    auto stream = saved.streams[0].view(batch, len, dim());
    embed.forward(executor, ids, stream);
    for (std::size_t l = 0; l < blocks.size(); ++l) {
      const auto next = saved.streams[l + 1].view(batch, len, dim());
      blocks[l].forward(executor, stream, next, saved.blocks[l]);
      stream = next;
    }
    const auto hidden = saved.hidden.view(batch, len, dim());
    norm.forward(executor, stream, hidden, saved.norm);
    saved.batch = batch;
    saved.len = len;
    return hidden;
  }

  /// logits = hidden W_head^T, for any number of rows.
  template <row_viewable Hidden, row_viewable Logits>
  void logits(const cpu& executor, const Hidden& hidden_states, Logits&& result) const {
    const auto hidden = detail::rows_of(self, "hidden", hidden_states);
    const auto out = detail::rows_of(self, "logits", result);
    detail::expect_features(self, "hidden", hidden, "dim", dim());
    detail::expect_features(self, "logits", out, "vocab", vocab());
    detail::expect_same_rows(self, "logits", out, "hidden", hidden);
    linalg::matmul<isa>(executor, hidden, head_weight().value.view().transposed(0, 1), out);
  }

  /// Adds to the gradients of everything below the head, from the gradient of the hidden states. The gradient of
  /// head_weight() comes from the loss. saved is from the forward of the same ids; call once for each forward.
  template <id_viewable Ids, viewable<3> Dhidden>
  void backward(const cpu& executor, const Ids& tokens, const Dhidden& hidden_gradient, activations& saved) {
    const auto ids = as_view(tokens);
    const index_t batch = ids.extent(0), len = ids.extent(1);
    SEQPRIM_EXPECTS(saved.batch == batch && saved.len == len && saved.blocks.size() == blocks.size(),
                    "nn::decoder: backward of ids [", batch, ", ", len,
                    "] requires the activations of a forward pass over the same ids, not used by another backward. See "
                    "docs/reference/nn/decoder.md");
    const auto dhidden = as_view(hidden_gradient);
    SEQPRIM_EXPECTS(dhidden.extent(0) == batch && dhidden.extent(1) == len && dhidden.extent(2) == dim(),
                    "nn::decoder: hidden_gradient [", dhidden.extent(0), ", ", dhidden.extent(1), ", ",
                    dhidden.extent(2), "] must be [", batch, ", ", len, ", ", dim(),
                    "]. See docs/reference/nn/decoder.md");
    self.expects_lengths("hidden_gradient", dhidden);
    self.expects(dhidden.contiguous(), "hidden_gradient must be dense");
    executor.validate();
    embed.check_ids(ids);
    saved.batch = -1;
    const auto stream = [&](std::size_t l) { return saved.streams[l].view(batch, len, dim()); };
    const auto gradient = saved.gradient.view(batch, len, dim());
    norm.backward(executor, stream(blocks.size()), hidden_gradient, gradient, saved.norm);
    for (std::size_t l = blocks.size(); l-- > 0;)
      blocks[l].backward(executor, stream(l), gradient, gradient, saved.blocks[l]);
    embed.backward(executor, ids, gradient, saved.embed);
  }

  /// Reads the next tokens of each sequence and gives the logits [batch, vocab] that follow the last of them. Long inputs
  /// are read in chunks of 256 tokens, which bounds the memory of the state; a chunk is longer where a mask may not be cut after
  /// 256 (mask::next_cut).
  template <id_viewable Ids, viewable<2> Logits>
  void prefill(const cpu& executor, const Ids& tokens, decode_state& state, Logits&& result) const {
    const auto ids = as_view(tokens);
    const auto out = as_view(result);
    const index_t batch = ids.extent(0), len = ids.extent(1);
    constexpr const char* page = ". See docs/reference/nn/decoder.md";
    SEQPRIM_EXPECTS(state.blocks_.size() == blocks.size(), "nn::decoder: the decode state has ", state.blocks_.size(),
                    " layers, but the model has ", blocks.size(), ": it was made for another model", page);
    SEQPRIM_EXPECTS(batch == state.batch_, "nn::decoder: ids hold ", batch,
                    " sequences, but the decode state was made for ", state.batch_, page);
    self.expects_lengths("ids", ids);
    SEQPRIM_EXPECTS(len >= 1, "nn::decoder: at least one token must be read", page);
    SEQPRIM_EXPECTS(len <= state.capacity_ - state.length_, "nn::decoder: ", len, " tokens after ", state.length_,
                    " exceed the capacity (", state.capacity_, ") of the decode state", page);
    SEQPRIM_EXPECTS(out.extent(0) == batch && out.extent(1) == vocab(), "nn::decoder: logits [", out.extent(0), ", ",
                    out.extent(1), "] must be [", batch, ", vocab (", vocab(), ")]", page);
    self.expects_contiguous("logits", out);
    self.expects_distinct("logits", out);
    self.expects_apart("logits", out, "the weight of the head", head_weight().value.view());
    executor.validate();
    embed.check_ids(ids);
    const index_t start = state.length_, end = start + len;
    const std::vector<range> chunks = chunks_of(state, {start, end});
    for (const range& chunk : chunks)
      read(executor, ids.slice(1, {chunk.begin - start, chunk.end - start}), state, chunk, end);
    state.length_ = end;
    const index_t rows_left = chunks.back().size();
    const auto last = state.stream_.view(batch, rows_left, dim()).slice(1, {rows_left - 1, rows_left});
    const tensor_view<const value_type, 2> rows(last.data, {batch, dim()}, {last.strides[0], 1});
    const auto hidden = state.hidden_.view(batch, dim());
    norm.forward(executor, rows, hidden, state.norm_);
    logits(executor, hidden, out);
  }

  /// One token of each sequence: tokens [batch], logits [batch, vocab].
  template <viewable<1> Tokens, viewable<2> Logits>
  void step(const cpu& executor, const Tokens& tokens, decode_state& state, Logits&& result) const {
    const auto ids = as_view(tokens);
    using id = element_of<Tokens>;
    prefill(executor, tensor_view<const id, 2>(ids.data, {ids.extent(0), 1}, {ids.strides[0], 1}), state, result);
  }

  template <class Visit> void visit_parameters(Visit&& visit) { visit_all(*this, visit); }
  template <class Visit> void visit_parameters(Visit&& visit) const { visit_all(*this, visit); }

 private:
  static constexpr subject self{"nn::decoder", "nn/decoder"};
  static constexpr index_t prefill_chunk = 256;

  /// The chunks in which the tokens of a call are read: each ends where all layers may be cut, and all layers accept it.
  [[nodiscard]] std::vector<range> chunks_of(const decode_state& state, range tokens) const {
    std::vector<range> chunks;
    const auto validate = [&](range chunk) {
      for (std::size_t l = 0; l < blocks.size(); ++l)
        blocks[l].validate_extend(state.blocks_[l], state.batch_, chunk.begin, chunk.size(), tokens.end);
    };
    validate(tokens);
    for (index_t begin = tokens.begin; begin < tokens.end;) {
      index_t cut = min_of(begin + prefill_chunk, tokens.end);
      for (index_t before = begin; before != cut;) {
        before = cut;
        for (const Block& block : blocks) cut = block.next_cut(state.batch_, begin, cut, tokens.end);
      }
      chunks.push_back({begin, cut});
      begin = cut;
    }
    if (chunks.size() > 1)
      for (const range& chunk : chunks) validate(chunk);
    return chunks;
  }

  /// Runs the tokens of a chunk through the blocks; leaves the stream in state.stream_.
  template <class Ids>
  void read(const cpu& executor, const Ids& ids, decode_state& state, range chunk, index_t end) const {
    const index_t batch = ids.extent(0), len = ids.extent(1);
    embed.forward(executor, ids, state.stream_.view(batch, len, dim()));
    for (std::size_t l = 0; l < blocks.size(); ++l) {
      blocks[l].extend(executor, state.stream_.view(batch, len, dim()), state.next_.view(batch, len, dim()),
                       state.blocks_[l], chunk.begin, end);
      std::swap(state.stream_, state.next_);
    }
  }

  template <class Self, class Visit> static void visit_all(Self& model, Visit& visit) {
    model.embed.visit_parameters(nested("model.embed_tokens", visit));
    for (std::size_t l = 0; l < model.blocks.size(); ++l)
      model.blocks[l].visit_parameters(nested("model.layers." + std::to_string(l), visit));
    model.norm.visit_parameters(nested("model.norm", visit));
    if (model.head.weight.present()) model.head.visit_parameters(nested("lm_head", visit));
  }
};

}  // namespace seqprim::nn
