// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The macros of the library; nothing else in seqprim defines a public one.

/// Marks a function that runs on host and device. On the host it is always inlined in optimised builds: no weak symbol
/// is left behind, so a translation unit built for a newer instruction set can never lend its copy to an older one.
#if defined(__CUDACC__)
#  define SEQPRIM_HD __host__ __device__ __forceinline__
#elif defined(__OPTIMIZE__) && (defined(__GNUC__) || defined(__clang__))
#  define SEQPRIM_HD [[gnu::always_inline]] inline
#else
#  define SEQPRIM_HD inline
#endif

#define SEQPRIM_VERSION_MAJOR 0
#define SEQPRIM_VERSION_MINOR 1
#define SEQPRIM_VERSION_PATCH 0
