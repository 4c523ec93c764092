// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index.hpp>

#include <cstddef>
#include <cstdint>
#include <new>

namespace seqprim {

/// Uninitialized working memory: one buffer of `count` elements per thread, 64-byte aligned and apart by whole cache
/// lines; nothing for no buffer. Kernels that need it say so in their doc comment, under Cost.
template <class T> class scratch {
 public:
  scratch(int slabs, index_t count)
      : stride_(round_up(max<index_t>(count, 1), index_t{64})),
        memory_(slabs == 0 ? nullptr
                           : ::operator new(static_cast<std::size_t>(stride_* slabs) * sizeof(T) + alignment)) {
    // Aligned by hand: glibc learns to keep large blocks for the next call from plain allocations, but gives aligned ones back
    // to the system each time, and the page faults of a call then cost more than a small call itself.
    const auto address = reinterpret_cast<std::uintptr_t>(memory_);
    data_ = reinterpret_cast<T*>((address + alignment - 1) / alignment * alignment);
  }
  scratch(const scratch&) = delete;
  scratch& operator=(const scratch&) = delete;
  ~scratch() { ::operator delete(memory_); }

  [[nodiscard]] T* slab(int thread) const noexcept { return data_ + thread * stride_; }

 private:
  static constexpr std::size_t alignment = 64;

  index_t stride_;
  void* memory_;
  T* data_;
};

/// Hands out pieces of one buffer of scratch, each on a cache line of its own. Without memory it only counts.
class workspace {
 public:
  explicit workspace(std::byte* memory = nullptr) noexcept : memory_(memory) {}
  template <class X> [[nodiscard]] X* take(index_t count) noexcept {
    std::byte* const at = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += round_up(count * static_cast<index_t>(sizeof(X)), index_t{64});
    return reinterpret_cast<X*>(at);
  }
  /// Bytes handed out.
  [[nodiscard]] index_t used() const noexcept { return used_; }

 private:
  std::byte* memory_;
  index_t used_ = 0;
};

}  // namespace seqprim
