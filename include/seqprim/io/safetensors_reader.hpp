// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/tensor.hpp>
#include <seqprim/io/detail/safetensors_header.hpp>
#include <seqprim/io/detail/strided.hpp>
#include <seqprim/io/detail/text.hpp>
#include <seqprim/io/dtype.hpp>
#include <seqprim/io/mapped_file.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace seqprim::io {

static_assert(std::endian::native == std::endian::little,
              "seqprim: safetensors files are little-endian, as must be the host");

/// A safetensors file in memory: typed, named tensors over bytes that belong to the caller.
///
/// Layout  8 bytes little-endian header length, JSON header {name: {dtype, shape, data_offsets}, "__metadata__":
///         {...}}, data. parse() checks all of it; afterwards each tensor lies within the bytes and no two overlap.
/// Types   dtypes of io/dtype.hpp. `view` and `load` need exactly the stored type; nothing is converted.
/// Edge    tensors without axes (one element) and without elements are valid; a `view` without elements has a null
///         pointer. The format does not align tensors: `view` needs an address that is aligned for T, `load`,
///         `copy_to`, `scalar` and `bytes` read any file. A file without tensors is `{}` after its length; an empty
///         file is an error.
/// Errors  io_error, naming file, tensor, numbers and rule: parse() for any file that breaks the format; the accessors
///         for a name that is missing, another dtype, rank or shape, a bool that is neither 0 nor 1. Headers above 100
///         MB and ranks above 64 are errors.
/// Cost    parse: one pass over the header, no access to the data; memory stays in proportion to the header. `view` of
///         a bool tensor reads it once, of others not.
/// Source  github.com/huggingface/safetensors, format and checks of the reference implementation.  Page
///         docs/reference/io/safetensors.md
class safetensors_view {
 public:
  /// Checks the header; `source` names the bytes in error messages.
  [[nodiscard]] static safetensors_view parse(std::span<const std::byte> bytes, std::string source) {
    safetensors_view result;
    result.source_ = std::move(source);
    const auto size = static_cast<std::uint64_t>(bytes.size());
    if (size < 8) result.fail("is ", size, " bytes long; a safetensors file has at least 8");
    std::uint64_t header = 0;
    std::memcpy(&header, bytes.data(), 8);
    if (header > static_cast<std::uint64_t>(detail::max_header_bytes))
      result.fail("header length (", header, ") exceeds the limit of ", detail::max_header_bytes, " bytes");
    if (header > size - 8) result.fail("header length (", header, ") exceeds the ", size - 8, " bytes that follow it");
    const auto* const text = reinterpret_cast<const char*>(bytes.data()) + 8;
    if (header == 0 || text[0] != '{') result.fail("the header (", header, " bytes) must begin with '{'");

    // The JSON parser takes a zero byte for the end of its input and would not look at what follows.
    if (const void* const zero = std::memchr(text, 0, static_cast<std::size_t>(header)); zero != nullptr)
      result.fail("the header holds a zero byte at header byte ", static_cast<const char*>(zero) - text);

    detail::header_grammar grammar;
    if (!nlohmann::json::sax_parse(text, text + header, &grammar)) result.fail("header: ", grammar.mistake);
    result.tensors_ = std::move(grammar.tensors);
    result.metadata_ = std::move(grammar.metadata);
    result.data_ = bytes.subspan(8 + static_cast<std::size_t>(header));

    const auto data_bytes = static_cast<index_t>(result.data_.size());
    for (const tensor_info& tensor : result.tensors_)
      if (const auto mistake = detail::check_numbers(tensor, data_bytes); !mistake.empty())
        result.fail("tensor ", detail::in_quotes(tensor.name), ": ", mistake);
    result.sort_by_name();
    if (const auto mistake = detail::check_layout(result.tensors_, data_bytes); !mistake.empty()) result.fail(mistake);
    return result;
  }

  /// The origin of the bytes, as error messages name it.
  [[nodiscard]] const std::string& source() const noexcept { return source_; }

