// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/target.hpp>

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

#define SEQPRIM_VERSION_MAJOR 0
#define SEQPRIM_VERSION_MINOR 2
#define SEQPRIM_VERSION_PATCH 0
