// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/config.hpp>

#include <type_traits>

namespace seqprim::arch {

/// Instruction sets as types. Whatever depends on instructions carries one of these in its own type, so code compiled for
/// different instruction sets has different names and can be linked into one program.
struct scalar {
  static constexpr const char* name = "scalar";
  static constexpr int registers = 16;
};
struct avx2 {  ///< AVX2, FMA and F16C
  static constexpr const char* name = "avx2";
  static constexpr int registers = 16;
};
struct avx512 {  ///< AVX-512 F, BW, VL and DQ
  static constexpr const char* name = "avx512";
  static constexpr int registers = 32;
};
struct avx512_bf16 {  ///< AVX-512 and its products of bfloat16 pairs
  static constexpr const char* name = "avx512_bf16";
  static constexpr int registers = 32;
};

/// The best instruction set that the flags of this translation unit allow.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#  if defined(__AVX512BF16__)
using native_isa = avx512_bf16;
#  else
using native_isa = avx512;
#  endif
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
using native_isa = avx2;
#else
using native_isa = scalar;
#endif

/// True when the flags of this translation unit allow the instructions of Isa.
template <class Isa> inline constexpr bool compiled_for = std::is_same_v<Isa, scalar>;
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
template <> inline constexpr bool compiled_for<avx2> = true;
#endif
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
template <> inline constexpr bool compiled_for<avx512> = true;
#  if defined(__AVX512BF16__)
template <> inline constexpr bool compiled_for<avx512_bf16> = true;
#  endif
#endif

/// True when the processor that runs this program offers everything that Isa needs.
template <class Isa> [[nodiscard]] bool runs_here() noexcept;

template <> [[nodiscard]] inline bool runs_here<scalar>() noexcept { return true; }
#if defined(__x86_64__)
template <> [[nodiscard]] inline bool runs_here<avx2>() noexcept {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");  // every such processor has F16C
}
template <> [[nodiscard]] inline bool runs_here<avx512>() noexcept {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && runs_here<avx2>();
}
template <> [[nodiscard]] inline bool runs_here<avx512_bf16>() noexcept {
  return __builtin_cpu_supports("avx512bf16") && runs_here<avx512>();
}
#else
template <> [[nodiscard]] inline bool runs_here<avx2>() noexcept { return false; }
template <> [[nodiscard]] inline bool runs_here<avx512>() noexcept { return false; }
template <> [[nodiscard]] inline bool runs_here<avx512_bf16>() noexcept { return false; }
#endif

}  // namespace seqprim::arch
