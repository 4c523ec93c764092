// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Mathematical constants under one name each, in double: cast where a formula is written in another type.
/// Page: docs/reference/core/numbers.md
namespace seqprim::constants {

inline constexpr double log2_e = 1.4426950408889634074;  ///< e^x = 2^(x log2_e)
inline constexpr double ln_2 = 0.69314718055994530942;   ///< natural logarithms of base-2 ones
inline constexpr double pi = 3.14159265358979323846;
inline constexpr double sqrt_half = 0.70710678118654752440;  ///< 1 / sqrt(2)
inline constexpr double inv_sqrt_2pi =
    0.39894228040143267794;  ///< 1 / sqrt(2 pi), height of the standard normal density

}  // namespace seqprim::constants
