// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index.hpp>

#include <cstddef>
#include <new>

namespace seqprim {

/// Uninitialized working memory: one buffer of `count` elements per thread, 64-byte aligned and apart by whole cache
/// lines; nothing for no buffer. Kernels that need it say so in their doc comment, under Cost.
template <class T> class scratch {
 public:
  scratch(int slabs, index_t count)
      : stride_(round_up(max<index_t>(count, 1), index_t{64})),
        data_(slabs == 0 ? nullptr
                         : static_cast<T*>(::operator new (static_cast<std::size_t>(stride_* slabs) * sizeof(T),
                                                           std::align_val_t{64}))) {}
  scratch(const scratch&) = delete;
  scratch& operator=(const scratch&) = delete;
  ~scratch() { ::operator delete (data_, std::align_val_t{64}); }

  [[nodiscard]] T* slab(int thread) const noexcept { return data_ + thread * stride_; }

 private:
  index_t stride_;
  T* data_;
};

}  // namespace seqprim
