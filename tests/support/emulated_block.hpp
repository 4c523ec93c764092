// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/cuda/fragment.hpp>
#include <seqprim/core/bfloat16.hpp>
#include <seqprim/core/bits.hpp>
#include <seqprim/core/float16.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <support/random.hpp>
#include <tuple>
#include <type_traits>
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
///     instructions  Warp-wide ones are a meeting of 32 fibers, written from the tables of the PTX manual and not from
///                   fragment.hpp's functions.
///     memory        Each warp has its own copy of shared memory. What a lane stores, and what it has waited for of its copies,
///                   reaches the copy of its warp at sync_warp() and those of all at sync_block(). Until then the place is
///                   poisoned (0xff) in every copy, for the lane that wrote as well; the destination of a copy from the moment
///                   that it begins. Data that comes too early so destroys what others still read. What is written without
///                   store(), by functors, reaches the other warps at sync_block() too, but destroys nothing. Of global memory,
///                   what store_global() wrote is poisoned until any of these barriers, or the end of the block. Votes and shuffles
///                   order no memory: who stores what another lane has read with load() without a barrier in between throws.
///     order         Lanes and warps are switched at random at any call of the engine, not only where they meet: in some blocks
///                   often, in others a warp runs on until it must wait. The seed is the index of the block.
///     sums          Tensor cores add like truncated_sum.
///
/// A missing wait or barrier so becomes a wrong number or an exception, in every run: tests/cuda/barriers_test.cpp leaves them out one by one.
namespace seqprim::test {

class emulated_block;

/// A barrier, wait or commit: the line of source that calls it.
struct barrier_site {
  std::string_view call, file;
  int line = 0;

  friend bool operator<(const barrier_site& a, const barrier_site& b) {
    return std::tie(a.file, a.line, a.call) < std::tie(b.file, b.line, b.call);
  }
  friend bool operator==(const barrier_site& a, const barrier_site& b) { return !(a < b) && !(b < a); }
};

/// What blocks have met so far, and the site that they leave out, as if it were not written.
struct barrier_sites {
  static inline std::set<barrier_site> met;
  static inline std::optional<barrier_site> left_out;

  [[nodiscard]] static bool skips(const barrier_site& site) {
    met.insert(site);
    return left_out == site;
  }
};

/// c + a[0] b[0] + .. + a[7] b[7] as the tensor cores of sm_80 add: products are exact; all addends are aligned to the largest exponent
/// (of a product: the sum of its factors' exponents) and cut off, toward zero, `extra_bits` below the last bit of a float with that
/// exponent; their sum is exact and cut off to a float. One mma.sync of depth 16 is two such sums, the second on top of the first.
/// Later units add 16 products at once, so less is cut off.
///
/// Source   Fasi, Higham, Mikaitis, Pranesh, Numerical behavior of NVIDIA tensor cores (PeerJ Computer Science 7:e330)
struct truncated_sum {
  static constexpr int terms = 8, extra_bits = 2;

  struct factor {
    double value = 0;
    int exponent = none;

    factor() = default;
    explicit factor(float x) : value(x), exponent(exponent_of(x)) {}
  };

  [[nodiscard]] static float add(float c, const factor* a, const factor* b) {
    double products[terms], plain = c;
    int exponent = exponent_of(c);
    for (int k = 0; k < terms; ++k) {
      products[k] = a[k].value * b[k].value;
      exponent = std::max(exponent, a[k].exponent + b[k].exponent);
    }
    for (const double x : products) plain += x;
    if (plain - plain != 0) return static_cast<float>(plain);  // infinity or NaN
    if (exponent < none / 2) return c;                         // zeros only
    const double scale = power_of_two(23 + extra_bits - exponent);
    std::int32_t sum = static_cast<std::int32_t>(c * scale);
    for (const double x : products) sum += static_cast<std::int32_t>(x * scale);
    const double exact = sum * power_of_two(exponent - 23 - extra_bits);
    const auto nearest = static_cast<float>(exact);
    return std::abs(double{nearest}) > std::abs(exact) && std::isfinite(nearest) ? std::nextafter(nearest, 0.0f)
                                                                                 : nearest;
  }

