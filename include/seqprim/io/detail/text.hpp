// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/core/index.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace seqprim::io::detail {

template <class... Parts> [[noreturn, gnu::cold, gnu::noinline]] void throw_io(const Parts&... parts) {
  throw io_error(message(parts...));
}

/// Text from a file, made fit for an error message: control and non-ASCII bytes as \xNN, cut after `limit` bytes.
[[nodiscard]] inline std::string printable(std::string_view text, std::size_t limit = 96) {
  constexpr char digits[] = "0123456789abcdef";
  std::string result;
  for (const char c : text.substr(0, limit)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      result += c;
    } else {
      result += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    }
  }
  if (text.size() > limit) result += message("... (", text.size(), " bytes)");
  return result;
}

[[nodiscard]] inline std::string in_quotes(std::string_view text) { return '"' + printable(text) + '"'; }

/// "[2, 3]"
[[nodiscard]] inline std::string list(std::span<const index_t> numbers) {
  std::string result = "[";
  for (const index_t number : numbers) {
    if (result.size() > 1) result += ", ";
    result += std::to_string(number);
  }
  return result + ']';
}

}  // namespace seqprim::io::detail
