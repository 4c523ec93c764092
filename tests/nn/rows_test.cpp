// SPDX-License-Identifier: Apache-2.0
// The loops that the layers are made of. Registers have another width, and another last one, on each instruction set.
#include <seqprim/nn/detail/rows.hpp>

#include <support/catch.hpp>
#include <support/random.hpp>

using namespace seqprim;

namespace {

template <class T> using lanes = arch::simd<arch::native_isa, T>;

}  // namespace

TEMPLATE_TEST_CASE("for_lanes: every element once, none beyond the end", "[nn][property]", float, double) {
  using v = lanes<TestType>;
  for (index_t count = 0; count <= 3 * v::lanes + 1; ++count) {
    tensor<TestType, 1> x(count + v::lanes), y(count + v::lanes);
    for (index_t j = 0; j < x.size(); ++j) x(j) = static_cast<TestType>(j);
    y.fill(-1);
    nn::detail::for_lanes<v>(count, [&](index_t j, auto part) {
      part.store(y.data() + j, v::add(part.load(x.data() + j), part.load(y.data() + j)));
    });
    CAPTURE(count);
    for (index_t j = 0; j < y.size(); ++j) REQUIRE(y(j) == static_cast<TestType>(j < count ? j - 1 : -1));
  }
}

TEMPLATE_TEST_CASE("for_lanes: lanes beyond the end read as zero", "[nn][property]", float, double) {
  using v = lanes<TestType>;
  for (index_t count = 1; count <= v::lanes + 1; ++count) {
    tensor<TestType, 1> x(count + v::lanes), y(v::lanes);
    x.fill(3);
    index_t last = 0;
    nn::detail::for_lanes<v>(count, [&](index_t j, auto part) {
      last = count - j;
      v::store(y.data(), part.load(x.data() + j));
    });
    CAPTURE(count);
    for (index_t j = 0; j < v::lanes; ++j) REQUIRE(y(j) == static_cast<TestType>(j < last ? 3 : 0));
  }
}

TEMPLATE_TEST_CASE("add_column_sums: adds to what is there, the same bits for any number of threads", "[nn][property]",
                   float, double) {
  test::random_numbers random(71);
  for (const index_t rows : {0, 1, 63, 64, 65, 200})
    for (const index_t columns : {1, 7, 8, 15, 17, 256, 300}) {
      tensor<TestType, 2> x(rows, columns);
      const tensor_view<const TestType, 2> all = x.view();
      random.fill(x);
      tensor<TestType, 1> one(columns), many(columns);
      one.fill(2);
      many.fill(2);
      nn::buffer<TestType> scratch;
      nn::detail::add_column_sums<arch::native_isa, TestType>(cpu{1}, all, one.data(), scratch);
      nn::detail::add_column_sums<arch::native_isa, TestType>(cpu{3}, all, many.data(), scratch);
      CAPTURE(rows, columns);
      for (index_t j = 0; j < columns; ++j) {
        double sum = 2, size = 2;
        for (index_t i = 0; i < rows; ++i) {
          sum += static_cast<double>(x(i, j));
          size += std::abs(static_cast<double>(x(i, j)));
        }
        REQUIRE(std::abs(static_cast<double>(one(j)) - sum) <=
                size * static_cast<double>(rows + 1) * (sizeof(TestType) == 4 ? 0x1p-24 : 0x1p-53));
        REQUIRE(one(j) == many(j));
      }
    }
}