 private:
  static constexpr int none = -4096;  // the exponent of zero

  static int exponent_of(float x) {
    if (x == 0) return none;
    return std::max(static_cast<int>(bit_cast<std::uint32_t>(x) >> 23 & 0xffu), 1) - 127;
  }
  static double power_of_two(int n) { return bit_cast<double>(static_cast<std::uint64_t>(1023 + n) << 52); }
};

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
  template <class T> void store(T* shared, const std::type_identity_t<T>& value) const;
  template <class T> void store_global(T* place, const std::type_identity_t<T>& value) const;
  template <class T> [[nodiscard]] T load(const T* shared) const;
  void copy_async(void* shared, const void* global, int bytes) const;
  void commit_copies(const char* file = __builtin_FILE(), int line = __builtin_LINE()) const;
  template <int Pending> void wait_copies(const char* file = __builtin_FILE(), int line = __builtin_LINE()) const {
    wait(Pending, {"wait_copies", file, line});
  }
  void sync_block(const char* file = __builtin_FILE(), int line = __builtin_LINE()) const;
  void sync_warp(const char* file = __builtin_FILE(), int line = __builtin_LINE()) const;
  [[nodiscard]] float shuffle_xor(float x, int mask) const;
  [[nodiscard]] float shuffle(float x, int lane) const;
  [[nodiscard]] bool any(bool condition) const { return ballot(condition) != 0; }
  [[nodiscard]] std::uint32_t ballot(bool condition) const;
  [[nodiscard]] std::uint32_t matching(std::uint32_t value) const;
  [[nodiscard]] float exp2(float x) const { return std::exp2(x); }
  template <class T> [[nodiscard]] std::uint32_t pack(float low, float high) const {
    return std::uint32_t{T(low).bits} | std::uint32_t{T(high).bits} << 16;
  }

 private:
  void load(std::uint32_t (&r)[4], const void* row, bool transposed) const;
  void wait(int pending, const barrier_site& site) const;

  emulated_block* block_;
  int thread_;
};

class emulated_block {
 public:
  /// Bytes of shared memory that were written without store() or a copy, in all blocks so far.
  static inline std::size_t plain_bytes = 0;

  /// Runs body(engine, shared memory) for each of warps * 32 lanes of block `index`, which also is the seed of the order in which
  /// lanes run. Throws logic_error when lanes wait for each other for ever, or break another rule of the device.
  template <class Body> static void run(int warps, std::size_t shared_bytes, std::uint32_t index, const Body& body) {
    emulated_block block(warps, shared_bytes, index);
    block.body_ = [&body, &block](const emulated_engine& engine) { body(engine, block.shared(engine.warp())); };
    block.schedule();
  }

 private:
  friend class emulated_engine;
  static constexpr std::size_t stack_size = 256 * 1024;

  struct copy {
    std::size_t to;
    const std::byte* from;
    int bytes;
  };
  /// Written, and not yet published in the block.
  struct written {
    std::size_t to;     // in shared memory
    std::byte* global;  // or, where not null, in global memory
    std::size_t bytes;
    std::array<std::byte, 16> data;
  };
  struct meeting {
    std::string_view instruction;
    int arrived = 0;
    long generation = 0;
  };
  struct lane_state {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    void* sanitizer_stack = nullptr;
    bool done = false;
    const meeting* waits_at = nullptr;
    long generation = 0;            // of the meeting that it waits at
    const void* operand = nullptr;  // of the instruction that the warp meets for
    void* result = nullptr;
    std::vector<copy> open;
    std::deque<std::vector<copy>> groups;

