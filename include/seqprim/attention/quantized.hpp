// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor_view.hpp>

#include <concepts>
#include <cstdint>
#include <type_traits>

namespace seqprim::attention {

/// 8-bit quantized KV cache: symmetric int8 values, with a scale for each token and key head, or for each block of its
/// channels.
///
///     value(b, g, j, d) = codes(b, g, j, d) * scales(b, g, j, d / block)          block = dim / scales.extent(3)
///
/// codes [batch, kv_heads, len, dim], int8; scales [batch, kv_heads, len, blocks], float. One block is a scale per
/// token; more blocks divide dim into equal ranges of a multiple of 16 channels, each with its own scale. On pages both
/// views have pages and page_size in place of batch and len. `Code` and `Scale` are const where the cache is only read.
///
/// append rounds to the nearest int8 value, ties to even, with scale = largest magnitude / 127: values reach from -127
/// to 127, and each element is accurate to half a scale. Blocks whose largest magnitude is below 127 * 2^-126 lose
/// accuracy with the subnormal scale. A cache of other origin may hold any scale and the value -128.
///
/// Edge    a block of zeros has scale 0. A block that holds NaN or infinity, which int8 cannot represent, has scale
///         NaN: queries that attend to it get NaN.
/// Errors  precondition_error (validate): shapes of codes and scales disagree, blocks do not divide dim into ranges of
///         a multiple of 16, the channels of a row are not contiguous.
/// Source  Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
///         inference".  Page docs/reference/attention/quantized.md
template <class Code, class Scale> struct quantized {
  static_assert(std::is_same_v<std::remove_const_t<Code>, std::int8_t> &&
                    std::is_same_v<std::remove_const_t<Scale>, float>,
                "seqprim: a quantized cache holds int8 codes and float scales");
  static constexpr int rank = 4;

  tensor_view<Code, 4> codes;
  tensor_view<Scale, 4> scales;

  quantized() = default;
  // A constructor rather than an aggregate: clang 14 deduces template arguments from constructors only.
  SEQPRIM_HD constexpr quantized(const tensor_view<Code, 4>& numbers, const tensor_view<Scale, 4>& factors) noexcept
      : codes(numbers), scales(factors) {}
  /// The same from owning tensors.
  template <viewable<4> Codes, viewable<4> Scales>
  quantized(Codes&& numbers, Scales&& factors) noexcept : codes(as_view(numbers)), scales(as_view(factors)) {}
  /// Read-only view of a mutable one.
  template <class OtherCode, class OtherScale>
  requires(std::is_const_v<Code>&& std::is_const_v<Scale> &&
           !(std::is_const_v<OtherCode> && std::is_const_v<OtherScale>))
      SEQPRIM_HD constexpr quantized(const quantized<OtherCode, OtherScale>& other) noexcept
      : codes(other.codes), scales(other.scales) {}

  [[nodiscard]] SEQPRIM_HD constexpr index_t extent(int axis) const noexcept { return codes.extent(axis); }
  /// Channels that share a scale.
  [[nodiscard]] SEQPRIM_HD constexpr index_t block() const noexcept {
    return scales.extent(3) > 1 ? codes.extent(3) / scales.extent(3) : max<index_t>(codes.extent(3), 1);
  }
  /// The value of one element.
  [[nodiscard]] SEQPRIM_HD constexpr float operator()(index_t b, index_t g, index_t j, index_t d) const noexcept {
    return static_cast<float>(codes(b, g, j, d)) * scales(b, g, j, d / block());
  }

  /// The part of an axis that lies in `part`; the channels (axis 3) are not divided.
  [[nodiscard]] SEQPRIM_HD constexpr quantized slice(int axis, range part) const noexcept {
    return {codes.slice(axis, part), scales.slice(axis, part)};
  }
  /// The same cache with two of the first three axes exchanged.
  [[nodiscard]] SEQPRIM_HD constexpr quantized transposed(int first, int second) const noexcept {
    return {codes.transposed(first, second), scales.transposed(first, second)};
  }

  void validate() const {
    constexpr subject self{"attention::quantized", "attention/quantized"};
    self.expects_contiguous("codes", codes);
    const index_t dim = codes.extent(3), blocks = scales.extent(3);
    self.expects_shape("scales", scales,
                       {{codes.extent(0), "batch (or pages)", "codes"},
                        {codes.extent(1), "kv_heads", "codes"},
                        {codes.extent(2), "length", "codes"},
                        {blocks, "blocks", "scales"}});
    self.expects(blocks >= 1 && (blocks == 1 || (dim % blocks == 0 && dim / blocks % 16 == 0 && dim > 0)), blocks,
                 " scales per row must divide dim (", dim, ") into blocks of a multiple of 16");
  }
};
template <class Codes, class Scales>
quantized(Codes&& codes, Scales&& scales)
    -> quantized<typename std::remove_cvref_t<decltype(as_view(codes))>::element_type,
                 typename std::remove_cvref_t<decltype(as_view(scales))>::element_type>;

template <class Code, class Scale>
[[nodiscard]] SEQPRIM_HD constexpr quantized<Code, Scale> as_view(const quantized<Code, Scale>& cache) noexcept {
  return cache;
}

template <class X> inline constexpr bool is_quantized = false;
template <class Code, class Scale> inline constexpr bool is_quantized<quantized<Code, Scale>> = true;

}  // namespace seqprim::attention
