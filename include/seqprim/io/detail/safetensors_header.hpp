// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/io/detail/text.hpp>
#include <seqprim/io/dtype.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace seqprim::io {

/// One tensor of a file.
struct tensor_info {
  std::string name;
  io::dtype dtype{};
  std::vector<index_t> shape;  ///< empty: one element
  index_t begin = 0;           ///< bytes from the start of the data section
  index_t end = 0;
};

}  // namespace seqprim::io

namespace seqprim::io::detail {

inline constexpr std::string_view metadata_key = "__metadata__";
inline constexpr index_t max_header_bytes = 100'000'000;  // the limit of the reference implementation
inline constexpr std::size_t max_rank = 64;               // as in NumPy and PyTorch

[[nodiscard]] constexpr bool multiplies(index_t a, index_t b, index_t& product) noexcept {
  return !__builtin_mul_overflow(a, b, &product);
}

/// Takes the events of the JSON parser and accepts exactly the header grammar of safetensors; nothing is built that the
/// grammar does not know, so memory stays in proportion to the header and nesting is bounded. Stops at the first
/// mistake and keeps one sentence about it.
class header_grammar {
 public:
  std::vector<tensor_info> tensors;  // in file order
  std::map<std::string, std::string> metadata;
  std::string mistake;  // empty: none so far

  bool start_object(std::size_t) {
    switch (place_) {
      case place::before: place_ = place::root; return true;
      case place::entry: place_ = name_ == metadata_key ? place::metadata : place::tensor; return true;
      default: return unexpected("an object");
    }
  }

  bool key(std::string& text) {
    switch (place_) {
      case place::root:
        name_ = std::move(text);
        current_ = {};
        seen_dtype_ = seen_shape_ = seen_offsets_ = false;
        place_ = place::entry;
        if (name_ != metadata_key) return true;
        if (std::exchange(seen_metadata_, true)) return fail("the key \"__metadata__\" appears twice");
        return true;
      case place::metadata:
        metadata_name_ = std::move(text);
        place_ = place::metadata_value;
        if (metadata.contains(metadata_name_))
          return fail("the metadata key ", in_quotes(metadata_name_), " appears twice");
        return true;
      case place::tensor:
        if (text == "dtype") return field(place::dtype, seen_dtype_, text);
        if (text == "shape") return field(place::shape, seen_shape_, text);
        if (text == "data_offsets") return field(place::offsets, seen_offsets_, text);
        return tensor_fail("unknown key ", in_quotes(text), "; a tensor has dtype, shape and data_offsets");
      default: return unexpected("a key");
    }
  }

  bool string(std::string& text) {
    if (place_ == place::metadata_value) {
      metadata.emplace(std::move(metadata_name_), std::move(text));
      place_ = place::metadata;
      return true;
    }
    if (place_ != place::dtype) return unexpected("a string");
    const auto type = find_dtype(text);
    if (!type) return tensor_fail("unknown dtype ", in_quotes(text));
    current_.dtype = *type;
    place_ = place::tensor;
    return true;
  }

  bool start_array(std::size_t) {
    switch (place_) {
      case place::shape: place_ = place::shape_item; return true;
      case place::offsets:
        place_ = place::offset_item;
        offsets_ = 0;
        return true;
      default: return unexpected("an array");
    }
  }

  bool number_unsigned(std::uint64_t number) {
    if (number > static_cast<std::uint64_t>(std::numeric_limits<index_t>::max()))
      return bad_number(std::to_string(number));
    const auto value = static_cast<index_t>(number);
    if (place_ == place::shape_item) {
      if (current_.shape.size() == max_rank) return tensor_fail("shape has more than ", max_rank, " axes");
      current_.shape.push_back(value);
      return true;
    }
    if (place_ == place::offset_item) {
      if (offsets_ == 2) return tensor_fail("data_offsets must be two integers, found more");
      (offsets_++ == 0 ? current_.begin : current_.end) = value;
      return true;
    }
    return unexpected("a number");
  }
  // The parser sends what is not negative to number_unsigned, and what exceeds 64 bits to number_float.
  bool number_integer(std::int64_t number) { return bad_number(std::to_string(number)); }
  bool number_float(double, const std::string& text) { return bad_number(printable(text)); }

  bool end_array() {
    if (place_ == place::offset_item && offsets_ != 2)
      return tensor_fail("data_offsets must be two integers, found ", offsets_);
    place_ = place::tensor;
    return true;
  }

  bool end_object() {
    if (place_ == place::tensor) {
      if (!seen_dtype_) return tensor_fail("dtype is missing");
      if (!seen_shape_) return tensor_fail("shape is missing");
      if (!seen_offsets_) return tensor_fail("data_offsets are missing");
      current_.name = std::move(name_);
      tensors.push_back(std::move(current_));
    }
    place_ = place_ == place::root ? place::after : place::root;
    return true;
  }

  bool null() { return unexpected("null"); }
  bool boolean(bool value) { return unexpected(value ? "true" : "false"); }
  bool binary(const nlohmann::json::binary_t&) { return unexpected("binary data"); }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& error) {
    return fail("not valid JSON at header byte ", position, ": ", printable(error.what(), 240));
  }

