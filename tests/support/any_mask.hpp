// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/mask/rule.hpp>

#include <vector>

namespace seqprim::test {

/// A mask chosen at run time, so that a kernel is compiled for one type of mask and tested with all of them: a rule behind a
/// pointer to an object that somebody else keeps. It passes on every hint but those that are types; kernels ask it pair by pair.
class any_rule {
 public:
  any_rule() = default;
  template <mask::rule M> explicit any_rule(const M& rule) noexcept : rule_(&rule), answers_(&answers_of<M>) {}

  bool operator()(index_t q, index_t k) const noexcept { return answers_->visible(rule_, q, k); }
  mask::tile_kind classify(range q, range k) const noexcept { return answers_->classify(rule_, q, k); }
  range key_bounds(range q, index_t k_len) const noexcept { return answers_->key_bounds(rule_, q, k_len); }
  range query_bounds(range k, index_t q_end) const noexcept { return answers_->query_bounds(rule_, k, q_end); }
  mask::row_group group_at(index_t q) const noexcept { return answers_->group_at(rule_, q); }

 protected:
  [[nodiscard]] range row(index_t q) const noexcept { return answers_->visible_keys(rule_, q); }

 private:
  struct answers {
    bool (*visible)(const void*, index_t, index_t) noexcept;
    mask::tile_kind (*classify)(const void*, range, range) noexcept;
    range (*key_bounds)(const void*, range, index_t) noexcept;
    range (*query_bounds)(const void*, range, index_t) noexcept;
    mask::row_group (*group_at)(const void*, index_t) noexcept;
    range (*visible_keys)(const void*, index_t) noexcept;
  };
  template <class M> static const M& as(const void* rule) noexcept { return *static_cast<const M*>(rule); }
  template <class M> static range keys_of(const void* rule, index_t q) noexcept {
    if constexpr (mask::one_range_per_row<M>) return as<M>(rule).visible_keys(q);
    return {0, mask::unlimited};
  }
  template <class M>
  static constexpr answers answers_of = {
      [](const void* m, index_t q, index_t k) noexcept -> bool { return as<M>(m)(q, k); },
      [](const void* m, range q, range k) noexcept { return as<M>(m).classify(q, k); },
      [](const void* m, range q, index_t k_len) noexcept { return mask::key_bounds(as<M>(m), q, k_len); },
      [](const void* m, range k, index_t q_end) noexcept {
        return mask::query_bounds(as<M>(m), k, range{-mask::unlimited, q_end});
      },
      [](const void* m, index_t q) noexcept { return mask::group_at(as<M>(m), q); },
      [](const void* m, index_t q) noexcept { return keys_of<M>(m, q); }};

  const void* rule_ = nullptr;
  const answers* answers_ = nullptr;
};

/// The same for rules whose rows each see one range of keys; kernels ask for the range.
class any_ranges : public any_rule {
 public:
  using any_rule::any_rule;
  [[nodiscard]] range visible_keys(index_t q) const noexcept { return row(q); }
};

static_assert(mask::rule<any_rule> && !mask::one_range_per_row<any_rule> && mask::one_range_per_row<any_ranges>);

/// The rules of all batch rows and heads.
template <class Rule> class any_mask_rules {
 public:
  virtual ~any_mask_rules() = default;
  virtual void prepare(const mask::shape& problem) = 0;
  [[nodiscard]] const Rule& rule(index_t b, index_t h) const noexcept {
    return rules_[static_cast<std::size_t>(b * heads_ + h)];
  }

 protected:
  std::vector<Rule> rules_;
  index_t heads_ = 0;
};

/// What a call gets in place of a mask. Validating binds: not before, as only a valid mask can be bound.
template <class Rule> struct any_mask {
  any_mask_rules<Rule>* rules = nullptr;

  void validate(const mask::shape& problem) const { rules->prepare(problem); }
  [[nodiscard]] Rule bind(index_t b, index_t h) const noexcept { return rules->rule(b, h); }
};

/// Keeps a mask and its rules while a call lasts.
template <mask::bindable M, class Rule> class any_mask_of : public any_mask_rules<Rule> {
 public:
  explicit any_mask_of(const M& mask) : mask_(mask) {}
  any_mask_of(const any_mask_of&) = delete;
  any_mask_of& operator=(const any_mask_of&) = delete;

  [[nodiscard]] any_mask<Rule> view() noexcept { return {this}; }
  void prepare(const mask::shape& problem) override {
    mask::validate(mask_, problem);
    this->heads_ = problem.heads;
    bound_.clear();
    this->rules_.clear();
    bound_.reserve(static_cast<std::size_t>(problem.batch * problem.heads));
    for (index_t n = 0; n < problem.batch * problem.heads; ++n) {
      bound_.push_back(mask::bind(mask_, n / problem.heads, n % problem.heads));
      this->rules_.emplace_back(bound_.back());
    }
  }

 private:
  M mask_;
  std::vector<mask::bound<M>> bound_;
};

}  // namespace seqprim::test