  /// All tensors, by name.
  [[nodiscard]] const std::vector<tensor_info>& tensors() const noexcept { return tensors_; }

  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> result;
    result.reserve(tensors_.size());
    for (const tensor_info& tensor : tensors_) result.push_back(tensor.name);
    return result;
  }

  [[nodiscard]] bool contains(std::string_view name) const noexcept { return find(name) != nullptr; }

  [[nodiscard]] const tensor_info& info(std::string_view name) const {
    const tensor_info* const tensor = find(name);
    if (tensor == nullptr)
      fail("tensor ", detail::in_quotes(name), " is missing; the file has ", tensors_.size(), " tensors");
    return *tensor;
  }
  [[nodiscard]] io::dtype dtype(std::string_view name) const { return info(name).dtype; }
  [[nodiscard]] const std::vector<index_t>& shape(std::string_view name) const { return info(name).shape; }

  /// The elements of any tensor, as they are in the file.
  [[nodiscard]] std::span<const std::byte> bytes(std::string_view name) const { return bytes_of(info(name)); }

  /// The tensor inside the file. Lives as long as the bytes do.
  template <storable T, int Rank> [[nodiscard]] tensor_view<const T, Rank> view(std::string_view name) const {
    const tensor_info& tensor = expect<T>(name, Rank);
    const std::byte* const address = bytes_of(tensor).data();
    if (tensor.begin == tensor.end) return shaped<const T, Rank>(nullptr, tensor);
    if (reinterpret_cast<std::uintptr_t>(address) % alignof(T) != 0)
      fail("tensor ", detail::in_quotes(name), ": begins at byte ", tensor.begin,
           " of the data, which is not aligned to the ", alignof(T), " bytes of ", name_of(tensor.dtype),
           "; use load() to copy it");
    return shaped<const T, Rank>(reinterpret_cast<const T*>(address), tensor);
  }

  /// A copy of the tensor.
  template <storable T, int Rank> [[nodiscard]] seqprim::tensor<T, Rank> load(std::string_view name) const {
    const tensor_info& tensor = expect<T>(name, Rank);
    auto result = [&]<int... Axis>(std::integer_sequence<int, Axis...>) {
      return seqprim::tensor<T, Rank>(tensor.shape[Axis]...);
    }
    (std::make_integer_sequence<int, Rank>{});
    copy_bytes(tensor, result.data());
    return result;
  }

  /// Copies the tensor into a tensor or view that exists: same type and shape, any strides.
  template <class X>
  requires requires(X& x) { as_view(x); }
  void copy_to(std::string_view name, X&& out) const {
    const auto to = as_view(out);
    using T = typename decltype(to)::value_type;
    static_assert(!std::is_const_v<typename decltype(to)::element_type>,
                  "seqprim: safetensors_view::copy_to needs a view that it may write to");
    constexpr int rank = decltype(to)::rank;
    const tensor_info& tensor = expect<T>(name, rank);
    index_t extents[rank];
    for (int axis = 0; axis < rank; ++axis) extents[axis] = to.extent(axis);
    if (!std::equal(extents, extents + rank, tensor.shape.begin()))
      fail("tensor ", detail::in_quotes(name), ": has shape ", detail::list(tensor.shape), ", expected ",
           detail::list(extents));
    const std::byte* from = bytes_of(tensor).data();
    detail::for_each_offset(extents, to.strides, [&](index_t offset) {
      std::memcpy(to.data + offset, from, sizeof(T));
      from += sizeof(T);
    });
  }

  /// The only element of a tensor of any rank.
  template <storable T> [[nodiscard]] T scalar(std::string_view name) const {
    const tensor_info& tensor = expect<T>(name);
    if (tensor.end - tensor.begin != index_t{sizeof(T)})
      fail("tensor ", detail::in_quotes(name), ": has shape ", detail::list(tensor.shape), ", expected one element");
    T result;
    copy_bytes(tensor, &result);
    return result;
  }

  /// The text pairs of the header.
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
  [[nodiscard]] bool has_metadata(const std::string& key) const { return metadata_.contains(key); }
  [[nodiscard]] const std::string& metadata(const std::string& key) const {
    const auto found = metadata_.find(key);
    if (found == metadata_.end()) fail("metadata ", detail::in_quotes(key), " is missing");
    return found->second;
  }

 protected:
  safetensors_view() = default;

 private:
  template <class... Parts> [[noreturn, gnu::cold]] void fail(const Parts&... parts) const {
    detail::throw_io("safetensors file ", detail::printable(source_, 512), ": ", parts...,
                     ". See docs/reference/io/safetensors.md");
  }

  void sort_by_name() {
    std::sort(tensors_.begin(), tensors_.end(),
              [](const tensor_info& a, const tensor_info& b) { return a.name < b.name; });
    for (std::size_t i = 1; i < tensors_.size(); ++i)
      if (tensors_[i - 1].name == tensors_[i].name)
        fail("header: the tensor name ", detail::in_quotes(tensors_[i].name), " appears twice");
  }

  [[nodiscard]] const tensor_info* find(std::string_view name) const noexcept {
    const auto found = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                        [](const tensor_info& tensor, std::string_view n) { return tensor.name < n; });
    return found != tensors_.end() && found->name == name ? &*found : nullptr;
  }

  [[nodiscard]] std::span<const std::byte> bytes_of(const tensor_info& tensor) const noexcept {
    return data_.subspan(static_cast<std::size_t>(tensor.begin), static_cast<std::size_t>(tensor.end - tensor.begin));
  }

  /// The tensor of this name, if it holds T, and has `rank` axes where rank >= 0.
  template <class T> [[nodiscard]] const tensor_info& expect(std::string_view name, int rank = -1) const {
    const tensor_info& tensor = info(name);
    if (tensor.dtype != dtype_of<T>)
      fail("tensor ", detail::in_quotes(name), ": has dtype ", name_of(tensor.dtype), ", expected ",
           name_of(dtype_of<T>));
    if (rank >= 0 && tensor.shape.size() != static_cast<std::size_t>(rank))
      fail("tensor ", detail::in_quotes(name), ": has rank ", tensor.shape.size(), " (shape ",
           detail::list(tensor.shape), "), expected rank ", rank);
    if constexpr (std::is_same_v<T, bool>) {  // any other byte in a bool is undefined behavior
      index_t position = 0;
      for (const std::byte value : bytes_of(tensor)) {
        if (value > std::byte{1})
          fail("tensor ", detail::in_quotes(name), ": element ", position, " of BOOL is ", std::to_integer<int>(value),
               ", expected 0 or 1");
        ++position;
      }
    }
    return tensor;
  }

  template <class T, int Rank> [[nodiscard]] static tensor_view<T, Rank> shaped(T* data, const tensor_info& tensor) {
    return [&]<int... Axis>(std::integer_sequence<int, Axis...>) {
      return tensor_view<T, Rank>(data, tensor.shape[Axis]...);
    }
    (std::make_integer_sequence<int, Rank>{});
  }

  void copy_bytes(const tensor_info& tensor, void* to) const noexcept {
    const auto from = bytes_of(tensor);
    if (!from.empty()) std::memcpy(to, from.data(), from.size());
  }

  std::string source_;
  std::span<const std::byte> data_;
  std::vector<tensor_info> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// A safetensors file on disk, memory-mapped: a safetensors_view that owns its bytes. Move-only; views stay valid when it
/// moves and end with it. Errors, edge and cost as there and in mapped_file.
class safetensors_file : public safetensors_view {
 public:
  explicit safetensors_file(const std::string& path) : safetensors_file(mapped_file(path), path) {}

 private:
  safetensors_file(mapped_file file, const std::string& path)
      : safetensors_view(parse(file.bytes(), path)), file_(std::move(file)) {}

  mapped_file file_;
};

}  // namespace seqprim::io
