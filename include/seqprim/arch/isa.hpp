// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/amx_permission.hpp>
#include <seqprim/core/config.hpp>

#include <type_traits>

namespace seqprim::arch {

#if SEQPRIM_ISA >= 100  // flags beyond those of one instruction set: code of its own, and so names of its own
inline namespace SEQPRIM_TARGET_NAMESPACE {
#endif

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

struct amx_bf16 {  ///< avx512_bf16 and the tile registers of AMX with their bfloat16 products
  static constexpr const char* name = "amx_bf16";
  static constexpr int registers = 32;
};

#if SEQPRIM_ISA >= 100
}  // namespace SEQPRIM_TARGET_NAMESPACE
#endif

/// The best instruction set that the flags of this translation unit allow.
#if defined(__CUDA_ARCH__)  // nvcc reads host code, too, when it compiles for a device, and takes no vectors there
using native_isa = scalar;
#elif SEQPRIM_ISA % 100 == 4
using native_isa = amx_bf16;
#elif SEQPRIM_ISA % 100 == 3
using native_isa = avx512_bf16;
#elif SEQPRIM_ISA % 100 == 2
using native_isa = avx512;
#elif SEQPRIM_ISA % 100 == 1
using native_isa = avx2;
#else
using native_isa = scalar;
#endif

/// True when the flags of this translation unit allow the instructions of Isa.
template <class Isa>
inline constexpr bool compiled_for = std::is_same_v<Isa, scalar> ||
                                     (std::is_same_v<Isa, avx2> && SEQPRIM_ISA % 100 >= 1) ||
                                     (std::is_same_v<Isa, avx512> && SEQPRIM_ISA % 100 >= 2) ||
                                     (std::is_same_v<Isa, avx512_bf16> && SEQPRIM_ISA % 100 >= 3) ||
                                     (std::is_same_v<Isa, amx_bf16> && SEQPRIM_ISA % 100 >= 4);

/// Named requirement of kernels that tell visible from hidden by infinities, and keep NaN in its row.
template <class Kernel> consteval bool require_infinities() {
#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0
  static_assert(
      sizeof(Kernel) == 0,
      "seqprim: attention needs infinities and NaN, which -ffinite-math-only, a part of -ffast-math, assumes away: add "
      "-fno-finite-math-only. See docs/reference/arch/index.md");
#endif
  return true;
}

/// Why this program cannot run the code of Isa here: what the processor or the operating system lacks, in words; nullptr
/// when it lacks nothing. The answer does not depend on the flags of the translation unit and never changes while the program runs.
template <class Isa> [[nodiscard]] const char* unsupported_reason() noexcept;

template <> [[nodiscard]] SEQPRIM_INLINE const char* unsupported_reason<scalar>() noexcept { return nullptr; }
#if defined(__x86_64__)
template <> [[nodiscard]] SEQPRIM_INLINE const char* unsupported_reason<avx2>() noexcept {
  // Every processor with AVX2 has F16C.
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? nullptr
                                                                         : "the processor has no AVX2 and FMA";
}
template <> [[nodiscard]] SEQPRIM_INLINE const char* unsupported_reason<avx512>() noexcept {
  if (unsupported_reason<avx2>() != nullptr) return unsupported_reason<avx2>();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
             ? nullptr
             : "the processor has no AVX-512 F, BW, VL and DQ";
}
template <> [[nodiscard]] SEQPRIM_INLINE const char* unsupported_reason<avx512_bf16>() noexcept {
  if (unsupported_reason<avx512>() != nullptr) return unsupported_reason<avx512>();
  return __builtin_cpu_supports("avx512bf16") ? nullptr : "the processor has no AVX-512 BF16";
}
#else
template <> [[nodiscard]] SEQPRIM_INLINE const char* unsupported_reason<avx2>() noexcept {
  return "the processor is not x86-64";
}
template <> [[nodiscard]] SEQPRIM_INLINE const char* unsupported_reason<avx512>() noexcept {
  return unsupported_reason<avx2>();
}
template <> [[nodiscard]] SEQPRIM_INLINE const char* unsupported_reason<avx512_bf16>() noexcept {
  return unsupported_reason<avx2>();
}
#endif
template <> [[nodiscard]] SEQPRIM_INLINE const char* unsupported_reason<amx_bf16>() noexcept {
  return unsupported_reason<avx512_bf16>() != nullptr ? unsupported_reason<avx512_bf16>() : amx_unsupported_reason();
}

/// True when the machine that runs this program offers everything that Isa needs.
template <class Isa> [[nodiscard]] SEQPRIM_INLINE bool runs_here() noexcept {
  return unsupported_reason<Isa>() == nullptr;
}

}  // namespace seqprim::arch
