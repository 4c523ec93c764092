// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/index.hpp>
#include <seqprim/core/index_array.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/mask/rule.hpp>

#include <concepts>
#include <cstdint>
#include <type_traits>

/// Labels: a small integer for each token, which `by_label` compares instead of the positions: the number of a frame, of a
/// chunk, of a document, the rank in a permutation. They are computed from the index (`own`, `blocks_of`, `residue_of`) or
/// read from an array (`labels`).
/// Page: docs/reference/mask/labels.md
namespace seqprim::mask {

/// A label map: label(i) of token i, and bounds(tokens), the range from the least to the largest label of a range of tokens
/// that is not empty. It may offer more, which costs speed where it is missing: `tokens(labels)`, where labels never decrease,
/// is the range of tokens whose labels are in a range; `restart(tokens)`, where labels increase and start again, is the first token
/// behind tokens.begin that starts again, or tokens.end; `walk(tokens)` labels tokens one by one without a division.
template <class L>
concept label_map = std::is_trivially_copyable_v<L> && requires(const L& label, index_t i, range tokens) {
  { label(i) } -> std::same_as<index_t>;
  { label.bounds(tokens) } -> std::same_as<range>;
};

/// A label map whose labels never decrease.
template <class L> concept ordered_labels = label_map<L> && requires(const L& label, range labels) {
  { label.tokens(labels) } -> std::same_as<range>;
};

/// Labels that differ between batch rows: l.bind(batch, head) is the map of one of them.
template <class L> concept labels_per_batch = requires(const L& l, index_t batch, index_t head) {
  { l.bind(batch, head) } -> label_map;
};
template <class L> concept label_source = label_map<L> || labels_per_batch<L>;

/// The label map of one (batch, head).
template <label_source L>
[[nodiscard]] SEQPRIM_HD constexpr auto bind_labels(const L& l, index_t batch, index_t head) noexcept {
  if constexpr (labels_per_batch<L>) {
    return l.bind(batch, head);
  } else {
    return l;
  }
}

/// Labels that are read from memory end with it: l.labeled() is the range of tokens that have one.
template <class L> concept stored_labels = label_source<L> && requires(const L& l) {
  { l.labeled() } -> std::same_as<range>;
};
template <label_source L> [[nodiscard]] SEQPRIM_HD constexpr range labeled(const L& l) noexcept {
  if constexpr (stored_labels<L>) {
    return l.labeled();
  } else {
    return everywhere;
  }
}

namespace detail {

/// How many borders of blocks lie between token `first` and the i-th token behind it, for i below 2^19, by multiplication: tiles
/// ask for each of their tokens.
class border_count {
 public:
  SEQPRIM_HD constexpr border_count(index_t first, index_t size) noexcept {
    // Of blocks longer than any tile only the next border matters.
    const index_t left = size - floor_mod(first, size), edge = min_of(size, longest);
    begin_ = static_cast<std::uint64_t>(edge - min_of(left, edge));
    reciprocal_ = (std::uint64_t{1} << 40) / static_cast<std::uint64_t>(edge) + 1;
  }
  // Exact: (begin + i) * edge < 2^40.
  [[nodiscard]] SEQPRIM_HD constexpr index_t operator()(index_t i) const noexcept {
    return static_cast<index_t>(((begin_ + static_cast<std::uint64_t>(i)) * reciprocal_) >> 40);
  }

