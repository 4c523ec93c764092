// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index.hpp>
#include <seqprim/core/tensor.hpp>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

// The reader of golden files. Only golden.cpp, compiled once, knows the format: this header costs a test nothing.
namespace seqprim {

/// A parameter of a golden file, or a list or group of them. Numbers convert to the type that they are read into.
///
///     const index_t window = g.params.at("window");
///     const auto lengths = g.params.at("lengths").get<std::vector<index_t>>();
///
/// Errors   std::runtime_error naming file, parameter and what it holds: it is missing or has another type.
class golden_value {
 public:
  [[nodiscard]] golden_value at(const std::string& key) const;
  [[nodiscard]] golden_value at(index_t entry) const;
  [[nodiscard]] bool contains(const std::string& key) const;  ///< and it is not null
  [[nodiscard]] bool is_null() const;
  [[nodiscard]] index_t size() const;  ///< entries of a list or group

  /// bool, integers, floating-point numbers, std::string, and std::vector of them, to any depth.
  template <class T> [[nodiscard]] T get() const {
    if constexpr (std::is_same_v<T, bool>) {
      return boolean();
    } else if constexpr (std::is_same_v<T, std::uint64_t>) {
      return natural();
    } else if constexpr (std::is_integral_v<T>) {
      const std::int64_t value = integer();
      if (!std::in_range<T>(value)) fail("does not fit into the type that the test reads");
      return static_cast<T>(value);
    } else if constexpr (std::is_floating_point_v<T>) {
      return static_cast<T>(number());
    } else if constexpr (std::is_same_v<T, std::string>) {
      return text();
    } else {
      T list;
      for (index_t i = 0; i < size(); ++i) list.push_back(at(i).template get<typename T::value_type>());
      return list;
    }
  }
  template <class T>
  requires std::is_arithmetic_v<T>
  operator T() const { return get<T>(); }

  /// The parameter `key`, or `otherwise` where there is none.
  template <class T> [[nodiscard]] T value(const std::string& key, const T& otherwise) const {
    return contains(key) ? at(key).template get<T>() : otherwise;
  }

 private:
  friend class golden;
  golden_value(std::shared_ptr<const void> node, std::string path) : node_(std::move(node)), path_(std::move(path)) {}

  [[nodiscard]] bool boolean() const;
  [[nodiscard]] std::int64_t integer() const;
  [[nodiscard]] std::uint64_t natural() const;
  [[nodiscard]] double number() const;
  [[nodiscard]] std::string text() const;
  [[noreturn]] void fail(const std::string& what) const;

  std::shared_ptr<const void> node_;
  std::string path_;
};

/// One golden file: tests/golden/<family>/<stem>.safetensors. The README of the family says what the tensors mean.
///
///     const golden g("masks-text", "causal_append");
///     const auto visible = g.load<bool, 2>("mask");
///     const attention::softmax op = attention::softmax{mask::causal{}}.starting_at(g.params.at("offset"));
///
/// Every size and parameter of a case comes from its file: a test passes unchanged when the file is exchanged for another of its
/// kind. Which tensors are read is recorded; `golden_coverage` fails for those that no test reads. Page: tests/golden/README.md
/// Errors   std::runtime_error naming file, tensor and the numbers: it is missing, has another type, rank or shape.
class golden {
 public:
  golden(const std::string& family, const std::string& stem);

  golden_value params;  ///< of the case

  [[nodiscard]] const std::string& source() const;  ///< "<family>/<stem>", for messages
  [[nodiscard]] std::string metadata(const std::string& key) const;
  [[nodiscard]] const std::vector<std::string>& names() const;  ///< of the tensors
  [[nodiscard]] bool contains(const std::string& name) const;
  [[nodiscard]] const std::vector<index_t>& shape(const std::string& name) const;

  /// A copy of a tensor.
  template <class T, int Rank> [[nodiscard]] tensor<T, Rank> load(const std::string& name) const {
    expect_rank(name, Rank);
    auto result = [&]<int... Axis>(std::integer_sequence<int, Axis...>) {
      return tensor<T, Rank>(shape(name)[Axis]...);
    }
    (std::make_integer_sequence<int, Rank>{});
    read(name, type_name<T>(), result.data(), result.size());
    return result;
  }
  /// A copy of a tensor [..., n] as rows [count, n].
  template <class T> [[nodiscard]] tensor<T, 2> load_rows(const std::string& name) const {
    index_t count = 1;
    for (std::size_t axis = 0; axis + 1 < shape(name).size(); ++axis) count *= shape(name)[axis];
    tensor<T, 2> result(count, shape(name).empty() ? 1 : shape(name).back());
    read(name, type_name<T>(), result.data(), result.size());
    return result;
  }
  /// Copies a tensor into one of the same type and shape.
  template <class T, int Rank> void load_into(const std::string& name, tensor<T, Rank>& out) const {
    expect_rank(name, Rank);
    for (int axis = 0; axis < Rank; ++axis)
      if (shape(name)[static_cast<std::size_t>(axis)] != out.extent(axis))
        fail(name, "axis " + std::to_string(axis) + " is not the " + std::to_string(out.extent(axis)) + " of the test");
    read(name, type_name<T>(), out.data(), out.size());
  }
  /// The only element of a tensor of any rank.
  template <class T> [[nodiscard]] T scalar(const std::string& name) const {
    T result;
    read(name, type_name<T>(), &result, 1);
    return result;
  }

 private:
  struct contents;

  template <class T> static constexpr const char* type_name() {
    if constexpr (std::is_same_v<T, bool>)
      return "BOOL";
    else if constexpr (std::is_same_v<T, float>)
      return "F32";
    else if constexpr (std::is_same_v<T, double>)
      return "F64";
    else if constexpr (std::is_integral_v<T> && sizeof(T) == 1)
      return std::is_signed_v<T> ? "I8" : "U8";
    else if constexpr (std::is_integral_v<T> && sizeof(T) == 4)
      return std::is_signed_v<T> ? "I32" : "U32";
    else if constexpr (std::is_integral_v<T> && sizeof(T) == 8)
      return std::is_signed_v<T> ? "I64" : "U64";
    else
      static_assert(!sizeof(T), "no golden file holds this type");
  }

  void expect_rank(const std::string& name, int rank) const;
  void read(const std::string& name, const char* type, void* to, index_t elements) const;
  [[noreturn]] void fail(const std::string& name, const std::string& what) const;

  explicit golden(std::shared_ptr<const contents> file);

  std::shared_ptr<const contents> file_;
};

}  // namespace seqprim
