// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/nn/parameter.hpp>

#include <map>
#include <string>
#include <support/catch.hpp>
#include <support/gradients.hpp>
#include <support/random.hpp>

namespace seqprim::test {

/// Random values in every parameter; gradients start at a number of their own, to show that backward adds to them.
template <class Layer> void randomize(Layer& layer, random_numbers& random, float scale = 0.5f) {
  layer.visit_parameters([&](const std::string&, auto& p) {
    random.fill(p.value, scale);
    p.grad.fill(3);
  });
}

/// Checks every parameter gradient (less the 3 of randomize) against central differences of the objective.
template <class Layer, class Objective> void require_parameter_gradients(Layer& layer, const Objective& objective) {
  layer.visit_parameters([&](const std::string& name, auto& p) {
    for (double& g : p.grad) g -= 3;
    const double error = gradient_error(p.value.data(), p.grad.data(), p.size(), objective);
    CAPTURE(name, error);
    REQUIRE(error < gradient_budget);
  });
}

/// Copies the parameters of one layer into another of another number type or instruction set.
template <class To, class From> void copy_parameters(To& to, const From& from) {
  std::map<std::string, const void*> found;
  from.visit_parameters([&](const std::string& name, const auto& p) { found[name] = p.value.data(); });
  using number = typename From::value_type;
  to.visit_parameters([&](const std::string& name, auto& p) {
    const auto* const source = static_cast<const number*>(found.at(name));
    for (index_t i = 0; i < p.size(); ++i) p.value.data()[i] = static_cast<typename To::value_type>(source[i]);
  });
}

template <class T, int Rank> tensor<double, Rank> widened(const tensor<T, Rank>& x) {
  auto result = [&]<int... Axis>(std::integer_sequence<int, Axis...>) {
    return tensor<double, Rank>(x.extent(Axis)...);
  }
  (std::make_integer_sequence<int, Rank>{});
  for (index_t i = 0; i < x.size(); ++i) result.data()[i] = static_cast<double>(x.data()[i]);
  return result;
}

/// The rule of the library: at most twice the error of the same layer on the scalar engine, and two roundings.
inline double error_budget(double scalar_error) { return 2 * scalar_error + 2 * 0x1p-24; }

template <class A, class B> bool same_bits(const A& a, const B& b) {
  return a.size() == b.size() && std::equal(a.data(), a.data() + a.size(), b.data());
}

}  // namespace seqprim::test
