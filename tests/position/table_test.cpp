// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/position/position.hpp>

#include <position/encodings.hpp>
#include <support/catch.hpp>
#include <support/random.hpp>

using namespace seqprim;

namespace {

using rotary = position::rotary<position::half_split>;

template <class T> tensor<T, 4> random_tensor(index_t batch, index_t heads, index_t len, index_t dim) {
  test::random_numbers random(22);
  tensor<T, 4> x(batch, heads, len, dim);
  random.fill(x);
  return x;
}

bool same(const tensor<float, 4>& a, const tensor<float, 4>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

}  // namespace

TEST_CASE("table: gives the bits of the encoding it was made from", "[position]") {
  const rotary r{.rotary_dim = 16, .frequencies = {.theta = 500000}};
  const position::table table(cpu{.threads = 3}, r, 200);
  REQUIRE(table.positions() == 200);
  const auto x = random_tensor<float>(2, 3, 150, 16);
  tensor<float, 4> computed(2, 3, 150, 16), looked_up(2, 3, 150, 16);
  position::encode(cpu{}, r, position::sequential{.start = 50}, x, computed);
  position::encode(cpu{}, table.view(), position::sequential{.start = 50}, x, looked_up);
  REQUIRE(same(computed, looked_up));
  position::encode_backward(cpu{}, r, position::sequential{.start = 50}, x, computed);
  position::encode_backward(cpu{}, table.view(), position::sequential{.start = 50}, x, looked_up);
  REQUIRE(same(computed, looked_up));
}

TEST_CASE("table: rejects positions outside of it before anything is written", "[position][errors]") {
  const position::table table(cpu{}, rotary{.rotary_dim = 8}, 10);
  const auto x = random_tensor<float>(1, 1, 4, 8);
  tensor<float, 4> y(1, 1, 4, 8);
  REQUIRE_THROWS_WITH(position::encode(cpu{}, table.view(), position::sequential{.start = 7}, x, y),
                      ContainsSubstring("position 10 of row 3 is not in the table"));
  REQUIRE_THROWS_AS(position::encode(cpu{}, table.view(), position::sequential{.start = -1}, x, y), precondition_error);
  for (const float v : y) REQUIRE(v == 0.0f);
  REQUIRE_THROWS_AS(position::table(cpu{}, rotary{.rotary_dim = 8}, -1), precondition_error);
  REQUIRE_THROWS_AS(position::table(cpu{}, rotary{.rotary_dim = 7}, 4), precondition_error);
}

TEST_CASE("table: serves any encoding of integer positions, whatever its sides", "[position]") {
  const test::xpos e{.head_dim = 12};
  const position::table table(cpu{}, e, 60);
  const auto x = random_tensor<float>(2, 3, 40, 12);
  tensor<float, 4> computed(2, 3, 40, 12), looked_up(2, 3, 40, 12);
  for (const position::side which : {position::side::query, position::side::key}) {
    position::encode(cpu{}, e, position::sequential{.start = 20}, which, x, computed);
    position::encode(cpu{}, table.view(), position::sequential{.start = 20}, which, x, looked_up);
    REQUIRE(same(computed, looked_up));
  }
}

TEST_CASE("table: an encoding that does not know its width is rejected", "[position][errors]") {
  REQUIRE_THROWS_WITH(position::table(cpu{}, rotary{}, 4), ContainsSubstring("does not know its width"));
  REQUIRE(position::table(cpu{}, rotary{}.for_head_dim(6), 4).values().extent(1) == 6);
}
