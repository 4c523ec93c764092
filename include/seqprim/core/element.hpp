// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/bfloat16.hpp>
#include <seqprim/core/float16.hpp>

#include <concepts>
#include <type_traits>

namespace seqprim {

/// The element types of tensors. `double` is for references and gradient checks. Page: docs/reference/core/numbers.md
template <class T>
concept element =
    std::same_as<T, float> || std::same_as<T, float16> || std::same_as<T, bfloat16> || std::same_as<T, double>;

/// The type in which sums over elements of type T are kept: double for double, float for the rest.
template <element T> using accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

}  // namespace seqprim
