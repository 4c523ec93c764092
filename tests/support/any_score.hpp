// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/score/score.hpp>

#include <concepts>
#include <stdexcept>
#include <type_traits>
#include <vector>

namespace seqprim::test {

/// A score modifier chosen at run time: nothing, one of the library's, in lanes as they are, or any other behind a pointer to an
/// object that somebody else keeps, number by number. One parameter, where there is one to learn.
class any_step {
 public:
  any_step() = default;
  explicit any_step(score::identity) noexcept {}
  explicit any_step(score::soft_cap cap) noexcept : kind_(kind::cap), cap_(cap) {}
  explicit any_step(score::distance_bias bias) noexcept : kind_(kind::bias), bias_(bias) {}
  explicit any_step(score::constant same) noexcept : kind_(kind::constant), constant_(same) {}
  explicit any_step(score::bias_of_keys table) noexcept : kind_(kind::keys), keys_(table) {}
  explicit any_step(score::scale_of_queries table) noexcept : kind_(kind::queries), queries_(table) {}
  explicit any_step(score::bias_of_distances table) noexcept : kind_(kind::distances), distances_(table) {}
  template <score::modifier S>
  explicit any_step(const S& other) noexcept : kind_(kind::other), other_(&other), answers_(&answers_of<S>) {}

  template <class X, class Site = score::site> X operator()(X logit, Site at) const noexcept {
    switch (kind_) {
      case kind::cap: return cap_(logit, at);
      case kind::bias: return bias_(logit, at);
      case kind::constant: return constant_(logit, at);
      case kind::keys: return keys_(logit, at);
      case kind::queries: return queries_(logit, at);
      case kind::distances: return distances_(logit, at);
      case kind::other: return each(logit, at, answers_->value);
      default: return logit;
    }
  }
  template <class X, class Site = score::site> X derivative(X logit, Site at) const noexcept {
    switch (kind_) {
      case kind::cap: return cap_.derivative(logit, at);
      case kind::bias: return bias_.derivative(logit, at);
      case kind::constant: return constant_.derivative(logit, at);
      case kind::queries: return queries_.derivative(logit, at);
      case kind::other: return each(logit, at, answers_->derivative);
      default: return X(1.0f);
    }
  }
  static constexpr int parameters = 1;
  template <int N, class X, class Site = score::site> X parameter_derivative(X logit, Site at) const noexcept {
    switch (kind_) {
      case kind::cap: return cap_.template parameter_derivative<N>(logit, at);
      case kind::bias: return bias_.template parameter_derivative<N>(logit, at);
      default: return X(0.0f);
    }
  }
  static constexpr bool learns_table = true;
  index_t table_size() const noexcept {
    return kind_ == kind::keys ? keys_.table_size() : kind_ == kind::distances ? distances_.table_size() : 0;
  }
  index_t table_index(score::site at) const noexcept {
    return kind_ == kind::keys ? keys_.table_index(at) : kind_ == kind::distances ? distances_.table_index(at) : -1;
  }
  template <class X, class Site = score::site> X table_derivative(X logit, Site at) const noexcept {
    return kind_ == kind::keys        ? keys_.table_derivative(logit, at)
           : kind_ == kind::distances ? distances_.table_derivative(logit, at)
                                      : X(0.0f);
  }
  bool has_rows() const noexcept { return kind_ == kind::queries; }
  template <class X, class Site = score::site> X row_derivative(X logit, Site at) const noexcept {
    return has_rows() ? queries_.row_derivative(logit, at) : X(0.0f);
  }

 private:
  enum class kind { nothing, cap, bias, constant, keys, queries, distances, other };
  using function = float (*)(const void*, float, score::site) noexcept;
  struct answers {
    function value, derivative;
  };
  template <class S>
  static constexpr answers answers_of = {
      [](const void* s, float logit, score::site at) noexcept { return (*static_cast<const S*>(s))(logit, at); },
      [](const void* s, float logit, score::site at) noexcept {
        return static_cast<const S*>(s)->derivative(logit, at);
      }};

