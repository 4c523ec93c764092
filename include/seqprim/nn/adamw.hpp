// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/math.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/linalg/rows.hpp>
#include <seqprim/nn/parameter.hpp>

#include <cmath>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace seqprim::nn {

/// How the weight decay is applied.
enum class decay {
  decoupled,  ///< AdamW: w <- w (1 - rate * weight_decay), apart from the gradient
  l2,         ///< Adam: g <- g + weight_decay w
};

/// The usual choice of what decays: matrices and embeddings; not norms and biases.
struct matrices_decay {
  template <class Parameter> bool operator()(const std::string&, const Parameter& p) const noexcept {
    return p.role != role::scale && p.role != role::bias;
  }
};

/// AdamW, and Adam with the decay inside the gradient. Step n = 1, 2, ...:
///
///     w <- w (1 - rate * weight_decay)
///     m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g^2
///     w <- w - rate / (1 - beta1^n) * m / (sqrt(v) / sqrt(1 - beta2^n) + eps)
///
/// The moments have the shapes of the parameters, in visiting order. A predicate (name, parameter) -> bool chooses what
/// decays; by default everything but norm weights and biases. `step` multiplies gradients by gradient_factor, so that
/// clipping (measure_gradients) needs no pass of its own.
///
/// Types   float parameters: everything float, factors formed in double. (double for gradient checks.)
/// Edge    g = 0 still decays and still moves by momentum.
/// Errors  precondition_error, which changes nothing: an option out of range, a rate or factor that is not finite, a
///         layer other than the one that the optimizer was built for. A layer that was moved or copied is fine.
/// Repeat  same bits for any number of threads.
/// Cost    one pass: 4 reads and 3 writes per parameter. No allocation after the first step.
/// Source  Loshchilov and Hutter, "Decoupled weight decay regularization"; Kingma and Ba, "Adam".  Page
///         docs/reference/nn/adamw.md
template <class T = float, class Isa = arch::native_isa> class adamw {
 public:
  struct config {
    double beta1 = 0.9;
    double beta2 = 0.999;  ///< 0.95 is usual for language models
    double eps = 1e-8;
    double weight_decay = 0.01;
    nn::decay decay = nn::decay::decoupled;
  };

  /// The state that belongs to one parameter.
  struct moments {
    std::string name;
    tensor<T, 1> first, second;
    bool decays = true;
  };

  template <class Layer, class Decays = matrices_decay>
  explicit adamw(const Layer& layer, const config& options = {}, const Decays& decays = {}) : options_(options) {
    static_assert(std::is_same_v<typename Layer::value_type, T>,
                  "seqprim: adamw<T> trains layers that compute in T. See docs/reference/nn/adamw.md");
    self.expects(options.beta1 >= 0 && options.beta1 < 1, "beta1 (", options.beta1, ") must be in [0, 1)");
    self.expects(options.beta2 >= 0 && options.beta2 < 1, "beta2 (", options.beta2, ") must be in [0, 1)");
    self.expects(options.eps >= 0 && std::isfinite(options.eps), "eps (", options.eps, ") must be finite and >= 0");
    self.expects(options.weight_decay >= 0 && std::isfinite(options.weight_decay), "weight_decay (",
                 options.weight_decay, ") must be finite and >= 0");
    layer.visit_parameters([&](const std::string& name, const auto& p) {
      state_.push_back({name, tensor<T, 1>(p.size()), tensor<T, 1>(p.size()), decays(name, p)});
    });
  }

  /// Steps taken. Settable for a restored checkpoint, together with the moments.
  [[nodiscard]] index_t steps() const noexcept { return steps_; }
  void set_steps(index_t steps) {
    self.expects(steps >= 0, "steps (", steps, ") must be >= 0");
    steps_ = steps;
  }
  [[nodiscard]] const config& options() const noexcept { return options_; }

  /// visit("name.exp_avg", view) and visit("name.exp_avg_sq", view) for every parameter: what a checkpoint holds.
  template <class Visit> void visit_state(Visit&& visit) { visit_all(*this, visit); }
  template <class Visit> void visit_state(Visit&& visit) const { visit_all(*this, visit); }

  /// One step with this learning rate; gradients count gradient_factor times.
  template <class Layer> void step(const cpu& executor, Layer& layer, double rate, double gradient_factor = 1) {
    static_assert(std::is_same_v<typename Layer::value_type, T>,
                  "seqprim: adamw<T> trains layers that compute in T. See docs/reference/nn/adamw.md");
    executor.validate();
    self.expects(std::isfinite(rate), "rate must be finite");
    self.expects(std::isfinite(gradient_factor), "gradient_factor must be finite");
    expect_same_parameters(layer);
    all_.assign(layer);
    ++steps_;

    const double n = static_cast<double>(steps_);
    const double first_bias = 1 - std::pow(options_.beta1, n), second_bias = 1 - std::pow(options_.beta2, n);
    const bool inside = options_.decay == decay::l2;
    const auto number = [](double x) { return lanes(static_cast<T>(x)); };
    const lanes factor = number(gradient_factor), eps = number(options_.eps);
    const lanes beta1 = number(options_.beta1), rest1 = number(1 - options_.beta1);
    const lanes beta2 = number(options_.beta2), rest2 = number(1 - options_.beta2);
    const lanes step_size = number(-rate / first_bias), spread = number(1 / std::sqrt(second_bias));
    parallel_for(executor, all_.count(), [&](index_t i, int) {
      const auto& piece = all_[i];
      moments& state = state_[static_cast<std::size_t>(piece.parameter)];
      T* const first = state.first.data() + piece.begin;
      T* const second = state.second.data() + piece.begin;
      const double wd = state.decays ? options_.weight_decay : 0;
      const lanes shrink = number(inside ? 1 : 1 - rate * wd), pull = number(inside ? wd : 0);
      linalg::for_lanes<lanes>(piece.size, [&](index_t j, auto part) {
        const lanes w = part.load(piece.value + j);
        const lanes g = arch::fma(pull, w, factor * part.load(piece.grad + j));
        const lanes m = arch::fma(beta1, part.load(first + j), rest1 * g);
        const lanes s = arch::fma(beta2, part.load(second + j), rest2 * (g * g));
        const lanes direction = m / arch::fma(arch::sqrt(s), spread, eps);
        part.store(first + j, m);
        part.store(second + j, s);
        part.store(piece.value + j, arch::fma(step_size, direction, shrink * w));
      });
    });
  }

 private:
  using lanes = arch::lanes<Isa, T>;
  static constexpr subject self{"nn::adamw", "nn/adamw"};

  template <class Layer> void expect_same_parameters(const Layer& layer) const {
    std::size_t count = 0;
    layer.visit_parameters([&](const std::string& name, const auto& p) {
      if (count < state_.size()) {
        const moments& known = state_[count];
        self.expects(known.name == name && known.first.size() == p.size(),
                     "this optimizer was made for another model: parameter ", count, " is '", name, "' with ", p.size(),
                     " elements, and was '", known.name, "' with ", known.first.size());
      }
      ++count;
    });
    self.expects(count == state_.size(), "this optimizer was made for another model: the layer has ", count,
                 " parameters, the optimizer ", state_.size());
  }

  template <class Self, class Visit> static void visit_all(Self& optimizer, Visit& visit) {
    for (auto& m : optimizer.state_) {
      visit(m.name + ".exp_avg", m.first.view());
      visit(m.name + ".exp_avg_sq", m.second.view());
    }
  }

  config options_;
  index_t steps_ = 0;
  std::vector<moments> state_;
  flat_parameters<T> all_;
};

}  // namespace seqprim::nn
