// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The instruction set that the flags of this translation unit allow: the only place that looks at them.
///
/// SEQPRIM_ISA                0 scalar, 1 avx2 (AVX2, FMA, F16C), 2 avx512 (AVX-512 F, BW, VL, DQ), 3 avx512_bf16, 4 amx_bf16;
///                            100 more where the flags allow something else too (part of the next set, -ffast-math):
///                            the types of arch/isa.hpp then have names of their own.
/// SEQPRIM_TARGET_NAMESPACE   inline namespace around host functions that are too large to inline everywhere: translation
///                            units compiled with different flags do not share their code.
///
/// A new set takes a number here, a type in arch/isa.hpp and a `simd`. NEON is the next: until it has one, ARM runs scalar code.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && \
    defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#  if defined(__AVX512BF16__) && (defined(__AMX_BF16__) || defined(__AMXBF16__))
#    define SEQPRIM_ISA 4
#    define SEQPRIM_TARGET_NAMESPACE for_amx_bf16
#  elif defined(__AVX512BF16__)
#    define SEQPRIM_ISA 3
#    define SEQPRIM_TARGET_NAMESPACE for_avx512_bf16
#  else
#    define SEQPRIM_ISA 2
#    define SEQPRIM_TARGET_NAMESPACE for_avx512
#  endif
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#  if defined(__AVX512F__)
#    define SEQPRIM_ISA 101
#    define SEQPRIM_TARGET_NAMESPACE for_avx2_and_part_of_avx512
#  else
#    define SEQPRIM_ISA 1
#    define SEQPRIM_TARGET_NAMESPACE for_avx2
#  endif
#elif defined(__AVX512F__)
#  define SEQPRIM_ISA 100
#  define SEQPRIM_TARGET_NAMESPACE for_part_of_avx512
#elif defined(__AVX2__)
#  define SEQPRIM_ISA 100
#  define SEQPRIM_TARGET_NAMESPACE for_part_of_avx2
#elif defined(__AVX__)
#  define SEQPRIM_ISA 100
#  define SEQPRIM_TARGET_NAMESPACE for_avx
#elif defined(__ARM_NEON)
#  define SEQPRIM_ISA 0
#  define SEQPRIM_TARGET_NAMESPACE for_neon
#else
#  define SEQPRIM_ISA 0
#  define SEQPRIM_TARGET_NAMESPACE for_baseline
#endif

// -ffast-math and its parts change what the same source computes. (clang 14 reports only the whole and -ffinite-math-only.)
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    defined(__NO_SIGNED_ZEROS__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0)
#  undef SEQPRIM_TARGET_NAMESPACE
#  if SEQPRIM_ISA == 4
#    undef SEQPRIM_ISA
#    define SEQPRIM_ISA 104
#    define SEQPRIM_TARGET_NAMESPACE for_amx_bf16_fast_math
#  elif SEQPRIM_ISA == 3
#    undef SEQPRIM_ISA
#    define SEQPRIM_ISA 103
#    define SEQPRIM_TARGET_NAMESPACE for_avx512_bf16_fast_math
#  elif SEQPRIM_ISA == 2
#    undef SEQPRIM_ISA
#    define SEQPRIM_ISA 102
#    define SEQPRIM_TARGET_NAMESPACE for_avx512_fast_math
#  elif SEQPRIM_ISA % 100 == 1
#    undef SEQPRIM_ISA
#    define SEQPRIM_ISA 101
#    if defined(__AVX512F__)
#      define SEQPRIM_TARGET_NAMESPACE for_avx2_and_part_of_avx512_fast_math
#    else
#      define SEQPRIM_TARGET_NAMESPACE for_avx2_fast_math
#    endif
#  else
#    undef SEQPRIM_ISA
#    define SEQPRIM_ISA 100
#    if defined(__AVX512F__)
#      define SEQPRIM_TARGET_NAMESPACE for_part_of_avx512_fast_math
#    elif defined(__AVX2__)
#      define SEQPRIM_TARGET_NAMESPACE for_part_of_avx2_fast_math
#    elif defined(__AVX__)
#      define SEQPRIM_TARGET_NAMESPACE for_avx_fast_math
#    else
#      define SEQPRIM_TARGET_NAMESPACE for_baseline_fast_math
#    endif
#  endif
#endif