    [[nodiscard]] bool waits() const { return waits_at != nullptr && waits_at->generation == generation; }
  };
  struct warp_state {
    meeting place;
    std::vector<written> stores;                 // in the order in which they were made
    std::size_t in_warp = 0;                     // how many of them the warp sees
    std::map<std::size_t, std::uint32_t> loads;  // since its last barrier: lanes that have read a place
  };

  emulated_block(int warps, std::size_t shared_bytes, std::uint32_t index)
      : index_(index),
        shared_bytes_(shared_bytes),
        lanes_(static_cast<std::size_t>(warps) * 32),
        warps_(static_cast<std::size_t>(warps)),
        random_(index) {
    for (int n = 0; n <= warps; ++n) {
      memories_.emplace_back(new std::byte[shared_bytes + 16]);
      std::memset(memory(n), 0xff, shared_bytes);  // NaN
    }
    until_switch_ = random_.integer(1, 64);
  }

  [[nodiscard]] std::byte* memory(int n) const {
    std::byte* const start = memories_[static_cast<std::size_t>(n)].get();
    return start + (16 - reinterpret_cast<std::uintptr_t>(start) % 16) % 16;
  }
  [[nodiscard]] std::byte* shared(int warp) const { return memory(warp); }
  /// What the last barrier of the block has published: the copies of all warps are equal to it then.
  [[nodiscard]] std::byte* published() const { return memory(static_cast<int>(warps_.size())); }

  static void enter(unsigned high, unsigned low, unsigned thread) {
    auto* const block = reinterpret_cast<emulated_block*>(std::uintptr_t{high} << 32 | std::uintptr_t{low});
    block->arrive_in_fiber(nullptr);
    try {
      block->body_(emulated_engine(*block, static_cast<int>(thread)));
    } catch (...) {
      block->error_ = std::current_exception();
    }
    lane_state& lane = block->lanes_[thread];
    bool on_their_way = !lane.open.empty();
    for (const auto& group : lane.groups) on_their_way = on_their_way || !group.empty();
    if (on_their_way) block->record("cp.async: a lane ends before its copies have arrived");
    block->end(lane);
  }
  void end(lane_state& lane) {
    lane.done = true;
    progress_ = true;
    leave(lane, true);
  }

  /// The lane breaks a rule. It is left as it stands, since algorithms are noexcept: nothing on its stack may own memory.
  void fail(lane_state& lane, std::string_view rule) {
    record(rule);
    end(lane);
  }
  void record(std::string_view rule) {
    if (!error_) error_ = std::make_exception_ptr(std::logic_error(std::string(rule)));
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
    const auto warps = static_cast<index_t>(warps_.size());
    const index_t patience =
        index_t{1} << random_.integer(0, 12);  // passes of a warp, at most, before another one runs
    for (bool any_left = true; any_left;) {
      any_left = false;
      bool any_progress = false;
      const index_t first = random_.integer(0, warps - 1);
      for (index_t n = 0; n < warps; ++n) {
        const index_t warp = (first + n) % warps;
        index_t passes = random_.integer(1, patience);
        do {
          progress_ = false;
          const index_t order = random_.integer(0, 31);
          for (index_t lane = 0; lane < 32; ++lane) {
            lane_state& it = lanes_[static_cast<std::size_t>(warp * 32 + (lane ^ order))];
            if (!it.done && !it.waits()) resume(it);
          }
          any_progress = any_progress || progress_;
          if (error_) std::rethrow_exception(error_);
        } while (progress_ && --passes > 0);
        for (index_t lane = 0; lane < 32; ++lane)
          any_left = any_left || !lanes_[static_cast<std::size_t>(warp * 32 + lane)].done;
      }
      if (any_left && !any_progress) throw std::logic_error("emulated block: lanes wait for each other for ever");
    }
    for (int warp = 0; warp < static_cast<int>(warps_.size()); ++warp) publish_in_warp(warp);
  }

  /// Lets others run, at random.
  void may_switch(lane_state& lane) {
    if (--until_switch_ > 0) return;
    until_switch_ = random_.integer(1, 64);
    progress_ = true;
    leave(lane, false);
  }

