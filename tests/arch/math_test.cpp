// SPDX-License-Identifier: Apache-2.0
// The functions of arch/math.hpp against the C library in double: for one float, and lane by lane for a register of this file's
// instruction set.
#include <seqprim/arch/math.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <support/catch.hpp>
#include <vector>

using namespace seqprim;

namespace {

using lanes = arch::lanes<arch::native_isa, float>;

constexpr float infinity = std::numeric_limits<float>::infinity();
const float not_a_number = std::numeric_limits<float>::quiet_NaN();

/// f for all arguments, a register at a time; the last register is not full.
template <class F> std::vector<float> in_lanes(const std::vector<float>& x, const F& f) {
  std::vector<float> y(x.size());
  for (std::size_t i = 0; i < x.size(); i += static_cast<std::size_t>(lanes::count)) {
    const int n = static_cast<int>(std::min(x.size() - i, static_cast<std::size_t>(lanes::count)));
    f(lanes::load(x.data() + i, n)).store(y.data() + i, n);
  }
  return y;
}

struct function {
  const char* name;
  float (*one)(float);
  std::vector<float> (*many)(const std::vector<float>&);
  double (*exact)(double);
  float low, high;
  double budget;  ///< relative
};

#define SEQPRIM_TEST_FUNCTION(NAME, EXACT, LOW, HIGH, BUDGET)                                                      \
  function {                                                                                                       \
#NAME, [](float x) { return arch::NAME(x); },                                                                    \
        [](const std::vector<float>& x) { return in_lanes(x, [](lanes y) { return arch::NAME(y); }); },              \
        [](double x) -> double { return EXACT; }, LOW, HIGH, BUDGET \
  }

// What one rounding of a product in front of the exponential costs where multiply-adds round twice: |x| log2(e) 2^-24.
#if defined(__FMA__)
constexpr double exp_extra = 0, erfc_extra = 0;
#else
constexpr double exp_extra = 90 * 1e-7, erfc_extra = 100 * 2e-7;
#endif

const function functions[] = {
    SEQPRIM_TEST_FUNCTION(exp2, std::exp2(x), -125.9f, 127.9f, 2e-7),
    SEQPRIM_TEST_FUNCTION(exp, std::exp(x), -87.0f, 88.7f, 3e-7 + exp_extra),
    SEQPRIM_TEST_FUNCTION(log, std::log(x), 1e-44f, 3e38f, 3e-7),
    SEQPRIM_TEST_FUNCTION(log2, std::log2(x), 1e-44f, 3e38f, 4e-7),
    SEQPRIM_TEST_FUNCTION(log1p, std::log1p(x), 1e-30f, 1e30f, 4e-7),
    SEQPRIM_TEST_FUNCTION(tanh, std::tanh(x), -20.0f, 20.0f, 6e-7),
    SEQPRIM_TEST_FUNCTION(sigmoid, 1 / (1 + std::exp(-x)), -20.0f, 20.0f, 3e-7 + 20 * 1e-7),
    SEQPRIM_TEST_FUNCTION(erfc, std::erfc(x), -6.0f, 9.1f, 6e-7 + erfc_extra),
    SEQPRIM_TEST_FUNCTION(erf, std::erf(x), -6.0f, 6.0f, 3e-7),
    SEQPRIM_TEST_FUNCTION(sqrt, std::sqrt(x), 0.0f, 3e38f, 1e-7),
    SEQPRIM_TEST_FUNCTION(abs, std::fabs(x), -3e38f, 3e38f, 0),
};

/// Arguments over a range: evenly, and in a geometric ladder towards 0 (and towards 1, where logarithms cancel).
std::vector<float> arguments(const function& f) {
  std::vector<float> x;
  const double low = static_cast<double>(f.low), high = static_cast<double>(f.high);
  for (int i = 0; i <= 20011; ++i) x.push_back(static_cast<float>(low + (high - low) * i / 20011));
  for (double size = 1e-40; size < 1e38; size *= 1.003)
    for (const double y : {size, -size, 1 + size, 1 - size})
      if (low <= y && y <= high) x.push_back(static_cast<float>(y));
  return x;
}

}  // namespace

