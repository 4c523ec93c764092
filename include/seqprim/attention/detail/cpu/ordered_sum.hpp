// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index.hpp>

#include <atomic>
#include <cstddef>
#include <limits>
#include <memory>

namespace seqprim::attention::detail {
inline namespace SEQPRIM_TARGET_NAMESPACE {

/// Ordered accumulation: concurrent tasks update shared sums in the order of the tasks, for reproducible bits. Every task goes
/// through numbered slots in ascending order and may skip some; before it adds to slots it waits until every earlier task of its
/// chain has passed them.
///
/// No deadlock when tasks are started in ascending order: the earliest unfinished one of a chain never waits.
class turns {
 public:
  turns(index_t chains, index_t pieces)
      : pieces_(pieces), reached_(new std::atomic<index_t>[static_cast<std::size_t>(chains * pieces)]()) {}

  /// One task in its chain.
  class place {
   public:
    /// Returns when every earlier task has passed the slots before `end`.
    void wait(index_t end) noexcept {
      for (index_t i = settled_; i < piece_; ++i) {
        index_t reached = chain_[i].load(std::memory_order_acquire);
        for (int spins = 0; reached < end; ++spins) {
          // As long as a tile may take; then asleep, so that a machine with fewer cores than threads gets on.
          if (spins < 4096) {
            pause();
          } else {
            chain_[i].wait(reached, std::memory_order_acquire);
          }
          reached = chain_[i].load(std::memory_order_acquire);
        }
        if (i == settled_ && reached == finished) ++settled_;
      }
    }
    /// This task adds nothing before `at` any more.
    void begin(index_t at) noexcept {
      chain_[piece_].store(at, std::memory_order_release);
      chain_[piece_].notify_all();
    }
    void finish() noexcept { begin(finished); }

   private:
    friend turns;
    static void pause() noexcept {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
    static constexpr index_t finished = std::numeric_limits<index_t>::max();
    place(std::atomic<index_t>* chain, index_t piece) noexcept : chain_(chain), piece_(piece) {}

    std::atomic<index_t>* chain_;
    index_t piece_, settled_ = 0;
  };

  [[nodiscard]] place of(index_t chain, index_t piece) noexcept {
    return place(reached_.get() + chain * pieces_, piece);
  }

 private:
  index_t pieces_;
  std::unique_ptr<std::atomic<index_t>[]> reached_;
};

}  // namespace SEQPRIM_TARGET_NAMESPACE
}  // namespace seqprim::attention::detail
