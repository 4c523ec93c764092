// SPDX-License-Identifier: Apache-2.0
#include <seqprim/linalg/reduce.hpp>

#include <cmath>
#include <support/catch.hpp>
#include <support/random.hpp>

using namespace seqprim;

namespace {

template <class T> constexpr double rounding = sizeof(T) == 4 ? 0x1p-24 : 0x1p-53;

}  // namespace

TEMPLATE_TEST_CASE("dot: agrees with the sum in double for every length", "[linalg][property]", float, double) {
  test::random_numbers random(72);
  tensor<TestType, 1> a(200), b(200);
  random.fill(a);
  random.fill(b);
  for (index_t count = 0; count <= a.size(); ++count) {
    double sum = 0, size = 0;
    for (index_t k = 0; k < count; ++k) {
      sum += static_cast<double>(a(k)) * static_cast<double>(b(k));
      size += std::fabs(static_cast<double>(a(k)) * static_cast<double>(b(k)));
    }
    CAPTURE(count);
    REQUIRE(std::fabs(static_cast<double>(linalg::dot<arch::native_isa, TestType>(a.data(), b.data(), count)) - sum) <=
            size * static_cast<double>(count) * rounding<TestType>);
  }
}

TEMPLATE_TEST_CASE("column sums: add to what is there, the same bits for any number of threads", "[linalg][property]",
                   float, double) {
  test::random_numbers random(71);
  for (const index_t rows : {0, 1, 63, 64, 65, 200})
    for (const index_t columns : {1, 7, 8, 15, 17, 256, 300}) {
      tensor<TestType, 2> x(rows, columns);
      const tensor_view<const TestType, 2> all = x.view();
      random.fill(x);
      tensor<TestType, 1> one(columns), many(columns), in_order(columns);
      one.fill(2);
      many.fill(2);
      in_order.fill(2);
      linalg::buffer<TestType> scratch;
      linalg::add_column_sums<arch::native_isa, TestType>(cpu{1}, all, one.data(), scratch);
      linalg::add_column_sums<arch::native_isa, TestType>(cpu{3}, all, many.data(), scratch);
      linalg::add_rows<arch::native_isa>(cpu{3}, all, in_order.data());
      CAPTURE(rows, columns);
      for (index_t j = 0; j < columns; ++j) {
        double sum = 2, size = 2;
        TestType ordered = 2;
        for (index_t i = 0; i < rows; ++i) {
          sum += static_cast<double>(x(i, j));
          size += std::fabs(static_cast<double>(x(i, j)));
          ordered += x(i, j);
        }
        REQUIRE(std::fabs(static_cast<double>(one(j)) - sum) <=
                size * static_cast<double>(rows + 1) * rounding<TestType>);
        REQUIRE(one(j) == many(j));
        REQUIRE(in_order(j) == ordered);
      }
    }
}
