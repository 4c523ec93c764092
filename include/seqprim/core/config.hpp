// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The macros of the library; nothing else in seqprim defines a public one.

/// Marks a function that runs on host and device. On the host it is always inlined in optimized builds: no weak symbol
/// is left behind, so a translation unit built for a newer instruction set can never lend its copy to an older one.
#if defined(__CUDACC__)
#  define SEQPRIM_HD __host__ __device__ __forceinline__
#elif defined(__OPTIMIZE__) && (defined(__GNUC__) || defined(__clang__))
#  define SEQPRIM_HD [[gnu::always_inline]] inline
#else
#  define SEQPRIM_HD inline
#endif

/// The same promise for host functions: always inlined in optimized builds, never shared between translation units.
#if defined(__OPTIMIZE__) && (defined(__GNUC__) || defined(__clang__))
#  define SEQPRIM_INLINE [[gnu::always_inline]] inline
#else
#  define SEQPRIM_INLINE inline
#endif

/// In front of a loop in code that host and device share. The device compiler must unroll loops whose counter indexes registers,
/// and leave those alone that are long and rare. A host compiler chooses for itself.
#if defined(__CUDA_ARCH__) || defined(__clang__)
#  define SEQPRIM_UNROLL _Pragma("unroll")
#  define SEQPRIM_ROLLED _Pragma("unroll 1")
#else
#  define SEQPRIM_UNROLL
#  define SEQPRIM_ROLLED
#endif

/// Name of the inline namespace around host functions that are too large to inline everywhere: one name for each
/// instruction set, so translation units compiled for different ones do not share their code.
#if defined(__AMX_BF16__) || defined(__AMXBF16__)
#  define SEQPRIM_TARGET_NAMESPACE for_amx_bf16
#elif defined(__AVX512BF16__)
#  define SEQPRIM_TARGET_NAMESPACE for_avx512_bf16
#elif defined(__AVX512F__)
#  define SEQPRIM_TARGET_NAMESPACE for_avx512
#elif defined(__AVX2__)
#  define SEQPRIM_TARGET_NAMESPACE for_avx2
#elif defined(__AVX__)
#  define SEQPRIM_TARGET_NAMESPACE for_avx
#else
#  define SEQPRIM_TARGET_NAMESPACE for_baseline
#endif

#define SEQPRIM_VERSION_MAJOR 0
#define SEQPRIM_VERSION_MINOR 2
#define SEQPRIM_VERSION_PATCH 0
