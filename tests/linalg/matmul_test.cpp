// SPDX-License-Identifier: Apache-2.0
#include <seqprim/linalg/matmul.hpp>

#include <cmath>
#include <support/catch.hpp>
#include <support/random.hpp>

using namespace seqprim;

namespace {

/// c = a b by definition, in double, with the largest sum of |a b| that an entry of c collects.
template <class A, class B> double reference(const A& a, const B& b, tensor<double, 2>& c) {
  double largest = 0;
  for (index_t i = 0; i < c.extent(0); ++i)
    for (index_t j = 0; j < c.extent(1); ++j) {
      double sum = 0, magnitude = 0;
      for (index_t k = 0; k < a.extent(1); ++k) {
        const double term = static_cast<double>(a(i, k)) * static_cast<double>(b(k, j));
        sum += term;
        magnitude += std::abs(term);
      }
      c(i, j) = sum;
      largest = std::max(largest, magnitude);
    }
  return largest;
}

}  // namespace

TEMPLATE_TEST_CASE("matmul: agrees with the definition for any shape and stride", "[arch][property]", float, float16,
                   bfloat16, double) {
  using total = accumulator<TestType>;
  test::random_numbers random(11);
  for (int trial = 0; trial < 80; ++trial) {
    const bool large = trial % 8 == 0;
    const index_t m = random.integer(0, large ? 420 : 20), n = random.integer(1, large ? 300 : 70);
    const index_t k = random.integer(0, large ? 300 : 40);
    const bool flip_a = random.integer(0, 1) == 1, flip_b = random.integer(0, 1) == 1;
    tensor<TestType, 2> a_data(flip_a ? k : m, flip_a ? m : k), b_data(flip_b ? n : k, flip_b ? k : n);
    random.fill(a_data);
    random.fill(b_data);
    const auto a = flip_a ? a_data.view().transposed(0, 1) : a_data.view();
    const auto b = flip_b ? b_data.view().transposed(0, 1) : b_data.view();
    tensor<double, 2> expected(m, n);
    const double magnitude = reference(a, b, expected);

    tensor<total, 2> wide(m, n + 3);  // rows of c apart by more than their length; the gap must stay as it is
    wide.fill(static_cast<total>(5));
    const auto c = wide.view().slice(1, {0, n});
    linalg::matmul(cpu{}, a, b, c);
    // Each of the k roundings of the sum, and of the products, is at most eps * magnitude.
    const double budget =
        2.0 * static_cast<double>(k + 1) * magnitude * (std::is_same_v<total, double> ? 0x1p-53 : 0x1p-24);
    double worst = 0;
    for (index_t i = 0; i < m; ++i)
      for (index_t j = 0; j < n; ++j)
        worst = std::max(worst, std::abs(static_cast<double>(wide(i, j)) - expected(i, j)));
    CAPTURE(m, n, k, flip_a, flip_b, worst, budget);
    REQUIRE(worst <= budget);

    linalg::matmul(cpu{.threads = 3}, a, b, c, linalg::store::accumulate);
    worst = 0;
    bool gap = true;
    for (index_t i = 0; i < m; ++i) {
      for (index_t j = 0; j < n; ++j)
        worst = std::max(worst, std::abs(static_cast<double>(wide(i, j)) - 2 * expected(i, j)));
      for (index_t j = n; j < n + 3; ++j) gap = gap && wide(i, j) == static_cast<total>(5);
    }
    REQUIRE(worst <= 2 * budget);
    REQUIRE(gap);
  }
}

TEST_CASE("matmul: the number of threads does not change a bit", "[arch][property]") {
  test::random_numbers random(12);
  tensor<float, 2> a(500, 130), b(130, 333), one(500, 333), many(500, 333);
  random.fill(a);
  random.fill(b);
  linalg::matmul(cpu{.threads = 1}, a, b, one);
  for (const int threads : {2, 3, 7}) {
    linalg::matmul(cpu{.threads = threads}, a, b, many);
    REQUIRE(std::equal(one.begin(), one.end(), many.begin()));
  }
}

TEST_CASE("matmul: the bits of a row do not depend on how many rows there are", "[arch][property]") {
  test::random_numbers random(13);
  for (const index_t k : {1, 15, 16, 100, 300}) {
    tensor<float, 2> a(9, k), w(77, k), all(9, 77), part(9, 77);
    random.fill(a);
    random.fill(w);
    random.fill(all);
    part = all;
    for (const auto mode : {linalg::store::overwrite, linalg::store::accumulate}) {
      linalg::matmul(cpu{}, a, w.view().transposed(0, 1), all, mode);
      for (index_t first = 0, count = 1; first < 9; first += count, count = count % 4 + 1) {
        const range rows{first, min<index_t>(first + count, 9)};
        linalg::matmul(cpu{}, a.view().slice(0, rows), w.view().transposed(0, 1), part.view().slice(0, rows), mode);
      }
      CAPTURE(k);
      REQUIRE(std::equal(all.begin(), all.end(), part.begin()));
    }
  }
}

TEST_CASE("matmul: wrong shapes, strides and overlaps are named before anything is written", "[arch][errors]") {
  tensor<float, 2> a(2, 3), b(4, 5), c(2, 5), square(4, 4);
  c.fill(9.0f);
  REQUIRE_THROWS_WITH(
      linalg::matmul(cpu{}, a, b, c),
      "linalg::matmul: inner lengths differ: a is [2, 3], b is [4, 5]. See docs/reference/linalg/matmul.md");
  REQUIRE_THROWS_WITH(linalg::matmul(cpu{}, square, square, square.view()),
                      "linalg::matmul: c overlaps a. See docs/reference/linalg/matmul.md");
  tensor<float, 2> wide(5, 2), right(3, 5);
  REQUIRE_THROWS_AS(linalg::matmul(cpu{}, a, right, wide.view().transposed(0, 1)), precondition_error);
  REQUIRE_THROWS_WITH(linalg::matmul(cpu{}, a.view().slice(1, {2, 1}), right.view().slice(0, {2, 1}), c),
                      ContainsSubstring("linalg::matmul: axis 1 of a has the negative length -1"));
  REQUIRE_THROWS_AS(linalg::matmul(cpu{.threads = -1}, a, right, c), precondition_error);
  REQUIRE(std::all_of(c.begin(), c.end(), [](float x) { return x == 9.0f; }));
}