  /// Waits for `count` lanes; the last one to come does the work of all.
  template <class Work>
  void meet(meeting& place, int count, lane_state& lane, std::string_view instruction, const Work& work) {
    may_switch(lane);
    if (place.arrived == 0) place.instruction = instruction;
    if (place.instruction != instruction) fail(lane, "lanes of a warp meet at different instructions");
    if (++place.arrived == count) {
      work();
      place.arrived = 0;
      ++place.generation;
      progress_ = true;
    } else {
      lane.waits_at = &place;
      lane.generation = place.generation;
      leave(lane, false);
      lane.waits_at = nullptr;
    }
  }
  template <class Work> void meet_warp(int warp, lane_state& lane, std::string_view instruction, const Work& work) {
    meet(warps_[static_cast<std::size_t>(warp)].place, 32, lane, instruction, work);
  }

  [[nodiscard]] std::size_t offset_of(int warp, lane_state& lane, const void* place, std::size_t bytes) {
    const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(place) - shared(warp));
    if (offset > shared_bytes_ || shared_bytes_ - offset < bytes) fail(lane, "a store outside of shared memory");
    return offset;
  }
  void poison(std::size_t offset, std::size_t bytes) const {
    for (int n = 0; n <= static_cast<int>(warps_.size()); ++n) std::memset(memory(n) + offset, 0xff, bytes);
  }
  void publish_in_warp(int warp) {
    warp_state& it = warps_[static_cast<std::size_t>(warp)];
    for (; it.in_warp < it.stores.size(); ++it.in_warp) write(it.stores[it.in_warp], warp);
    it.loads.clear();
  }
  void publish_in_block() {
    for (warp_state& it : warps_) {
      for (std::size_t at = 0; at < it.stores.size(); ++at)
        for (int n = 0; n <= static_cast<int>(warps_.size()); ++n)
          if (it.stores[at].global == nullptr || at >= it.in_warp) write(it.stores[at], n);
      it.stores.clear();
      it.in_warp = 0;
      it.loads.clear();
    }
    publish_plain_stores();
  }
  void publish_plain_stores() {
    const auto warps = static_cast<int>(warps_.size());
    bool any = false;
    for (int n = 0; n < warps; ++n) any = any || std::memcmp(memory(n), published(), shared_bytes_) != 0;
    if (!any) return;
    const std::vector<std::byte> before(published(), published() + shared_bytes_);
    for (int n = 0; n < warps; ++n)
      for (std::size_t at = 0; at < shared_bytes_; ++at) {
        if (memory(n)[at] == before[at]) continue;
        if (published()[at] != before[at]) record("two warps write one byte of shared memory between two barriers");
        published()[at] = memory(n)[at];
        ++plain_bytes;
      }
    for (int n = 0; n < warps; ++n) std::memcpy(memory(n), published(), shared_bytes_);
  }
  void write(const written& store, int n) const {
    std::memcpy(store.global != nullptr ? store.global : memory(n) + store.to, store.data.data(), store.bytes);
  }

  lane_state& state(int warp, int lane) { return lanes_[static_cast<std::size_t>(warp * 32 + lane)]; }

  std::uint32_t index_;
  std::size_t shared_bytes_;
  std::vector<lane_state> lanes_;
  std::vector<warp_state> warps_;
  meeting barrier_;
  std::vector<std::unique_ptr<std::byte[]>> memories_;  // one for each warp, and what is published
  random_numbers random_;
  index_t until_switch_ = 0;
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
  block_->meet_warp(warp(), self, "multiply", [&] {
    const auto number = [](std::uint32_t word, int half) {
      return truncated_sum::factor(static_cast<float>(T::from_bits(static_cast<std::uint16_t>(word >> 16 * half))));
    };
    truncated_sum::factor left[16][16], right[8][16];  // right: [column][depth]
    for (int l = 0; l < 32; ++l) {
      const auto& x = *static_cast<const operands*>(block_->state(warp(), l).operand);
      const int group = l / 4, in_group = l % 4;
      for (int i = 0; i < 8; ++i)  // PTX manual, "Matrix Fragments for mma.m16n8k16": a_i
        left[i < 2 || (4 <= i && i < 6) ? group : group + 8][in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0)] =
            number(x.a[i / 2], i % 2);
      for (int i = 0; i < 4; ++i)  // b_i
        right[group][in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)] = number(x.b[i / 2], i % 2);
    }
    for (int l = 0; l < 32; ++l) {
      const auto& x = *static_cast<const operands*>(block_->state(warp(), l).operand);
      for (int i = 0; i < 4; ++i) {  // c_i
        const int row = i < 2 ? l / 4 : l / 4 + 8, column = l % 4 * 2 + (i & 1);
        for (int k = 0; k < 16; k += truncated_sum::terms)
          x.c[i] = truncated_sum::add(x.c[i], left[row] + k, right[column] + k);
      }
    }
  });
}