  template <class X, class Site> X each(X logit, Site at, function f) const noexcept {
    if constexpr (std::is_same_v<Site, score::site>) {
      return static_cast<X>(f(other_, static_cast<float>(logit), at));
    } else {
      using v = typename X::v;
      float numbers[v::lanes];
      v::store(numbers, logit.reg);
      for (int lane = 0; lane < at.live; ++lane) numbers[lane] = f(other_, numbers[lane], at[lane]);
      return X(v::load(numbers));
    }
  }

  kind kind_ = kind::nothing;
  score::soft_cap cap_{1.0f};
  score::distance_bias bias_{0.0f};
  score::constant constant_{};
  score::bias_of_keys keys_{};
  score::scale_of_queries queries_{};
  score::bias_of_distances distances_{};
  const void* other_ = nullptr;
  const answers* answers_ = nullptr;
};

/// Up to two of them, one after the other; one may learn a table, and one values of rows.
struct any_modifier : score::chain<any_step, any_step> {
  static constexpr bool learns_table = true;
  index_t table_size() const noexcept { return first.table_size() + second.table_size(); }
  index_t table_index(score::site at) const noexcept { return (in_first() ? first : second).table_index(at); }
  template <class X, class Site = score::site> X table_derivative(X logit, Site at) const noexcept {
    const X between = first(logit, at);
    return in_first() ? second.derivative(between, at) * first.table_derivative(logit, at)
                      : second.table_derivative(between, at);
  }
  template <class X, class Site = score::site> X row_derivative(X logit, Site at) const noexcept {
    const X between = first(logit, at);
    return first.has_rows() ? second.derivative(between, at) * first.row_derivative(logit, at)
                            : second.row_derivative(between, at);
  }

 private:
  bool in_first() const noexcept { return first.table_size() > 0; }
};
static_assert(score::modifier<any_modifier> && score::parameters<any_modifier> == 2);

template <class S> [[nodiscard]] any_modifier any_modifier_of(const S& s) noexcept { return {{any_step(s), {}}}; }
template <class A, class B> [[nodiscard]] any_modifier any_modifier_of(const score::chain<A, B>& s) noexcept {
  return {{any_step(s.first), any_step(s.second)}};
}

/// The modifiers of all batch rows and heads.
class any_score_modifiers {
 public:
  virtual ~any_score_modifiers() = default;
  virtual void prepare(const score::shape& problem) = 0;
  [[nodiscard]] const any_modifier& modifier(index_t b, index_t h) const noexcept {
    return modifiers_[static_cast<std::size_t>(b * heads_ + h)];
  }

 protected:
  std::vector<any_modifier> modifiers_;
  index_t heads_ = 0;
};

/// What a call gets in place of a score. Validating binds.
struct any_score {
  any_score_modifiers* modifiers = nullptr;

  void validate(const score::shape& problem) const { modifiers->prepare(problem); }
  [[nodiscard]] any_modifier bind(index_t b, index_t h) const noexcept { return modifiers->modifier(b, h); }
};

/// Keeps a score and its modifiers while a call lasts.
template <score::bindable S> class any_score_of : public any_score_modifiers {
 public:
  explicit any_score_of(const S& score) : score_(score) {}
  any_score_of(const any_score_of&) = delete;
  any_score_of& operator=(const any_score_of&) = delete;

  [[nodiscard]] any_score view() noexcept { return {this}; }
  void prepare(const score::shape& problem) override {
    score::validate(score_, problem);
    const index_t batch = problem.batch, heads = heads_ = problem.heads;
    bound_.clear();
    modifiers_.clear();
    bound_.reserve(static_cast<std::size_t>(batch * heads));
    for (index_t n = 0; n < batch * heads; ++n) {
      bound_.push_back(score::bind(score_, n / heads, n % heads));
      modifiers_.push_back(any_modifier_of(bound_.back()));
    }
  }

 private:
  S score_;
  std::vector<decltype(score::bind(std::declval<const S&>(), index_t{}, index_t{}))> bound_;
};

}  // namespace seqprim::test
