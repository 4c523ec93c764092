// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/sampling/draw.hpp>
#include <seqprim/sampling/stage.hpp>

#include <cstdint>

/// How a row of logits is transformed on the CPU: one row, one thread, working memory from the caller.
namespace seqprim::sampling::detail {

/// Logits as integers in the same order; -0 equals +0. -inf is 0x007fffff; NaN lies above +inf or below -inf.
[[nodiscard]] SEQPRIM_HD constexpr std::uint32_t ordered_key(float logit) noexcept {
  const auto bits = bit_cast<std::uint32_t>(logit);
  if ((bits << 1) == 0) return 0x80000000u;
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
inline constexpr std::uint32_t key_of_minus_infinity = 0x007fffffu;
inline constexpr std::uint32_t key_of_infinity = 0xff800000u;

/// A prefix by count: a token is inside iff fewer than `count` come before it.
struct by_count {
  std::uint64_t count;

  SEQPRIM_HD static constexpr std::uint64_t weight(float, float) noexcept { return 1; }
  SEQPRIM_HD constexpr void set_total(std::uint64_t) noexcept {}
  [[nodiscard]] SEQPRIM_HD constexpr bool inside(std::uint64_t before) const noexcept { return before < count; }
};

/// A prefix by probability: a token is inside iff the weight before it is less than `mass` times the weight of the row.
struct by_mass {
  float mass;
  double reach = -1;

  SEQPRIM_HD static constexpr std::uint64_t weight(float logit, float max) noexcept {
    return integer_weight(logit, max);
  }
  SEQPRIM_HD constexpr void set_total(std::uint64_t total) noexcept {
    if (reach < 0) reach = static_cast<double>(total) * static_cast<double>(mass);
  }
  [[nodiscard]] SEQPRIM_HD constexpr bool inside(std::uint64_t before) const noexcept {
    return before == 0 || static_cast<double>(before) < reach;
  }
};

/// The candidates of one row in working memory, compacted as tokens are dropped. Always by ascending token id.
template <class Isa> class row_buffer {
 public:
  /// logits [vocab]; tokens [vocab], or null for chains that drop nothing.
  row_buffer(float* logits, std::int32_t* tokens) noexcept : logits_(logits), tokens_(tokens) {}

  template <class T> void load(const tensor_view<const T, 1>& logits) noexcept {
    count_ = logits.extent(0);
    identity_ = true;
    for (index_t i = 0; i < count_; ++i) logits_[i] = static_cast<float>(logits(i));
    summarize();
  }

  template <class S> void apply(const S& s) {
    if constexpr (threshold<S>) {
      if (ok()) keep_from(ordered_key(s.cutoff(summary_)));
    }
    if constexpr (order<S>) {
      if (ok()) keep(s.limit(summary_));
    }
    if constexpr (elementwise<S>) {
      if (ok()) map(s);
    }
  }

  [[nodiscard]] bool ok() const noexcept { return summary_.status == row_status::ok; }
  [[nodiscard]] candidates view() const noexcept {
    return {.logits = logits_, .tokens = identity_ ? nullptr : tokens_, .count = count_, .summary = summary_};
  }

 private:
  [[nodiscard]] index_t token(index_t i) const noexcept { return identity_ ? i : index_t{tokens_[i]}; }

  void summarize() noexcept {
    std::uint32_t highest = 0, lowest = ~0u;
    for (index_t i = 0; i < count_; ++i) {
      const std::uint32_t key = ordered_key(logits_[i]);
      highest = max(highest, key);
      lowest = min(lowest, key);
    }
    summary_ = {};
    if (count_ > 0 && (highest > key_of_infinity || lowest < key_of_minus_infinity)) {
      summary_.status = row_status::nan;
    } else if (highest == key_of_infinity) {
      summary_.status = row_status::infinite;
    } else if (highest <= key_of_minus_infinity) {
      summary_.status = row_status::all_masked;
    } else {
      summary_.status = row_status::ok;
      index_t first = 0;
      while (ordered_key(logits_[first]) != highest) ++first;
      summary_.max = logits_[first];
      summary_.argmax = token(first);
    }
  }

  template <class F> void map(const F& f) noexcept {
    for (index_t i = 0; i < count_; ++i)
      if (!excluded(logits_[i])) logits_[i] = f(logits_[i], token(i));
    summarize();
  }

  void keep_from(std::uint32_t key) noexcept {
    if (key > key_of_minus_infinity) drop_below(key);
  }

  void keep(const prefix& limit) noexcept {
    by_mass mass{.mass = limit.mass};
    if (limit.count < count_) {
      if (limit.mass < 1.0f) mass.set_total(total_weight());  // probabilities are those before anything is dropped
      keep_prefix(by_count{.count = static_cast<std::uint64_t>(max<index_t>(limit.count, 1))});
    }
    if (limit.mass < 1.0f) keep_prefix(mass);
  }

  /// Keeps the longest prefix of the total order whose every token has inside(weight of the tokens before it). Radix
  /// descent over the keys, 11 + 11 + 10 bits: each level adds up the weights of the buckets, finds the last bucket that
  /// begins inside, drops what lies below and goes on within it.
  template <class Limit> void keep_prefix(Limit limit) noexcept {
    std::uint64_t before = 0;  // weight of all candidates above the bucket
    std::uint32_t bucket = 0;  // the upper bits of the keys in it
    constexpr int shifts[] = {21, 10, 0}, bits[] = {11, 11, 10};
    for (int level = 0; level < 3; ++level) {
      const int shift = shifts[level];
      const std::uint32_t digits = 1u << bits[level];
      std::uint64_t weights[1 << 11] = {};
      bool used[1 << 11] = {};
      std::uint64_t total = 0;
      for (index_t i = 0; i < count_; ++i) {
        const std::uint32_t key = ordered_key(logits_[i]);
        if (level > 0 && (key >> shift >> bits[level]) != bucket) continue;
        if (key == key_of_minus_infinity) continue;
        const std::uint32_t digit = (key >> shift) & (digits - 1);
        const std::uint64_t weight = Limit::weight(logits_[i], summary_.max);
        weights[digit] += weight;
        total += weight;
        used[digit] = true;
      }
      if (level == 0) limit.set_total(total);
      std::uint64_t above = before;
      std::uint32_t entered = 0;
      for (std::uint32_t digit = digits; digit-- > 0;) {
        if (!used[digit]) continue;
        if (!limit.inside(above)) break;
        entered = digit;
        before = above;
        above += weights[digit];
      }
      bucket = (bucket << bits[level]) | entered;
      drop_below(bucket << shift);
    }
    // What is left below the last step are ties: one key, one weight, lower token ids first.
    index_t kept = 0;
    for (index_t i = 0; i < count_; ++i) {
      if (ordered_key(logits_[i]) == bucket) {
        if (!limit.inside(before)) continue;
        before += Limit::weight(logits_[i], summary_.max);
      }
      logits_[kept] = logits_[i];
      tokens_[kept] = tokens_[i];
      ++kept;
    }
    count_ = kept;
  }

  [[nodiscard]] std::uint64_t total_weight() const noexcept {
    std::uint64_t total = 0;
    for (index_t i = 0; i < count_; ++i) total += integer_weight(logits_[i], summary_.max);
    return total;
  }

  /// Drops candidates with a smaller key, and those that were excluded. The order stays.
  void drop_below(std::uint32_t key) noexcept {
    const std::uint32_t lowest = max(key, key_of_minus_infinity + 1);
    index_t kept = 0;
    for (index_t i = 0; i < count_; ++i) {
      const auto id = static_cast<std::int32_t>(token(i));
      const float logit = logits_[i];
      logits_[kept] = logit;  // the write is unconditional, the step is not: no branch to mispredict
      tokens_[kept] = id;
      kept += ordered_key(logit) >= lowest ? 1 : 0;
    }
    count_ = kept;
    identity_ = false;
  }

  float* logits_;
  std::int32_t* tokens_;
  index_t count_ = 0;
  bool identity_ = true;
  row_summary summary_;
};

}  // namespace seqprim::sampling::detail
