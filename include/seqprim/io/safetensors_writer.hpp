// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/tensor.hpp>
#include <seqprim/io/detail/safetensors_header.hpp>
#include <seqprim/io/detail/strided.hpp>
#include <seqprim/io/detail/text.hpp>
#include <seqprim/io/dtype.hpp>
#include <seqprim/io/replacement_file.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace seqprim::io {

/// Collects named tensors and writes them as one safetensors file.
///
/// Shapes  tensors and views of any rank and any strides; the file holds them dense, last axis fastest.
/// Types   those of io/dtype.hpp, stored as they are.
/// Layout  the same tensors and metadata give the same bytes, whatever the order of the calls: tensors with larger
///         elements first, then by name, so that each begins at a multiple of its element size; the header is padded
///         with spaces to a multiple of 8 bytes.
/// Edge    tensors without elements are kept; `add_scalar` writes a tensor without axes.
/// Errors  precondition_error: a name or metadata key used twice, the name "__metadata__", text that is not UTF-8, a
///         view without data, a header above 100 MB. io_error as in replacement_file; the old file is then untouched.
/// Cost    add() copies nothing: what a view points to must live and stay unchanged until the last save().
/// Source  github.com/huggingface/safetensors.  Page docs/reference/io/safetensors.md
class safetensors_writer {
 public:
  /// One text pair for the header.
  void metadata(const std::string& key, const std::string& value) {
    auto text = json_text(key, "metadata key") + ':' + json_text(value, "metadata value of " + detail::in_quotes(key));
    SEQPRIM_EXPECTS(metadata_.emplace(key, std::move(text)).second, "safetensors_writer: the metadata key ",
                    detail::in_quotes(key), " is used twice", page);
  }

  /// A tensor or view that outlives the last save().
  template <class X>
  requires requires(const X& x) { as_view(x); }
  void add(const std::string& name, const X& values) {
    const auto view = as_view(values);
    using T = typename decltype(view)::value_type;
    static_assert(storable<T>,
                  "seqprim: safetensors has no dtype for this element type. See docs/reference/io/safetensors.md");
    entry tensor{.dtype = dtype_of<T>, .data = reinterpret_cast<const std::byte*>(view.data)};
    for (int axis = 0; axis < view.rank; ++axis) {
      tensor.shape.push_back(view.extent(axis));
      tensor.strides.push_back(view.strides[axis]);
    }
    tensor.dense = view.contiguous();
    insert(name, std::move(tensor));
  }

  /// The writer keeps a reference: a temporary would be gone when it saves.
  template <class T, int Rank> void add(const std::string& name, const tensor<T, Rank>&& values) = delete;

  /// One value without axes, copied.
  template <storable T> void add_scalar(const std::string& name, T value) {
    entry tensor{.dtype = dtype_of<T>, .dense = true};
    std::memcpy(tensor.scalar, &value, sizeof(T));
    insert(name, std::move(tensor));
  }

  /// Writes the file under a temporary name, makes it durable and renames it to `path`.
  void save(const std::string& path) const {
    const std::string head = header();
    replacement_file file(path);
    write(head, [&file](std::span<const std::byte> part) { file.write(part); });
    file.commit();
  }

  /// The same file in memory.
  [[nodiscard]] std::vector<std::byte> bytes() const {
    std::vector<std::byte> result;
    write(header(),
          [&result](std::span<const std::byte> part) { result.insert(result.end(), part.begin(), part.end()); });
    return result;
  }

 private:
  static constexpr const char* page = ". See docs/reference/io/safetensors.md";

  struct entry {
    io::dtype dtype{};
    const std::byte* data = nullptr;  // null: `scalar`
    std::vector<index_t> shape{};
    std::vector<index_t> strides{};  // in elements
    index_t size = 0;                // bytes
    bool dense = false;
    std::byte scalar[8] = {};
  };
  using named_entry = std::map<std::string, entry>::value_type;

  /// Text as JSON, quotes included.
  [[nodiscard]] static std::string json_text(const std::string& text, const std::string& what) {
    try {
      return nlohmann::json(text).dump();
    } catch (const nlohmann::json::exception&) {
      throw precondition_error(message("safetensors_writer: the ", what, " must be UTF-8", page));
    }
  }

