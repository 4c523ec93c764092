// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/config.hpp>

#if defined(__x86_64__) && defined(__linux__)
#  include <cpuid.h>
#  include <sys/syscall.h>
#  include <unistd.h>
#endif

namespace seqprim::arch {
inline namespace SEQPRIM_TARGET_NAMESPACE {

/// Why this process may not use the tile registers of AMX, in words; nullptr when it may. Linux enables AMX
/// per process: the first call requests permission, the result is cached.
///
/// Source  Linux, Documentation/arch/x86/xstate.rst.
[[nodiscard]] inline const char* amx_unsupported_reason() noexcept {
#if defined(__x86_64__) && defined(__linux__)
  static const char* const answer = []() -> const char* {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned tile = 1u << 24, bf16 = 1u << 22;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & tile) == 0 || (d & bf16) == 0)
      return "the processor has no AMX tiles with bfloat16 products";
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    if (::syscall(SYS_arch_prctl, request_permission, tile_data) != 0)
      return "the kernel does not permit the tile registers of AMX (arch_prctl ARCH_REQ_XCOMP_PERM)";
    return nullptr;
  }();
  return answer;
#else
  return "AMX is asked for on x86-64 Linux only";
#endif
}

}  // namespace SEQPRIM_TARGET_NAMESPACE
}  // namespace seqprim::arch