 private:
  // Where in the grammar the next event falls.
  enum class place {
    before,          // the object that everything is in
    root,            // a name, or the end
    entry,           // the object of a name
    tensor,          // dtype, shape or data_offsets, or the end
    dtype,           // a string
    shape,           // an array
    shape_item,      // an extent, or the end
    offsets,         // an array
    offset_item,     // an offset, or the end
    metadata,        // a key, or the end
    metadata_value,  // a string
    after,           // nothing
  };

  template <class... Parts> bool fail(const Parts&... parts) {
    mistake = message(parts...);
    return false;
  }
  template <class... Parts> bool tensor_fail(const Parts&... parts) {
    return fail("tensor ", in_quotes(name_), ": ", parts...);
  }

  bool bad_number(const std::string& text) {
    if (place_ == place::shape_item)
      return tensor_fail("shape holds ", text, "; extents must be integers in [0, 2^63)");
    if (place_ == place::offset_item)
      return tensor_fail("data_offsets hold ", text, "; offsets must be integers in [0, 2^63)");
    return unexpected("a number");
  }

  bool field(place next, bool& seen, const std::string& text) {
    if (std::exchange(seen, true)) return tensor_fail("the key ", in_quotes(text), " appears twice");
    place_ = next;
    return true;
  }

  bool unexpected(const char* found) {
    switch (place_) {
      case place::entry:
        if (name_ == metadata_key) return fail("\"__metadata__\" must be an object of strings, found ", found);
        return tensor_fail("must be an object with dtype, shape and data_offsets, found ", found);
      case place::dtype: return tensor_fail("dtype must be a string, found ", found);
      case place::shape: return tensor_fail("shape must be an array of integers, found ", found);
      case place::shape_item: return tensor_fail("shape must hold integers, found ", found);
      case place::offsets:
      case place::offset_item: return tensor_fail("data_offsets must be two integers, found ", found);
      case place::metadata_value:
        return fail("the metadata value of ", in_quotes(metadata_name_), " must be a string, found ", found);
      default: return fail("the header must be one JSON object, found ", found);
    }
  }

  place place_ = place::before;
  std::string name_;           // of the entry being read
  std::string metadata_name_;  // of the metadata value being read
  tensor_info current_;
  int offsets_ = 0;  // how many offsets were read
  bool seen_metadata_ = false;
  bool seen_dtype_ = false;
  bool seen_shape_ = false;
  bool seen_offsets_ = false;
};

/// The error in the offsets and sizes of one tensor, given the bytes that follow the header; empty when there is none.
[[nodiscard]] inline std::string check_numbers(const tensor_info& tensor, index_t data_bytes) {
  // Extents of zero are left out, so that strides, which also multiply the others, cannot overflow later.
  index_t bytes = size_of(tensor.dtype);
  bool empty = false;
  for (const index_t extent : tensor.shape) {
    if (extent == 0) {
      empty = true;
    } else if (!multiplies(bytes, extent, bytes)) {
      return message("shape ", list(tensor.shape), " of ", name_of(tensor.dtype), " is more than 2^63 - 1 bytes");
    }
  }
  if (empty) bytes = 0;
  const std::string offsets = message("data_offsets [", tensor.begin, ", ", tensor.end, "]");
  if (tensor.begin > tensor.end) return offsets + " end before they begin";
  if (tensor.end > data_bytes) return message(offsets, " reach beyond the ", data_bytes, " bytes of data");
  if (tensor.end - tensor.begin != bytes)
    return message(offsets, " hold ", tensor.end - tensor.begin, " bytes, but shape ", list(tensor.shape), " of ",
                   name_of(tensor.dtype), " needs ", bytes);
  return {};
}

/// What is wrong with how the tensors lie in the data; empty when they cover it without overlap or hole.
[[nodiscard]] inline std::string check_layout(const std::vector<tensor_info>& tensors, index_t data_bytes) {
  std::vector<const tensor_info*> in_order;
  in_order.reserve(tensors.size());
  for (const tensor_info& tensor : tensors) in_order.push_back(&tensor);
  std::sort(in_order.begin(), in_order.end(), [](const tensor_info* a, const tensor_info* b) {
    return a->begin != b->begin ? a->begin < b->begin : a->end < b->end;  // one without elements before its neighbor
  });
  index_t end = 0;
  const tensor_info* previous = nullptr;
  for (const tensor_info* tensor : in_order) {
    if (tensor->begin < end)
      return message("tensor ", in_quotes(tensor->name), " at byte ", tensor->begin, " overlaps tensor ",
                     in_quotes(previous->name), ", which ends at byte ", end);
    if (tensor->begin > end)
      return message("bytes [", end, ", ", tensor->begin, ") of the data, before tensor ", in_quotes(tensor->name),
                     ", belong to no tensor");
    end = tensor->end;
    previous = tensor;
  }
  if (end != data_bytes)
    return message("bytes [", end, ", ", data_bytes, ") at the end of the data belong to no tensor");
  return {};
}

}  // namespace seqprim::io::detail
