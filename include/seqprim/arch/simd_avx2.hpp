// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/intrinsics.hpp>
#include <seqprim/arch/simd.hpp>
#include <seqprim/arch/unrolled.hpp>

namespace seqprim::arch {

/// Eight floats in a 256-bit register.
template <> struct simd<avx2, float> {
  static constexpr int lanes = 8;
  using reg = __m256;

  [[gnu::always_inline]] static reg zero() noexcept { return _mm256_setzero_ps(); }
  [[gnu::always_inline]] static reg set(float x) noexcept { return _mm256_set1_ps(x); }

  [[gnu::always_inline]] static reg load(const float* p) noexcept { return _mm256_loadu_ps(p); }
  [[gnu::always_inline]] static reg load(const float16* p) noexcept {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  [[gnu::always_inline]] static reg load(const bfloat16* p) noexcept {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  [[gnu::always_inline]] static reg load(const std::int8_t* p) noexcept {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  [[gnu::always_inline]] static reg load_partial(const float* p, int n) noexcept {
    return _mm256_maskload_ps(p, first_lanes(n));
  }
  template <class X> [[gnu::always_inline]] static reg load_partial(const X* p, int n) noexcept {
    X padded[lanes] = {};
    for (int i = 0; i < n; ++i) padded[i] = p[i];
    return load(padded);
  }
  [[gnu::always_inline]] static reg load_reversed(const float* p, int n) noexcept {
    const __m256i backwards = _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    const __m256i last = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), backwards);
    return _mm256_permutevar8x32_ps(_mm256_maskload_ps(p - 7, last), backwards);
  }

  [[gnu::always_inline]] static void store(float* p, reg x) noexcept { _mm256_storeu_ps(p, x); }
  [[gnu::always_inline]] static void store(float16* p, reg x) noexcept {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  [[gnu::always_inline]] static void store(bfloat16* p, reg x) noexcept {
    const __m256i f = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(f, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(f, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(f, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i bits = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
  }
  [[gnu::always_inline]] static void store_partial(float* p, reg x, int n) noexcept {
    _mm256_maskstore_ps(p, first_lanes(n), x);
  }
  template <class X> [[gnu::always_inline]] static void store_partial(X* p, reg x, int n) noexcept {
    X padded[lanes];
    store(padded, x);
    for (int i = 0; i < n; ++i) p[i] = padded[i];
  }

  [[gnu::always_inline]] static reg add(reg a, reg b) noexcept { return _mm256_add_ps(a, b); }
  [[gnu::always_inline]] static reg sub(reg a, reg b) noexcept { return _mm256_sub_ps(a, b); }
  [[gnu::always_inline]] static reg mul(reg a, reg b) noexcept { return _mm256_mul_ps(a, b); }
  [[gnu::always_inline]] static reg div(reg a, reg b) noexcept { return _mm256_div_ps(a, b); }
  [[gnu::always_inline]] static reg fma(reg a, reg b, reg c) noexcept { return _mm256_fmadd_ps(a, b, c); }
  [[gnu::always_inline]] static reg max(reg a, reg b) noexcept { return _mm256_max_ps(a, b); }
  [[gnu::always_inline]] static reg min(reg a, reg b) noexcept { return _mm256_min_ps(a, b); }
  [[gnu::always_inline]] static reg sqrt(reg x) noexcept { return _mm256_sqrt_ps(x); }

  [[gnu::always_inline]] static reg exp2(reg x) noexcept {
    // max_ps and min_ps return their second operand when one is NaN, so a NaN passes both clamps.
    const reg clamped = _mm256_min_ps(set(128.0f), _mm256_max_ps(set(-127.0f), x));
    const reg n = _mm256_round_ps(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const reg r = sub(clamped, n);
    reg p = set(exp2_polynomial[5]);
    for (int i = 4; i >= 0; --i) p = fma(p, r, set(exp2_polynomial[i]));
    p = fma(p, r, set(1.0f));
    // Two factors: 2^n itself does not exist as a float for n = 128.
    const __m256i exponent = _mm256_cvtps_epi32(n);
    const __m256i half_exponent = _mm256_srai_epi32(exponent, 1);
    const reg result =
        mul(mul(p, power_of_two(half_exponent)), power_of_two(_mm256_sub_epi32(exponent, half_exponent)));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, set(-126.0f), _CMP_LT_OQ), result);
  }

  [[gnu::always_inline]] static reg split(reg x, reg& exponent) noexcept {
    const __m256 tiny = _mm256_cmp_ps(x, set(0x1p-126f), _CMP_LT_OQ);
    const __m256i bits = _mm256_castps_si256(_mm256_blendv_ps(x, mul(x, set(0x1p23f)), tiny));
    const __m256i n =
        _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(static_cast<int>(detail::sqrt_half_bits))), 23);
    exponent = sub(_mm256_cvtepi32_ps(n), _mm256_and_ps(tiny, set(23.0f)));
    return _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(n, 23)));
  }

  using lane_mask = __m256i;
  [[gnu::always_inline]] static lane_mask in_run(std::int32_t index, const std::int32_t* lower,
                                                 const std::int32_t* upper) noexcept {
    const __m256i i = _mm256_set1_epi32(index);
    const __m256i below = _mm256_cmpgt_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(lower)), i);
    return _mm256_andnot_si256(below,
                               _mm256_cmpgt_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(upper)), i));
  }
  [[gnu::always_inline]] static lane_mask lanes_in(std::int32_t lower, std::int32_t upper) noexcept {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(lower), lane),
                               _mm256_cmpgt_epi32(_mm256_set1_epi32(upper), lane));
  }
  [[gnu::always_inline]] static lane_mask labels_in(const std::int32_t* labels, std::int32_t lower,
                                                    std::int32_t upper) noexcept {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(labels));
    return _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(lower), x),
                               _mm256_cmpgt_epi32(_mm256_set1_epi32(upper), x));
  }
  [[gnu::always_inline]] static lane_mask lanes_of_bits(std::uint32_t bits) noexcept {
    const __m256i own = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), own), own);
  }
  [[gnu::always_inline]] static lane_mask lanes_with_bit(const std::uint64_t* words, int bit) noexcept {
    // The bit becomes the sign of its word; the upper halves of two registers of words are the lanes, in pairs of two.
    const __m128i left = _mm_cvtsi32_si128(63 - bit);
    const __m256i low = _mm256_sll_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)), left);
    const __m256i high = _mm256_sll_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words + 4)), left);
    const __m256 pairs =
        _mm256_shuffle_ps(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high), _MM_SHUFFLE(3, 1, 3, 1));
    return _mm256_srai_epi32(_mm256_permute4x64_epi64(_mm256_castps_si256(pairs), _MM_SHUFFLE(3, 1, 2, 0)), 31);
  }
  [[gnu::always_inline]] static lane_mask lanes_of(const unsigned char* bytes) noexcept {
    const __m256i x = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
    return _mm256_cmpgt_epi32(x, _mm256_setzero_si256());
  }
  [[gnu::always_inline]] static lane_mask larger(reg a, reg b) noexcept {
    return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_GT_OQ));
  }
  [[gnu::always_inline]] static bool any(lane_mask m) noexcept { return _mm256_movemask_epi8(m) != 0; }
  [[gnu::always_inline]] static lane_mask both(lane_mask a, lane_mask b) noexcept { return _mm256_and_si256(a, b); }
  [[gnu::always_inline]] static lane_mask either(lane_mask a, lane_mask b) noexcept { return _mm256_or_si256(a, b); }
  [[gnu::always_inline]] static lane_mask inverse(lane_mask a) noexcept {
    return _mm256_xor_si256(a, _mm256_set1_epi32(-1));
  }
  [[gnu::always_inline]] static reg select(lane_mask m, reg x, reg otherwise) noexcept {
    return _mm256_blendv_ps(otherwise, x, _mm256_castsi256_ps(m));
  }

  [[gnu::always_inline]] static float sum(reg x) noexcept {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  [[gnu::always_inline]] static float maximum(reg x) noexcept {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
  }

  /// Lane i is the sum of the lanes of x[i], for lanes registers: halves are added first, then quarters, and so on.
  [[gnu::always_inline]] static reg reduce_add(const reg* x) noexcept {
    reg halves[4], pairs[2];
    unrolled<4>([&](auto i) {
      halves[i] = add(_mm256_permute2f128_ps(x[i], x[i + 4], 0x20), _mm256_permute2f128_ps(x[i], x[i + 4], 0x31));
    });
    unrolled<2>([&](auto i) {
      pairs[i] =
          add(_mm256_shuffle_ps(halves[i], halves[i + 2], 0x44), _mm256_shuffle_ps(halves[i], halves[i + 2], 0xee));
    });
    const reg sums = add(_mm256_shuffle_ps(pairs[0], pairs[1], 0x88), _mm256_shuffle_ps(pairs[0], pairs[1], 0xdd));
    return _mm256_permute_ps(sums, 0xd8);  // registers 0 2 1 3 in each half
  }

  /// Transposes lanes x lanes elements held in rows[0 .. lanes).
  [[gnu::always_inline]] static void transpose(reg (&rows)[lanes]) noexcept {
    reg pairs[8], fours[8];
    unrolled<4>([&](auto n) {
      constexpr int i = 2 * n;
      pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
      pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    });
    unrolled<2>([&](auto n) {
      constexpr int i = 4 * n;
      fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
      fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
      fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
      fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    });
    unrolled<4>([&](auto i) {
      rows[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
      rows[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
    });
  }

 private:
  [[gnu::always_inline]] static __m256i first_lanes(int n) noexcept {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  [[gnu::always_inline]] static reg power_of_two(__m256i n) noexcept {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  }
};

}  // namespace seqprim::arch
