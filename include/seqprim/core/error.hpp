// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/config.hpp>

#include <concepts>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

/// The exceptions of the library, and the check that throws them.
namespace seqprim {

/// A precondition of a function is violated. The message names the operand, the numbers and the rule:
///
///     attention::forward: heads (6) must be a multiple of kv_heads (4). See docs/reference/attention/forward.md
///
/// Thrown before any output is written.
struct precondition_error : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// A file is missing, unreadable or not what it claims to be. Names the file and what is wrong with it.
struct io_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The CUDA runtime reported an error for a call or a launch.
struct cuda_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

namespace detail {
inline namespace SEQPRIM_TARGET_NAMESPACE {

inline void append(std::string& text, const char* part) { text += part; }
inline void append(std::string& text, std::string_view part) { text += part; }
inline void append(std::string& text, bool part) { text += part ? "true" : "false"; }
inline void append(std::string& text, char part) { text += part; }
template <std::integral Number> void append(std::string& text, Number part) { text += std::to_string(part); }
// Nine digits tell any two floats apart; std::to_string would print 1e-8 as 0.000000.
template <std::floating_point Number> void append(std::string& text, Number part) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.9g", static_cast<double>(part));
  text += digits;
}

}  // namespace SEQPRIM_TARGET_NAMESPACE
}  // namespace detail

inline namespace SEQPRIM_TARGET_NAMESPACE {

/// Joins text and numbers: message("q_len (", 3, ")") == "q_len (3)". Floats keep nine digits, so two that differ look
/// different.
template <class... Parts> [[nodiscard]] std::string message(const Parts&... parts) {
  std::string text;
  (detail::append(text, parts), ...);
  return text;
}

}  // namespace SEQPRIM_TARGET_NAMESPACE

namespace detail {
inline namespace SEQPRIM_TARGET_NAMESPACE {

// Out of line and cold, so that checks cost the caller one compare.
template <class... Parts> [[noreturn, gnu::cold, gnu::noinline]] void throw_precondition(const Parts&... parts) {
  throw precondition_error(message(parts...));
}

}  // namespace SEQPRIM_TARGET_NAMESPACE
}  // namespace detail

}  // namespace seqprim

/// Throws precondition_error with the joined parts when the condition is false. Host code only.
#define SEQPRIM_EXPECTS(condition, ...)                                   \
  do {                                                                    \
    if (!(condition)) ::seqprim::detail::throw_precondition(__VA_ARGS__); \
  } while (false)