inline void emulated_engine::load(std::uint32_t (&r)[4], const void* row, bool transposed) const {
  struct operands {
    std::uint32_t* r;
    const std::uint16_t* row;
  } mine{r, static_cast<const std::uint16_t*>(row)};
  auto& self = block_->state(warp(), lane());
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) block_->fail(self, "ldmatrix: row is not aligned");
  self.operand = &mine;
  block_->meet_warp(warp(), self, transposed ? "load_matrices_transposed" : "load_matrices", [&] {
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

template <class T> void emulated_engine::store(T* shared, const std::type_identity_t<T>& value) const {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  auto& self = block_->state(warp(), lane());
  block_->may_switch(self);
  const std::size_t to = block_->offset_of(warp(), self, shared, sizeof(T));
  const auto& loads = block_->warps_[static_cast<std::size_t>(warp())].loads;
  const auto read = loads.find(to);
  if (read != loads.end() && (read->second & ~(std::uint32_t{1} << lane())) != 0)
    block_->fail(self, "a lane stores what another one of its warp may still read");
  block_->poison(to, sizeof(T));
  emulated_block::written store{to, nullptr, sizeof(T), {}};
  std::memcpy(store.data.data(), &value, sizeof(T));
  block_->warps_[static_cast<std::size_t>(warp())].stores.push_back(store);
}

template <class T> T emulated_engine::load(const T* shared) const {
  auto& self = block_->state(warp(), lane());
  const std::size_t from = block_->offset_of(warp(), self, shared, sizeof(T));
  block_->warps_[static_cast<std::size_t>(warp())].loads[from] |= std::uint32_t{1} << lane();
  return *shared;
}

template <class T> void emulated_engine::store_global(T* place, const std::type_identity_t<T>& value) const {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  block_->may_switch(block_->state(warp(), lane()));
  emulated_block::written store{0, reinterpret_cast<std::byte*>(place), sizeof(T), {}};
  std::memcpy(store.data.data(), &value, sizeof(T));
  std::memset(store.global, 0xff, sizeof(T));
  block_->warps_[static_cast<std::size_t>(warp())].stores.push_back(store);
}

inline void emulated_engine::copy_async(void* shared, const void* global, int bytes) const {
  auto& self = block_->state(warp(), lane());
  block_->may_switch(self);
  if (reinterpret_cast<std::uintptr_t>(shared) % 16 != 0 || reinterpret_cast<std::uintptr_t>(global) % 16 != 0)
    block_->fail(self, "cp.async: address is not aligned");
  if (bytes < 0 || bytes > 16) block_->fail(self, "cp.async: 0 to 16 bytes");
  const std::size_t to = block_->offset_of(warp(), self, shared, 16);
  block_->poison(to, 16);
  self.open.push_back({to, static_cast<const std::byte*>(global), bytes});
}

inline void emulated_engine::commit_copies(const char* file, int line) const {
  auto& self = block_->state(warp(), lane());
  block_->may_switch(self);
  if (barrier_sites::skips({"commit_copies", file, line})) return;
  self.groups.push_back(std::move(self.open));
  self.open.clear();
}

inline void emulated_engine::wait(int pending, const barrier_site& site) const {
  auto& self = block_->state(warp(), lane());
  block_->may_switch(self);
  if (barrier_sites::skips(site)) return;
  auto& groups = self.groups;
  for (; groups.size() > static_cast<std::size_t>(pending); groups.pop_front())
    for (const auto& copy : groups.front()) {
      emulated_block::written store{copy.to, nullptr, 16, {}};
      if (copy.bytes > 0) std::memcpy(store.data.data(), copy.from, static_cast<std::size_t>(copy.bytes));
      block_->warps_[static_cast<std::size_t>(warp())].stores.push_back(store);
    }
}

inline void emulated_engine::sync_block(const char* file, int line) const {
  if (barrier_sites::skips({"sync_block", file, line})) return;
  auto& self = block_->state(warp(), lane());
  block_->meet(block_->barrier_, static_cast<int>(block_->lanes_.size()), self, "sync_block",
               [&] { block_->publish_in_block(); });
}

inline void emulated_engine::sync_warp(const char* file, int line) const {
  if (barrier_sites::skips({"sync_warp", file, line})) return;
  block_->meet_warp(warp(), block_->state(warp(), lane()), "sync_warp", [&] { block_->publish_in_warp(warp()); });
}

inline float emulated_engine::shuffle_xor(float x, int mask) const {
  float result = 0;
  auto& self = block_->state(warp(), lane());
  self.operand = &x;
  self.result = &result;
  block_->meet_warp(warp(), self, "shuffle_xor", [&] {
    for (int l = 0; l < 32; ++l)
      *static_cast<float*>(block_->state(warp(), l).result) =
          *static_cast<const float*>(block_->state(warp(), l ^ mask).operand);
  });
  return result;
}

inline float emulated_engine::shuffle(float x, int lane) const {
  struct operands {
    float x, result;
    int lane;
  } mine{x, 0, lane};
  auto& self = block_->state(warp(), this->lane());
  self.operand = &mine;
  self.result = &mine;
  block_->meet_warp(warp(), self, "shuffle", [&] {
    for (int l = 0; l < 32; ++l) {
      auto& reader = *static_cast<operands*>(block_->state(warp(), l).result);
      reader.result = static_cast<const operands*>(block_->state(warp(), reader.lane % 32).operand)->x;
    }
  });
  return mine.result;
}

inline std::uint32_t emulated_engine::ballot(bool condition) const {
  std::uint32_t result = 0;
  auto& self = block_->state(warp(), lane());
  self.operand = &condition;
  self.result = &result;
  block_->meet_warp(warp(), self, "ballot", [&] {
    std::uint32_t found = 0;
    for (int l = 0; l < 32; ++l)
      if (*static_cast<const bool*>(block_->state(warp(), l).operand)) found |= std::uint32_t{1} << l;
    for (int l = 0; l < 32; ++l) *static_cast<std::uint32_t*>(block_->state(warp(), l).result) = found;
  });
  return result;
}

inline std::uint32_t emulated_engine::matching(std::uint32_t value) const {
  std::uint32_t result = 0;
  auto& self = block_->state(warp(), lane());
  self.operand = &value;
  self.result = &result;
  block_->meet_warp(warp(), self, "matching", [&] {
    const auto of = [&](int l) { return *static_cast<const std::uint32_t*>(block_->state(warp(), l).operand); };
    for (int l = 0; l < 32; ++l)
      for (int other = 0; other < 32; ++other)
        if (of(other) == of(l))
          *static_cast<std::uint32_t*>(block_->state(warp(), l).result) |= std::uint32_t{1} << other;
  });
  return result;
}

}  // namespace seqprim::test