 private:
  static constexpr index_t longest = index_t{1} << 19;
  std::uint64_t begin_ = 0, reciprocal_ = 0;
};

/// The labels of one token after the other: what walk() of computed and of stored labels returns.
struct stepped_labels {
  index_t first, per_token, per_border;
  border_count borders;
  SEQPRIM_HD constexpr index_t operator()(index_t i) const noexcept {
    return first + i * per_token + borders(i) * per_border;
  }
};
struct stored_labels {
  const std::int32_t* first;
  SEQPRIM_HD constexpr index_t operator()(index_t i) const noexcept { return first[i]; }
};
template <class L> struct labels_from {
  L label;
  index_t begin;
  SEQPRIM_HD constexpr index_t operator()(index_t i) const noexcept { return label(begin + i); }
};

}  // namespace detail

/// The label of token tokens.begin + i as a function of i, for kernels that label the tokens of a tile; fewer than 2^19.
template <label_map L> [[nodiscard]] SEQPRIM_HD constexpr auto walk(const L& l, range tokens) noexcept {
  if constexpr (requires { l.walk(tokens); }) {
    return l.walk(tokens);
  } else {
    return detail::labels_from<L>{l, tokens.begin};
  }
}

/// The position itself as label.
struct own {
  SEQPRIM_HD constexpr index_t operator()(index_t i) const noexcept { return i; }
  SEQPRIM_HD constexpr range bounds(range tokens) const noexcept { return tokens; }
  SEQPRIM_HD constexpr range tokens(range labels) const noexcept { return labels; }
};

/// The position plus a constant: by_label{m, own{}, shifted_by{-n}} evaluates m at keys from n on.
struct shifted_by {
  index_t distance;  ///< label of token 0

  SEQPRIM_HD constexpr index_t operator()(index_t i) const noexcept { return i + distance; }
  SEQPRIM_HD constexpr range bounds(range tokens) const noexcept {
    return {tokens.begin + distance, tokens.end + distance};
  }
  SEQPRIM_HD constexpr range tokens(range labels) const noexcept {
    return {labels.begin - distance, labels.end - distance};
  }
};

/// The number of the block of `size` tokens: floor(i / size).
///
/// Errors  precondition_error: size < 1.
struct blocks_of {
  index_t size;  ///< tokens of a block

  SEQPRIM_HD constexpr index_t operator()(index_t i) const noexcept { return floor_div(i, size); }
  SEQPRIM_HD constexpr range bounds(range tokens) const noexcept {
    return {floor_div(tokens.begin, size), floor_div(tokens.end - 1, size) + 1};
  }
  SEQPRIM_HD constexpr range tokens(range labels) const noexcept {
    const auto first = [this](index_t label) {  // far away labels must not overflow
      const index_t last = unlimited / size;
      return label < -last ? -unlimited : label > last ? unlimited : label * size;
    };
    return {first(labels.begin), first(labels.end)};
  }
  SEQPRIM_HD constexpr detail::stepped_labels walk(range tokens) const noexcept {
    return {.first = (*this)(tokens.begin), .per_token = 0, .per_border = 1, .borders = {tokens.begin, size}};
  }

  constexpr void validate() const {
    subject{"mask::blocks_of", "mask/labels"}.expects(size >= 1, "size (", size, ") must be >= 1");
  }
};

/// The place within blocks of `modulus` tokens: i mod modulus, in [0, modulus).
///
/// Errors  precondition_error: modulus < 1 or >= 2^30.
struct residue_of {
  index_t modulus;  ///< tokens of a period

  SEQPRIM_HD constexpr index_t operator()(index_t i) const noexcept { return floor_mod(i, modulus); }
  SEQPRIM_HD constexpr range bounds(range tokens) const noexcept {
    const index_t first = floor_mod(tokens.begin, modulus), end = first + tokens.size();
    return end <= modulus ? range{first, end} : range{0, modulus};
  }
  SEQPRIM_HD constexpr index_t restart(range tokens) const noexcept {
    const index_t next = tokens.begin - floor_mod(tokens.begin, modulus) + modulus;
    return tokens.size() < modulus ? min_of(next, tokens.end) : tokens.end;
  }
  SEQPRIM_HD constexpr detail::stepped_labels walk(range tokens) const noexcept {
    return {.first = (*this)(tokens.begin), .per_token = 1, .per_border = -modulus, .borders = {tokens.begin, modulus}};
  }

  constexpr void validate() const {
    subject{"mask::residue_of", "mask/labels"}.expects(1 <= modulus && modulus < index_t{1} << 30, "modulus (", modulus,
                                                       ") must be in [1, 2^30)");
  }
};

/// The labels of one sequence, read from memory of `mask::labels`.
struct label_view {
  static constexpr index_t group = 32;  ///< tokens that share an entry of `low` and `high`

