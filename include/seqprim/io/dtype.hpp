// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/bfloat16.hpp>
#include <seqprim/core/float16.hpp>
#include <seqprim/core/index.hpp>

#include <concepts>
#include <optional>
#include <string_view>
#include <type_traits>

/// Element types of safetensors files. Page: docs/reference/io/safetensors.md
namespace seqprim::io {

/// Element types of a safetensors file. The 8-bit floats have no C++ type here: their tensors are read as bytes.
enum class dtype : unsigned char {
  f64,
  f32,
  f16,
  bf16,
  f8_e4m3,
  f8_e5m2,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean
};

namespace detail {

struct dtype_row {
  const char* name;
  index_t size;
};
inline constexpr dtype_row dtype_rows[] = {{"F64", 8},     {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1},
                                           {"F8_E5M2", 1}, {"I64", 8}, {"I32", 4}, {"I16", 2},  {"I8", 1},
                                           {"U64", 8},     {"U32", 4}, {"U16", 2}, {"U8", 1},   {"BOOL", 1}};

template <class T>
concept character = std::same_as<T, char> || std::same_as<T, wchar_t> || std::same_as<T, char8_t> ||
    std::same_as<T, char16_t> || std::same_as<T, char32_t>;

}  // namespace detail

/// The name in the file: "F32".
[[nodiscard]] constexpr const char* name_of(dtype type) noexcept {
  return detail::dtype_rows[static_cast<int>(type)].name;
}

/// Bytes of one element.
[[nodiscard]] constexpr index_t size_of(dtype type) noexcept { return detail::dtype_rows[static_cast<int>(type)].size; }

/// The type with this name, if there is one.
[[nodiscard]] constexpr std::optional<dtype> find_dtype(std::string_view name) noexcept {
  int row = 0;
  for (const auto& known : detail::dtype_rows) {
    if (name == known.name) return static_cast<dtype>(row);
    ++row;
  }
  return std::nullopt;
}

/// What a typed tensor of a file may hold in C++.
template <class T>
concept storable = std::same_as<T, double> || std::same_as<T, float> || std::same_as<T, float16> ||
    std::same_as<T, bfloat16> ||(std::integral<T> && sizeof(T) <= 8 && !detail::character<T>);

/// The dtype of a C++ type.
template <storable T>
inline constexpr dtype dtype_of = [] {
  if constexpr (std::is_same_v<T, bool>)
    return dtype::boolean;
  else if constexpr (std::is_same_v<T, double>)
    return dtype::f64;
  else if constexpr (std::is_same_v<T, float>)
    return dtype::f32;
  else if constexpr (std::is_same_v<T, float16>)
    return dtype::f16;
  else if constexpr (std::is_same_v<T, bfloat16>)
    return dtype::bf16;
  else if constexpr (sizeof(T) == 8)
    return std::is_signed_v<T> ? dtype::i64 : dtype::u64;
  else if constexpr (sizeof(T) == 4)
    return std::is_signed_v<T> ? dtype::i32 : dtype::u32;
  else if constexpr (sizeof(T) == 2)
    return std::is_signed_v<T> ? dtype::i16 : dtype::u16;
  else
    return std::is_signed_v<T> ? dtype::i8 : dtype::u8;
}();

}  // namespace seqprim::io
