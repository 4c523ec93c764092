// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/intrinsics.hpp>
#include <seqprim/arch/matrix_ref.hpp>
#include <seqprim/arch/simd.hpp>
#include <seqprim/arch/unrolled.hpp>

namespace seqprim::arch {

/// Sixteen floats in a 512-bit register.
template <> struct simd<avx512, float> {
  static constexpr int lanes = 16;
  using reg = __m512;

  [[gnu::always_inline]] static reg zero() noexcept { return _mm512_setzero_ps(); }
  [[gnu::always_inline]] static reg set(float x) noexcept { return _mm512_set1_ps(x); }

  [[gnu::always_inline]] static reg load(const float* p) noexcept { return _mm512_loadu_ps(p); }
  [[gnu::always_inline]] static reg load(const float16* p) noexcept {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  [[gnu::always_inline]] static reg load(const bfloat16* p) noexcept {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  [[gnu::always_inline]] static reg load(const std::int8_t* p) noexcept {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  [[gnu::always_inline]] static reg load_partial(const float* p, int n) noexcept {
    return _mm512_maskz_loadu_ps(first_lanes(n), p);
  }
  [[gnu::always_inline]] static reg load_partial(const float16* p, int n) noexcept {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p));
  }
  [[gnu::always_inline]] static reg load_partial(const bfloat16* p, int n) noexcept {
    return widen(_mm256_maskz_loadu_epi16(first_lanes(n), p));
  }
  [[gnu::always_inline]] static reg load_partial(const std::int8_t* p, int n) noexcept {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first_lanes(n), p)));
  }
  [[gnu::always_inline]] static reg load_reversed(const float* p, int n) noexcept {
    const __m512i backwards = _mm512_setr_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const auto last = static_cast<__mmask16>(~0u << (16 - n));
    return _mm512_permutexvar_ps(backwards, _mm512_maskz_loadu_ps(last, p - 15));
  }

  [[gnu::always_inline]] static void store(float* p, reg x) noexcept { _mm512_storeu_ps(p, x); }
  [[gnu::always_inline]] static void store(float16* p, reg x) noexcept {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_half(x));
  }
  [[gnu::always_inline]] static void store(bfloat16* p, reg x) noexcept {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bfloat16(x));
  }
  [[gnu::always_inline]] static void store_partial(float* p, reg x, int n) noexcept {
    _mm512_mask_storeu_ps(p, first_lanes(n), x);
  }
  [[gnu::always_inline]] static void store_partial(float16* p, reg x, int n) noexcept {
    _mm256_mask_storeu_epi16(p, first_lanes(n), narrow_half(x));
  }
  [[gnu::always_inline]] static void store_partial(bfloat16* p, reg x, int n) noexcept {
    _mm256_mask_storeu_epi16(p, first_lanes(n), narrow_bfloat16(x));
  }

  [[gnu::always_inline]] static reg add(reg a, reg b) noexcept { return _mm512_add_ps(a, b); }
  [[gnu::always_inline]] static reg sub(reg a, reg b) noexcept { return _mm512_sub_ps(a, b); }
  [[gnu::always_inline]] static reg mul(reg a, reg b) noexcept { return _mm512_mul_ps(a, b); }
  [[gnu::always_inline]] static reg div(reg a, reg b) noexcept { return _mm512_div_ps(a, b); }
  [[gnu::always_inline]] static reg fma(reg a, reg b, reg c) noexcept { return _mm512_fmadd_ps(a, b, c); }
  [[gnu::always_inline]] static reg max(reg a, reg b) noexcept { return _mm512_max_ps(a, b); }
  [[gnu::always_inline]] static reg min(reg a, reg b) noexcept { return _mm512_min_ps(a, b); }
  [[gnu::always_inline]] static reg sqrt(reg x) noexcept { return _mm512_sqrt_ps(x); }

  [[gnu::always_inline]] static reg exp2(reg x) noexcept {
    const reg n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const reg r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);  // x - n; 0 for infinities
    reg p = set(exp2_polynomial[5]);
    for (int i = 4; i >= 0; --i) p = fma(p, r, set(exp2_polynomial[i]));
    return _mm512_scalef_ps(fma(p, r, set(1.0f)), n);
  }

  [[gnu::always_inline]] static reg split(reg x, reg& exponent) noexcept {
    const __mmask16 tiny = _mm512_cmp_ps_mask(x, set(0x1p-126f), _CMP_LT_OQ);
    const __m512i bits = _mm512_castps_si512(_mm512_mask_mul_ps(x, tiny, x, set(0x1p23f)));
    const __m512i n =
        _mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(static_cast<int>(detail::sqrt_half_bits))), 23);
    const reg whole = _mm512_cvtepi32_ps(n);
    exponent = _mm512_mask_sub_ps(whole, tiny, whole, set(23.0f));
    return _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(n, 23)));
  }

  using lane_mask = __mmask16;
  [[gnu::always_inline]] static lane_mask in_run(std::int32_t index, const std::int32_t* lower,
                                                 const std::int32_t* upper) noexcept {
    const __m512i i = _mm512_set1_epi32(index);
    return _mm512_mask_cmplt_epi32_mask(_mm512_cmple_epi32_mask(_mm512_loadu_si512(lower), i), i,
                                        _mm512_loadu_si512(upper));
  }
  [[gnu::always_inline]] static lane_mask lanes_in(std::int32_t lower, std::int32_t upper) noexcept {
    return static_cast<lane_mask>(first_lanes(upper) & ~first_lanes(lower));
  }
  [[gnu::always_inline]] static lane_mask labels_in(const std::int32_t* labels, std::int32_t lower,
                                                    std::int32_t upper) noexcept {
    const __m512i x = _mm512_loadu_si512(labels);
    return _mm512_mask_cmplt_epi32_mask(_mm512_cmple_epi32_mask(_mm512_set1_epi32(lower), x), x,
                                        _mm512_set1_epi32(upper));
  }
  [[gnu::always_inline]] static lane_mask lanes_of_bits(std::uint32_t bits) noexcept {
    return static_cast<lane_mask>(bits);
  }
  [[gnu::always_inline]] static lane_mask lanes_with_bit(const std::uint64_t* words, int bit) noexcept {
    const __m512i one = _mm512_set1_epi64(std::int64_t{1} << bit);
    return _mm512_kunpackb(_mm512_test_epi64_mask(_mm512_loadu_si512(words + 8), one),
                           _mm512_test_epi64_mask(_mm512_loadu_si512(words), one));
  }
  [[gnu::always_inline]] static lane_mask lanes_of(const unsigned char* bytes) noexcept {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    return _mm_test_epi8_mask(x, x);
  }
  [[gnu::always_inline]] static lane_mask larger(reg a, reg b) noexcept { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
  [[gnu::always_inline]] static bool any(lane_mask m) noexcept { return m != 0; }
  [[gnu::always_inline]] static lane_mask both(lane_mask a, lane_mask b) noexcept {
    return static_cast<lane_mask>(a & b);
  }
  [[gnu::always_inline]] static lane_mask either(lane_mask a, lane_mask b) noexcept {
    return static_cast<lane_mask>(a | b);
  }
  [[gnu::always_inline]] static lane_mask inverse(lane_mask a) noexcept { return static_cast<lane_mask>(~a); }
  [[gnu::always_inline]] static reg select(lane_mask m, reg x, reg otherwise) noexcept {
    return _mm512_mask_blend_ps(m, otherwise, x);
  }

  [[gnu::always_inline]] static float sum(reg x) noexcept { return _mm512_reduce_add_ps(x); }
  [[gnu::always_inline]] static float maximum(reg x) noexcept { return _mm512_reduce_max_ps(x); }

  /// Lane i is the sum of the lanes of x[i], for lanes registers: halves are added first, then quarters, and so on.
  [[gnu::always_inline]] static reg reduce_add(const reg* x) noexcept {
    reg halves[8], quarters[4], pairs[2];
    unrolled<8>([&](auto i) {
      halves[i] = add(_mm512_shuffle_f32x4(x[i], x[i + 8], 0x44), _mm512_shuffle_f32x4(x[i], x[i + 8], 0xee));
    });
    unrolled<4>([&](auto i) {
      quarters[i] = add(_mm512_shuffle_f32x4(halves[i], halves[i + 4], 0x88),
                        _mm512_shuffle_f32x4(halves[i], halves[i + 4], 0xdd));
    });
    unrolled<2>([&](auto i) {
      pairs[i] = add(_mm512_shuffle_ps(quarters[i], quarters[i + 2], 0x44),
                     _mm512_shuffle_ps(quarters[i], quarters[i + 2], 0xee));
    });
    const reg sums = add(_mm512_shuffle_ps(pairs[0], pairs[1], 0x88), _mm512_shuffle_ps(pairs[0], pairs[1], 0xdd));
    // Registers 0 2 1 3, each block of four 8, 4 and 12 further on.
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15), sums);
  }

  /// Transposes lanes x lanes elements held in rows[0 .. lanes).
  [[gnu::always_inline]] static void transpose(reg (&rows)[lanes]) noexcept {
    reg a[16];
    unrolled<8>([&](auto n) {
      constexpr int i = 2 * n;
      a[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
      a[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    });
    unrolled<4>([&](auto n) {
      constexpr int i = 4 * n;
      rows[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
      rows[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xee);
      rows[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
      rows[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    });
    unrolled<4>([&](auto i) {
      a[i] = _mm512_shuffle_f32x4(rows[i], rows[i + 4], 0x88);
      a[i + 4] = _mm512_shuffle_f32x4(rows[i], rows[i + 4], 0xdd);
      a[i + 8] = _mm512_shuffle_f32x4(rows[i + 8], rows[i + 12], 0x88);
      a[i + 12] = _mm512_shuffle_f32x4(rows[i + 8], rows[i + 12], 0xdd);
    });
    unrolled<4>([&](auto i) {
      rows[i] = _mm512_shuffle_f32x4(a[i], a[i + 8], 0x88);
      rows[i + 8] = _mm512_shuffle_f32x4(a[i], a[i + 8], 0xdd);
      rows[i + 4] = _mm512_shuffle_f32x4(a[i + 4], a[i + 12], 0x88);
      rows[i + 12] = _mm512_shuffle_f32x4(a[i + 4], a[i + 12], 0xdd);
    });
  }

 private:
  [[gnu::always_inline]] static __mmask16 first_lanes(int n) noexcept {
    const int count = n < 0 ? 0 : n > 16 ? 16 : n;
    return static_cast<__mmask16>((1u << count) - 1u);
  }
  [[gnu::always_inline]] static reg widen(__m256i bits) noexcept {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  [[gnu::always_inline]] static __m256i narrow_half(reg x) noexcept {
    return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // vcvtneps2bf16 would flush subnormals; the type promises to keep them.
  [[gnu::always_inline]] static __m256i narrow_bfloat16(reg x) noexcept {
    const __m512i f = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(f, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(f, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i bits = _mm512_mask_or_epi32(rounded, nan, f, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
  }
};

template <> struct woven_load<avx512, bfloat16> {
  static constexpr int registers = 2;
  [[gnu::always_inline]] static void load(const bfloat16* p, __m512 (&x)[2]) noexcept {
    const __m512i pairs = _mm512_loadu_si512(p);
    x[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    x[1] = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
};
#if SEQPRIM_ISA % 100 >= 3

template <> struct simd<avx512_bf16, float> : simd<avx512, float> {};
template <class X> struct woven_load<avx512_bf16, X> : woven_load<avx512, X> {};

/// Sixteen pairs of bfloat16: the operands of products that add two terms at once. Functions that are not inlined carry the
/// instruction set in their name: amx_bf16 has its own.
template <class Isa> struct avx512_pair_products {
  static constexpr bool available = true;
  using reg = __m512i;

  [[gnu::always_inline]] static reg set(bfloat16_pair x) noexcept {
    return _mm512_set1_epi32(static_cast<int>(x.bits));
  }
  [[gnu::always_inline]] static reg load(const bfloat16_pair* p) noexcept { return _mm512_loadu_si512(p); }
  /// sum + a.low * b.low + a.high * b.high in each lane, rounded after each addition; subnormals count as zero.
  [[gnu::always_inline]] static __m512 add_products(reg a, reg b, __m512 sum) noexcept {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
  /// Pairs (low[i], high[i]), rounded to nearest even.
  [[gnu::always_inline]] static void store_rounded(bfloat16_pair* p, __m512 low, __m512 high) noexcept {
    const reg halves = reinterpret_cast<reg>(_mm512_cvtne2ps_pbh(high, low));  // low in the first 16, high behind
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(interleave(), halves));
  }
  /// Sixteen pairs of neighbors: the numbers of `low` and then those of `high`, rounded to nearest even.
  [[gnu::always_inline]] static void store_rounded_row(bfloat16_pair* p, __m512 low, __m512 high) noexcept {
    _mm512_storeu_si512(p, reinterpret_cast<reg>(_mm512_cvtne2ps_pbh(high, low)));
  }
  /// out[d] = (first[d], second[d]) for `count` numbers; a null second row counts as zeros.
  static void interleave_rows(const bfloat16* first, const bfloat16* second, index_t count,
                              bfloat16_pair* out) noexcept {
    for (index_t d = 0; d < count; d += 16) {
      const auto live = static_cast<__mmask16>((1u << min<index_t>(16, count - d)) - 1u);
      const reg low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(live, first + d));
      const reg high = second == nullptr
                           ? _mm512_setzero_si512()
                           : _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(live, second + d)), 16);
      _mm512_mask_storeu_epi32(out + d, live, _mm512_or_si512(low, high));
    }
  }
  /// out(n, i) = pair n of row i, its sign flipped where requested: rows of `in` [rows, columns] become columns of
  /// `out` [ceil(columns / 2), out_columns]; an odd last element is paired with zero, columns beyond `rows` are zero.
  static void transpose_rows(matrix_ref<const bfloat16> in, index_t rows, index_t columns, bool negate,
                             matrix_ref<bfloat16_pair> out, index_t out_columns) noexcept {
    const reg sign = _mm512_set1_epi32(negate ? static_cast<int>(0x80008000u) : 0);
    for (index_t i = 0; i < out_columns; i += 16) {
      for (index_t d = 0; d < columns; d += 32) {
        const index_t numbers = min<index_t>(32, columns - d);
        const auto live = static_cast<__mmask32>(numbers == 32 ? ~0u : (1u << numbers) - 1u);
        __m512 block[16];
        for (index_t n = 0; n < 16; ++n) {
          const reg row = i + n < rows ? _mm512_maskz_loadu_epi16(live, &in(i + n, d)) : _mm512_setzero_si512();
          block[n] = _mm512_castsi512_ps(_mm512_xor_si512(row, sign));
        }
        simd<avx512, float>::transpose(block);
        for (index_t n = 0; n < (numbers + 1) / 2; ++n) _mm512_storeu_ps(&out(d / 2 + n, i), block[n]);
      }
    }
  }

 private:
  [[gnu::always_inline]] static reg interleave() noexcept {
    return _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                            19, 3, 18, 2, 17, 1, 16, 0);
  }
};
template <> struct pair_products<avx512_bf16> : avx512_pair_products<avx512_bf16> {};

#endif

}  // namespace seqprim::arch