  const std::int32_t* values;  ///< [count]
  const std::int32_t* low;     ///< [ceil(count / group)] least label of each group
  const std::int32_t* high;    ///< [ceil(count / group)] largest label of each group
  index_t count;               ///< tokens that have a label; no other may be evaluated

  SEQPRIM_HD constexpr index_t operator()(index_t i) const noexcept { return values[i]; }
  SEQPRIM_HD constexpr range labeled() const noexcept { return {0, count}; }

  /// Exact: whole groups by their bounds, ragged ends label by label.
  SEQPRIM_HD constexpr range bounds(range tokens) const noexcept {
    std::int32_t least = values[tokens.begin], largest = least;
    const auto include = [&](std::int32_t a, std::int32_t b) {
      least = min_of(least, a);
      largest = max_of(largest, b);
    };
    index_t i = tokens.begin;
    for (; i < tokens.end && i % group != 0; ++i) include(values[i], values[i]);
    for (; i + group <= tokens.end || (i < tokens.end && tokens.end == count); i += group)
      include(low[i / group], high[i / group]);
    for (; i < tokens.end; ++i) include(values[i], values[i]);
    return {least, index_t{largest} + 1};
  }

  SEQPRIM_HD constexpr detail::stored_labels walk(range tokens) const noexcept { return {values + tokens.begin}; }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    visit(subject{"mask::label_view", "mask/labels"}, "values", borrowed{values, host_access::silent});
  }
};

/// The labels of a batch, as a view: bind(b, h) is the `label_view` of batch row b. One row serves every batch row.
struct label_rows {
  const std::int32_t* block;  ///< what labels::storage() holds, or a copy of it
  index_t batch;              ///< rows of labels
  index_t capacity;           ///< labels that a row has space for, a multiple of label_view::group
  index_t shortest;           ///< labels that every row has
  bool host_readable = true;  ///< false for memory that only the device can read

  SEQPRIM_HD constexpr range labeled() const noexcept { return {0, shortest}; }

  SEQPRIM_HD constexpr label_view bind(index_t batch_row, index_t) const noexcept {
    const index_t row = batch == 1 ? 0 : batch_row, groups = capacity / label_view::group;
    const std::int32_t* const low = block + batch * capacity;
    const std::int32_t* const high = low + batch * groups;
    return {block + row * capacity, low + row * groups, high + row * groups, high[batch * groups + row]};
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    visit(subject{"mask::labels", "mask/labels"}, "block",
          borrowed{block, host_readable ? host_access::checks : host_access::never});
  }

  constexpr void validate(index_t batch_rows) const {
    subject{"mask::labels", "mask/labels"}.expects(batch == 1 || batch >= batch_rows, batch, " rows of labels for ",
                                                   batch_rows, " batch rows");
  }
};
static_assert(label_map<own> && label_map<blocks_of> && label_map<residue_of> && label_map<label_view>);
static_assert(label_source<label_rows> && !label_map<label_rows>);

/// The owner of stored labels: a row of labels for each batch row, with the bounds of every 32 labels. Built once for a batch
/// and used by every layer; grows during decoding. Everything is in one block of memory, so that one copy brings it to a
/// device:
///
///     mask::labels frames(view);                                // [batch, len]
///     const mask::by_label on_host{mask::causal{}, frames.rows(), frames.rows()};
///     copy(device_pointer, frames.storage());                   // as many bytes as the view has
///     const mask::by_label on_device{mask::causal{}, frames.rows_in(device_pointer), frames.rows_in(device_pointer)};
///
/// rows() and storage() are valid until the next push_back and as long as the owner lives.
///
/// Errors  precondition_error: a label outside of [-2^30, 2^30); push_back to a row that does not exist. Labels are checked here,
///         once; views are not checked again.
/// Cost    4 bytes and one comparison for each label; push_back: amortized O(batch).
class labels {
 public:
  static constexpr subject self{"mask::labels", "mask/labels"};

  /// `batch` rows without labels yet, with space for `capacity` in each.
  explicit labels(index_t batch, index_t capacity = 0) : batch_(batch) {
    self.expects(batch >= 1 && capacity >= 0, "batch (", batch, ") must be >= 1 and capacity (", capacity, ") >= 0");
    capacity_ = round_up(capacity, label_view::group);
    block_ = tensor<std::int32_t, 1>(counts() + batch);
  }