TEST_CASE("math: floats and lanes agree with the C library in double", "[arch][property]") {
  for (const function& f : functions) {
    const std::vector<float> x = arguments(f), y = f.many(x);
    double worst = 0, worst_lane = 0;
    float at = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double exact = f.exact(static_cast<double>(x[i]));
      const double scale = std::fabs(exact) + 0x1p-126;  // subnormal results may be flushed
      const double error = std::fabs(static_cast<double>(f.one(x[i])) - exact) / scale;
      if (error > worst) worst = error, at = x[i];
      worst_lane = std::fmax(worst_lane, std::fabs(static_cast<double>(y[i]) - exact) / scale);
    }
    CAPTURE(f.name, at, worst, worst_lane);
    REQUIRE(worst <= f.budget);
    REQUIRE(worst_lane <= f.budget);
  }
}

TEST_CASE("math: infinities, zeros and NaN", "[arch][edge]") {
  for (const function& f : functions) {
    const std::vector<float> x = {infinity, -infinity, 0.0f, -0.0f, not_a_number, -1.0f, 1.0f};
    const std::vector<float> y = f.many(x);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float exact = static_cast<float>(f.exact(static_cast<double>(x[i])));
      // log1p(inf) and log1p(-1) divide by what they leave out; nobody asks them.
      if (std::string(f.name) == "log1p" && (x[i] == infinity || x[i] <= -1.0f)) continue;
      CAPTURE(f.name, x[i], exact, f.one(x[i]), y[i]);
      if (std::isnan(exact)) {
        REQUIRE(std::isnan(f.one(x[i])));
        REQUIRE(std::isnan(y[i]));
      } else if (std::isinf(exact) || exact == 0.0f) {
        REQUIRE(f.one(x[i]) == exact);
        REQUIRE(y[i] == exact);
      } else {
        REQUIRE(std::fabs(f.one(x[i]) - exact) <= 1e-6f * std::fabs(exact));
        REQUIRE(std::fabs(y[i] - exact) <= 1e-6f * std::fabs(exact));
      }
    }
  }
}

TEST_CASE("math: smaller, larger and choices, lane by lane", "[arch]") {
  const std::vector<float> a = {1, 2, not_a_number, 3, -0.0f, infinity, -infinity, 5, 6},
                           b = {2, 1, 3, not_a_number, 0.0f, 1, 1, 5, 7};
  std::vector<float> low(a.size()), high(a.size()), chosen(a.size());
  for (std::size_t i = 0; i < a.size(); i += static_cast<std::size_t>(lanes::count)) {
    const int n = static_cast<int>(std::min(a.size() - i, static_cast<std::size_t>(lanes::count)));
    const lanes x = lanes::load(a.data() + i, n), y = lanes::load(b.data() + i, n);
    min_of(x, y).store(low.data() + i, n);
    max_of(x, y).store(high.data() + i, n);
    arch::if_larger(x, y, lanes(7.0f), lanes(8.0f)).store(chosen.data() + i, n);
  }
  const auto same = [](float x, float y) { return x == y || (std::isnan(x) && std::isnan(y)); };
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i, a[i], b[i]);
    REQUIRE(same(low[i], min_of(a[i], b[i])));
    REQUIRE(same(high[i], max_of(a[i], b[i])));
    REQUIRE(chosen[i] == arch::if_larger(a[i], b[i], 7.0f, 8.0f));
  }
  REQUIRE(std::isnan(max_of(not_a_number, 1.0f)));
  REQUIRE(max_of(1.0f, not_a_number) == 1.0f);
}

TEST_CASE("math: double, alone and in lanes, is the C library", "[arch]") {
  using doubles = arch::lanes<arch::native_isa, double>;
  STATIC_REQUIRE(doubles::count == 1);
  for (const double x : {0.25, 0.5, 1.5, 3.0}) {
    REQUIRE(arch::exp(x) == std::exp(x));
    REQUIRE(arch::exp(doubles(x)).reg == std::exp(x));
    REQUIRE(arch::exp2(doubles(x)).reg == std::exp2(x));
    REQUIRE(arch::log(doubles(x)).reg == std::log(x));
    REQUIRE(arch::log2(doubles(x)).reg == std::log2(x));
    REQUIRE(arch::log1p(doubles(x)).reg == std::log1p(x));
    REQUIRE(arch::tanh(doubles(x)).reg == std::tanh(x));
    REQUIRE(arch::erfc(doubles(x)).reg == std::erfc(x));
    REQUIRE(arch::erf(doubles(x)).reg == std::erf(x));
    REQUIRE(arch::sqrt(doubles(x)).reg == std::sqrt(x));
    REQUIRE(arch::sigmoid(x) == 1 / (1 + std::exp2(x * -constants::log2_e)));
  }
}
