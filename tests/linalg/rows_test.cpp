// SPDX-License-Identifier: Apache-2.0
// Registers have another width, and another last one, on each instruction set.
#include <seqprim/linalg/rows.hpp>

#include <support/catch.hpp>
#include <support/random.hpp>
#include <vector>

using namespace seqprim;

TEMPLATE_TEST_CASE("for_lanes: every element once, none beyond the end", "[linalg][property]", float, double) {
  using lanes = arch::lanes<arch::native_isa, TestType>;
  for (index_t count = 0; count <= 3 * lanes::count + 1; ++count) {
    tensor<TestType, 1> x(count + lanes::count), y(count + lanes::count);
    for (index_t j = 0; j < x.size(); ++j) x(j) = static_cast<TestType>(j);
    y.fill(-1);
    linalg::for_lanes<lanes>(count, [&](index_t j, auto part) {
      part.store(y.data() + j, part.load(x.data() + j) + part.load(y.data() + j));
    });
    CAPTURE(count);
    for (index_t j = 0; j < y.size(); ++j) REQUIRE(y(j) == static_cast<TestType>(j < count ? j - 1 : -1));
  }
}

TEMPLATE_TEST_CASE("for_lanes: lanes beyond the end read as zero, and are told apart", "[linalg][property]", float,
                   double) {
  using lanes = arch::lanes<arch::native_isa, TestType>;
  for (index_t count = 1; count <= lanes::count + 1; ++count) {
    tensor<TestType, 1> x(count + lanes::count), y(lanes::count), chosen(lanes::count);
    x.fill(3);
    index_t last = 0;
    linalg::for_lanes<lanes>(count, [&](index_t j, auto part) {
      last = count - j;
      part.load(x.data() + j).store(y.data());
      part.select(lanes(TestType{5}), lanes(TestType{7})).store(chosen.data());
    });
    CAPTURE(count);
    for (index_t j = 0; j < lanes::count; ++j) {
      REQUIRE(y(j) == static_cast<TestType>(j < last ? 3 : 0));
      REQUIRE(chosen(j) == static_cast<TestType>(j < last ? 5 : 7));
    }
  }
}

TEST_CASE("for_elements and for_rows: each index once, on any number of threads", "[linalg][property]") {
  using lanes = arch::lanes<arch::native_isa, float>;
  for (const int threads : {1, 3}) {
    for (const index_t count : {0, 1, 63, 64, 65, 16384, 16385, 40000}) {
      CAPTURE(threads, count);
      tensor<float, 1> x(count + 1);
      linalg::for_elements<lanes>(cpu{threads}, count, [&](index_t j, auto part) {
        part.store(x.data() + j, part.load(x.data() + j) + lanes(1.0f));
      });
      for (index_t j = 0; j < count; ++j) REQUIRE(x(j) == 1.0f);
      REQUIRE(x(count) == 0.0f);
      std::vector<int> seen(static_cast<std::size_t>(count + 1));
      linalg::for_rows(cpu{threads}, count, [&](index_t row) { ++seen[static_cast<std::size_t>(row)]; });
      for (index_t row = 0; row < count; ++row) REQUIRE(seen[static_cast<std::size_t>(row)] == 1);
      REQUIRE(seen.back() == 0);
    }
  }
}