  /// A row of labels for each batch row: [batch, len].
  template <viewable<2> Rows>
  explicit labels(const Rows& rows) : labels(as_view(rows).extent(0), as_view(rows).extent(1)) {
    for (index_t b = 0; b < batch_; ++b)
      for (index_t i = 0; i < as_view(rows).extent(1); ++i) push_back(b, static_cast<index_t>(as_view(rows)(b, i)));
  }
  /// One row of labels, which serves every batch row; from any container of 32 or 64 bit integers.
  template <seqprim::detail::holds_indices Row>
  requires(!viewable<Row, 2>) explicit labels(const Row& row) : labels(index_array(row)) {}
  explicit labels(const index_array& row) : labels(1, row.size()) {
    for (index_t i = 0; i < row.size(); ++i) push_back(0, row[i]);
  }

  /// The next token of a batch row gets this label.
  void push_back(index_t batch_row, index_t label) {
    self.expects(0 <= batch_row && batch_row < batch_, "there is no batch row ", batch_row, " of ", batch_);
    constexpr index_t end = index_t{1} << 30;
    self.expects(-end <= label && label < end, "label ", label, " of batch row ", batch_row, ", token ",
                 size(batch_row), ", must be in [-2^30, 2^30)");
    if (count(batch_row) == capacity_) reserve(max_of<index_t>(2 * capacity_, label_view::group));
    const index_t i = count(batch_row), first = batch_row * capacity_,
                  at = batch_row * groups() + i / label_view::group;
    std::int32_t& low = block_(batch_ * capacity_ + at);
    std::int32_t& high = block_(batch_ * (capacity_ + groups()) + at);
    const auto value = static_cast<std::int32_t>(label);
    low = i % label_view::group == 0 ? value : min_of(low, value);
    high = i % label_view::group == 0 ? value : max_of(high, value);
    block_(first + i) = value;
    ++count(batch_row);
  }

  [[nodiscard]] index_t batch() const noexcept { return batch_; }
  /// Labels of a batch row so far.
  [[nodiscard]] index_t size(index_t batch_row) const noexcept { return block_(counts() + batch_row); }

  /// The labels of all batch rows; for host kernels.
  [[nodiscard]] label_rows rows() const noexcept {
    index_t shortest = size(0);
    for (index_t b = 1; b < batch_; ++b) shortest = min_of(shortest, size(b));
    return {block_.data(), batch_, capacity_, shortest};
  }
  /// The labels of one batch row: a label map for masks that do not depend on the batch.
  [[nodiscard]] label_view row(index_t batch_row = 0) const noexcept { return rows().bind(batch_row, 0); }

  /// Everything that views read, in one block.
  [[nodiscard]] tensor_view<const std::int32_t, 1> storage() const noexcept { return block_.view(); }
  /// The labels of all batch rows, in a copy of storage() that the host need not be able to read.
  [[nodiscard]] label_rows rows_in(const std::int32_t* copy) const noexcept {
    label_rows result = rows();
    result.block = copy;
    result.host_readable = false;
    return result;
  }

  /// Makes space for this many labels in each row.
  void reserve(index_t capacity) {
    if (capacity <= capacity_) return;
    labels larger(batch_, capacity);
    for (index_t b = 0; b < batch_; ++b)
      for (index_t i = 0; i < size(b); ++i) larger.push_back(b, block_(b * capacity_ + i));
    *this = static_cast<labels&&>(larger);
  }

 private:
  // The block: values [batch, capacity], low [batch, groups], high [batch, groups], counts [batch].
  [[nodiscard]] index_t groups() const noexcept { return capacity_ / label_view::group; }
  [[nodiscard]] index_t counts() const noexcept { return batch_ * (capacity_ + 2 * groups()); }
  [[nodiscard]] std::int32_t& count(index_t batch_row) noexcept { return block_(counts() + batch_row); }

  index_t batch_;
  index_t capacity_ = 0;
  tensor<std::int32_t, 1> block_;
};

}  // namespace seqprim::mask