  void insert(const std::string& name, entry&& tensor) {
    const std::string quoted = detail::in_quotes(name);
    SEQPRIM_EXPECTS(name != detail::metadata_key, "safetensors_writer: the name \"__metadata__\" is reserved", page);
    SEQPRIM_EXPECTS(!tensors_.contains(name), "safetensors_writer: the tensor name ", quoted, " is used twice", page);
    static_cast<void>(json_text(name, "tensor name " + quoted));
    // Extents of zero are left out, as the reader does.
    tensor.size = size_of(tensor.dtype);
    bool empty = false;
    for (const index_t extent : tensor.shape) {
      SEQPRIM_EXPECTS(extent >= 0, "safetensors_writer: tensor ", quoted,
                      " has a negative extent: ", detail::list(tensor.shape), page);
      if (extent == 0)
        empty = true;
      else
        SEQPRIM_EXPECTS(detail::multiplies(tensor.size, extent, tensor.size), "safetensors_writer: tensor ", quoted,
                        " of shape ", detail::list(tensor.shape), " is more than 2^63 - 1 bytes", page);
    }
    if (empty) tensor.size = 0;
    SEQPRIM_EXPECTS(tensor.data != nullptr || empty || tensor.shape.empty(), "safetensors_writer: tensor ", quoted,
                    " of shape ", detail::list(tensor.shape), " has no data", page);
    tensors_.emplace(name, std::move(tensor));
  }

  /// The tensors as they lie in the file: larger elements first, then by name.
  [[nodiscard]] std::vector<const named_entry*> in_order() const {
    std::vector<const named_entry*> result;
    result.reserve(tensors_.size());
    for (const auto& tensor : tensors_) result.push_back(&tensor);
    std::stable_sort(result.begin(), result.end(), [](const named_entry* a, const named_entry* b) {
      return size_of(a->second.dtype) > size_of(b->second.dtype);
    });
    return result;
  }

  /// The length field and the padded JSON.
  [[nodiscard]] std::string header() const {
    std::string text = "{";
    if (!metadata_.empty()) {
      text += "\"__metadata__\":{";
      bool first = true;
      for (const auto& pair : metadata_) {
        if (!std::exchange(first, false)) text += ',';
        text += pair.second;
      }
      text += '}';
    }
    index_t offset = 0;
    for (const named_entry* tensor : in_order()) {
      const entry& values = tensor->second;
      SEQPRIM_EXPECTS(values.size <= std::numeric_limits<index_t>::max() - offset,
                      "safetensors_writer: the tensors are more than 2^63 - 1 bytes", page);
      if (text.size() > 1) text += ',';
      text +=
          message(json_text(tensor->first, "tensor name"), ":{\"dtype\":\"", name_of(values.dtype), "\",\"shape\":[");
      for (std::size_t axis = 0; axis < values.shape.size(); ++axis) {
        if (axis > 0) text += ',';
        text += std::to_string(values.shape[axis]);
      }
      text += message("],\"data_offsets\":[", offset, ',', offset + values.size, "]}");
      offset += values.size;
    }
    text += '}';
    while (text.size() % 8 != 0) text += ' ';
    SEQPRIM_EXPECTS(static_cast<index_t>(text.size()) <= detail::max_header_bytes, "safetensors_writer: the header (",
                    text.size(), " bytes) exceeds the limit of ", detail::max_header_bytes, " bytes", page);
    const std::uint64_t length = text.size();
    std::string result(sizeof(length), '\0');
    std::memcpy(result.data(), &length, sizeof(length));
    return result + text;
  }

  template <class Sink> void write(const std::string& head, const Sink& sink) const {
    sink(std::as_bytes(std::span(head)));
    for (const named_entry* tensor : in_order()) {
      const entry& values = tensor->second;
      if (values.dense) {
        const std::byte* const data = values.data == nullptr ? values.scalar : values.data;
        sink(std::span(data, static_cast<std::size_t>(values.size)));
      } else {
        gather(values, sink);
      }
    }
  }

  /// A strided tensor in row-major order, through a buffer of bounded size.
  template <class Sink> static void gather(const entry& values, const Sink& sink) {
    constexpr std::size_t capacity = 1 << 16;
    const auto size = static_cast<std::size_t>(size_of(values.dtype));
    std::vector<std::byte> buffer;
    buffer.reserve(capacity);
    detail::for_each_offset(values.shape, values.strides, [&](index_t offset) {
      const std::byte* const element = values.data + offset * static_cast<index_t>(size);
      buffer.insert(buffer.end(), element, element + size);
      if (buffer.size() < capacity) return;
      sink(std::span<const std::byte>(buffer));
      buffer.clear();
    });
    sink(std::span<const std::byte>(buffer));
  }

  std::map<std::string, entry> tensors_;
  std::map<std::string, std::string> metadata_;  // key -> "key":"value" as JSON
};

}  // namespace seqprim::io
