// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/cuda/fragment.hpp>
#include <seqprim/core/bfloat16.hpp>
#include <seqprim/core/bits.hpp>
#include <seqprim/core/float16.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <support/random.hpp>
#include <ucontext.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#  include <sanitizer/common_interface_defs.h>
#elif defined(__has_feature)
#  if __has_feature(address_sanitizer)
#    include <sanitizer/common_interface_defs.h>
#    define __SANITIZE_ADDRESS__ 1
#  endif
#endif

/// A block of CUDA lanes on the host: the engine interface of arch/cuda/mma_sync.cuh with every lane a fiber of its own.
///
/// Warp-wide instructions are a meeting of 32 fibers, written from the tables of the PTX manual and not from fragment.hpp's
/// functions. Copies are as late as the rules allow: the destination is poisoned when the copy begins and written when the lane
/// waits for it. Warps run ahead of each other in a random order. A missing wait or barrier so becomes a wrong number, in every run.
namespace seqprim::test {

class emulated_block;

/// What one lane sees.
class emulated_engine {
 public:
  static constexpr const char* name = "emulated";

  emulated_engine(emulated_block& block, int thread) : block_(&block), thread_(thread) {}

  [[nodiscard]] int lane() const { return thread_ % 32; }
  [[nodiscard]] int warp() const { return thread_ / 32; }
  [[nodiscard]] std::uint32_t block() const;

  using address = std::byte*;
  [[nodiscard]] address address_of(void* shared) const { return static_cast<std::byte*>(shared); }

  template <class T>
  void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) const;
  void load_matrices(std::uint32_t (&r)[4], const void* row) const { load(r, row, false); }
  void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) const { load(r, row, true); }
  void copy_async(void* shared, const void* global, int bytes) const;
  void commit_copies() const;
  template <int Pending> void wait_copies() const { wait(Pending); }
  void sync_block() const;
  void sync_warp() const;
  [[nodiscard]] float shuffle_xor(float x, int mask) const;
  [[nodiscard]] bool any(bool condition) const;
  [[nodiscard]] float exp2(float x) const { return std::exp2(x); }
  template <class T> [[nodiscard]] std::uint32_t pack(float low, float high) const {
    return std::uint32_t{T(low).bits} | std::uint32_t{T(high).bits} << 16;
  }

 private:
  void load(std::uint32_t (&r)[4], const void* row, bool transposed) const;
  void wait(int pending) const;

  emulated_block* block_;
  int thread_;
};

class emulated_block {
 public:
  /// Runs body(engine, shared memory) for each of warps * 32 lanes of block `index`, which also is the seed of the order in which
  /// warps run. Throws logic_error when lanes wait for each other for ever.
  template <class Body> static void run(int warps, std::size_t shared_bytes, std::uint32_t index, const Body& body) {
    emulated_block block(warps, shared_bytes, index);
    block.body_ = [&body, &block](const emulated_engine& engine) { body(engine, block.shared()); };
    block.schedule();
  }

 private:
  friend class emulated_engine;
  static constexpr std::size_t stack_size = 256 * 1024;

  struct copy {
    std::byte* to;
    const std::byte* from;
    int bytes;
  };
  struct lane_state {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    void* sanitizer_stack = nullptr;
    bool done = false;
    const void* operand = nullptr;  // of the instruction that the warp meets for
    void* result = nullptr;
    std::vector<copy> open;
    std::deque<std::vector<copy>> groups;
  };
  struct meeting {
    int arrived = 0;
    long generation = 0;
  };

  emulated_block(int warps, std::size_t shared_bytes, std::uint32_t index)
      : warps_(warps),
        index_(index),
        lanes_(static_cast<std::size_t>(warps) * 32),
        meetings_(static_cast<std::size_t>(warps)),
        memory_(new std::byte[shared_bytes + 16]),
        random_(index) {
    std::memset(memory_.get(), 0xff, shared_bytes + 16);  // NaN
  }

  [[nodiscard]] std::byte* shared() const {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
    return memory_.get() + (16 - address % 16) % 16;
  }

  static void enter(unsigned high, unsigned low, unsigned thread) {
    auto* const block = reinterpret_cast<emulated_block*>(std::uintptr_t{high} << 32 | std::uintptr_t{low});
    block->arrive_in_fiber(nullptr);
    try {
      block->body_(emulated_engine(*block, static_cast<int>(thread)));
    } catch (...) {
      block->error_ = std::current_exception();
    }
    lane_state& lane = block->lanes_[thread];
    lane.done = true;
    block->progress_ = true;
    block->leave(lane, true);
  }

