// SPDX-License-Identifier: Apache-2.0
// main of every test binary.
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(SEQPRIM_CATCH2_V3)
#  include <catch2/catch_session.hpp>
#else
#  define CATCH_CONFIG_RUNNER
#  include <catch2/catch.hpp>
#endif

// Aligned memory - tensors and scratch - starts as NaN: a kernel that reads what nobody wrote fails.
void* operator new(std::size_t size, std::align_val_t alignment) {
  const auto step = static_cast<std::size_t>(alignment);
  void* const memory = std::aligned_alloc(step, (size / step + 1) * step);
  if (memory == nullptr) throw std::bad_alloc();
  return std::memset(memory, 0xff, size);
}
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

int main(int argc, char** argv) { return Catch::Session().run(argc, argv); }