  // The sanitizer wants to know about every change of stack.
  void arrive_in_fiber([[maybe_unused]] void* saved) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(saved, &main_bottom_, &main_size_);
#endif
  }
  void leave(lane_state& lane, [[maybe_unused]] bool for_ever) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_ever ? nullptr : &lane.sanitizer_stack, main_bottom_, main_size_);
#endif
    swapcontext(&lane.context, &main_);
    arrive_in_fiber(lane.sanitizer_stack);
  }
  void resume(lane_state& lane) {
#if defined(__SANITIZE_ADDRESS__)
    void* saved = nullptr;
    __sanitizer_start_switch_fiber(&saved, lane.stack.get(), stack_size);
    swapcontext(&main_, &lane.context);
    __sanitizer_finish_switch_fiber(saved, nullptr, nullptr);
#else
    swapcontext(&main_, &lane.context);
#endif
  }

  void prepare(unsigned thread) {
    lane_state& lane = lanes_[thread];
    lane.stack.reset(new char[stack_size]);
    getcontext(&lane.context);
    lane.context.uc_stack.ss_sp = lane.stack.get();
    lane.context.uc_stack.ss_size = stack_size;
    lane.context.uc_link = nullptr;
    const auto self = reinterpret_cast<std::uintptr_t>(this);
    makecontext(&lane.context, reinterpret_cast<void (*)()>(&emulated_block::enter), 3,
                static_cast<unsigned>(self >> 32), static_cast<unsigned>(self), thread);
  }

  void schedule() {
    for (std::size_t thread = 0; thread < lanes_.size(); ++thread) prepare(static_cast<unsigned>(thread));
    for (bool any_left = true; any_left;) {
      // One warp, chosen by lot, runs until it waits for the others; only then the next one.
      any_left = false;
      bool any_progress = false;
      const auto first = static_cast<int>(random_.integer(0, warps_ - 1));
      for (int n = 0; n < warps_; ++n) {
        const int warp = (first + n) % warps_;
        do {
          progress_ = false;
          for (int lane = 0; lane < 32; ++lane) {
            lane_state& state = lanes_[static_cast<std::size_t>(warp * 32 + lane)];
            if (!state.done) resume(state);
          }
          any_progress = any_progress || progress_;
          if (error_) std::rethrow_exception(error_);
        } while (progress_);
        for (int lane = 0; lane < 32; ++lane)
          any_left = any_left || !lanes_[static_cast<std::size_t>(warp * 32 + lane)].done;
      }
      if (any_left && !any_progress) throw std::logic_error("emulated block: lanes wait for each other for ever");
    }
  }

  /// Waits for `count` lanes; the last one to come does the work of all.
  template <class Work> void meet(meeting& place, int count, lane_state& lane, const Work& work) {
    const long generation = place.generation;
    if (++place.arrived == count) {
      work();
      place.arrived = 0;
      ++place.generation;
      progress_ = true;
    } else {
      while (place.generation == generation) leave(lane, false);
    }
  }

  lane_state& state(int warp, int lane) { return lanes_[static_cast<std::size_t>(warp * 32 + lane)]; }

  int warps_;
  std::uint32_t index_;
  std::vector<lane_state> lanes_;
  std::vector<meeting> meetings_;
  meeting barrier_;
  std::unique_ptr<std::byte[]> memory_;
  random_numbers random_;
  std::function<void(const emulated_engine&)> body_;
  std::exception_ptr error_;
  ucontext_t main_;
  bool progress_ = false;
  [[maybe_unused]] const void* main_bottom_ = nullptr;  // of the scheduler's stack, for the sanitizer
  [[maybe_unused]] std::size_t main_size_ = 0;
};

inline std::uint32_t emulated_engine::block() const { return block_->index_; }

template <class T>
void emulated_engine::multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) const {
  struct operands {
    float* c;
    std::uint32_t a[4], b[2];
  } mine{c, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  auto& self = block_->state(warp(), lane());
  self.operand = &mine;
  block_->meet(block_->meetings_[static_cast<std::size_t>(warp())], 32, self, [&] {
    const auto number = [](std::uint32_t word, int half) {
      return static_cast<float>(T::from_bits(static_cast<std::uint16_t>(word >> 16 * half)));
    };
    float left[16][16], right[16][8];
    for (int l = 0; l < 32; ++l) {
      const auto& x = *static_cast<const operands*>(block_->state(warp(), l).operand);
      const int group = l / 4, in_group = l % 4;
      for (int i = 0; i < 8; ++i)  // PTX manual, "Matrix Fragments for mma.m16n8k16": a_i
        left[i < 2 || (4 <= i && i < 6) ? group : group + 8][in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0)] =
            number(x.a[i / 2], i % 2);
      for (int i = 0; i < 4; ++i)  // b_i
        right[in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group] = number(x.b[i / 2], i % 2);
    }
    for (int l = 0; l < 32; ++l) {
      const auto& x = *static_cast<const operands*>(block_->state(warp(), l).operand);
      for (int i = 0; i < 4; ++i) {  // c_i
        const int row = i < 2 ? l / 4 : l / 4 + 8, column = l % 4 * 2 + (i & 1);
        float sum = x.c[i];
        for (int k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
        x.c[i] = sum;
      }
    }
  });
}

inline void emulated_engine::load(std::uint32_t (&r)[4], const void* row, bool transposed) const {
  struct operands {
    std::uint32_t* r;
    const std::uint16_t* row;
  } mine{r, static_cast<const std::uint16_t*>(row)};
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) throw std::logic_error("ldmatrix: row is not aligned");
  auto& self = block_->state(warp(), lane());
  self.operand = &mine;
  block_->meet(block_->meetings_[static_cast<std::size_t>(warp())], 32, self, [&] {
    const auto of = [&](int l) -> const operands& {
      return *static_cast<const operands*>(block_->state(warp(), l).operand);
    };
    for (int l = 0; l < 32; ++l)
      for (int matrix = 0; matrix < 4; ++matrix) {
        std::uint32_t word = 0;
        for (int half = 0; half < 2; ++half) {
          const int i = l / 4, j = l % 4 * 2 + half;  // row and column of the number that the lane receives
          const std::uint16_t bits = transposed ? of(matrix * 8 + j).row[i] : of(matrix * 8 + i).row[j];
          word |= std::uint32_t{bits} << 16 * half;
        }
        of(l).r[matrix] = word;
      }
  });
}

inline void emulated_engine::copy_async(void* shared, const void* global, int bytes) const {
  if (reinterpret_cast<std::uintptr_t>(shared) % 16 != 0 || reinterpret_cast<std::uintptr_t>(global) % 16 != 0)
    throw std::logic_error("cp.async: address is not aligned");
  if (bytes < 0 || bytes > 16) throw std::logic_error("cp.async: 0 to 16 bytes");
  std::memset(shared, 0xff, 16);
  block_->state(warp(), lane())
      .open.push_back({static_cast<std::byte*>(shared), static_cast<const std::byte*>(global), bytes});
}

inline void emulated_engine::commit_copies() const {
  auto& self = block_->state(warp(), lane());
  self.groups.push_back(std::move(self.open));
  self.open.clear();
}

inline void emulated_engine::wait(int pending) const {
  auto& groups = block_->state(warp(), lane()).groups;
  for (; groups.size() > static_cast<std::size_t>(pending); groups.pop_front())
    for (const auto& copy : groups.front()) {
      std::memset(copy.to, 0, 16);
      if (copy.bytes > 0) std::memcpy(copy.to, copy.from, static_cast<std::size_t>(copy.bytes));
    }
}

inline void emulated_engine::sync_block() const {
  block_->meet(block_->barrier_, block_->warps_ * 32, block_->state(warp(), lane()), [] {});
}

inline void emulated_engine::sync_warp() const {
  block_->meet(block_->meetings_[static_cast<std::size_t>(warp())], 32, block_->state(warp(), lane()), [] {});
}

inline float emulated_engine::shuffle_xor(float x, int mask) const {
  float result = 0;
  auto& self = block_->state(warp(), lane());
  self.operand = &x;
  self.result = &result;
  block_->meet(block_->meetings_[static_cast<std::size_t>(warp())], 32, self, [&] {
    for (int l = 0; l < 32; ++l)
      *static_cast<float*>(block_->state(warp(), l).result) =
          *static_cast<const float*>(block_->state(warp(), l ^ mask).operand);
  });
  return result;
}

inline bool emulated_engine::any(bool condition) const {
  bool result = false;
  auto& self = block_->state(warp(), lane());
  self.operand = &condition;
  self.result = &result;
  block_->meet(block_->meetings_[static_cast<std::size_t>(warp())], 32, self, [&] {
    bool found = false;
    for (int l = 0; l < 32; ++l) found = found || *static_cast<const bool*>(block_->state(warp(), l).operand);
    for (int l = 0; l < 32; ++l) *static_cast<bool*>(block_->state(warp(), l).result) = found;
  });
  return result;
}

}  // namespace seqprim::test
