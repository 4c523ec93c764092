// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/position/position.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <support/catch.hpp>
#include <support/random.hpp>
#include <vector>

using namespace seqprim;

namespace {

using rotary = position::rotary<position::half_split>;

template <class T> bool same(const tensor<T, 4>& a, const tensor<T, 4>& b) {
  for (index_t i = 0; i < a.size(); ++i)
    if (static_cast<double>(a.data()[i]) != static_cast<double>(b.data()[i])) return false;
  return a.size() == b.size();
}

template <class T> tensor<T, 4> random_tensor(index_t batch, index_t heads, index_t len, index_t dim) {
  test::random_numbers random(21);
  tensor<T, 4> x(batch, heads, len, dim);
  random.fill(x);
  return x;
}

/// Vector by vector, as the encoding itself does it.
template <class T, class Map> tensor<T, 4> encoded(const rotary& r, const Map& map, const tensor<T, 4>& x) {
  tensor<T, 4> y(x.extent(0), x.extent(1), x.extent(2), x.extent(3));
  std::vector<accumulator<T>> table(static_cast<std::size_t>(r.table_size()));
  for (index_t b = 0; b < x.extent(0); ++b)
    for (index_t h = 0; h < x.extent(1); ++h)
      for (index_t i = 0; i < x.extent(2); ++i) {
        r.table(static_cast<double>(position::bind(map, b)(i)), table.data());
        r.apply(&x(b, h, i, 0), &y(b, h, i, 0), table.data(), x.extent(3));
      }
  return y;
}

}  // namespace

TEMPLATE_TEST_CASE("encode: rotates every vector by the position of its token", "[position][property]", float, float16,
                   bfloat16, double) {
  const rotary r{.rotary_dim = 34, .begin = 2};
  const auto threads = GENERATE(1, 2, 5);
  for (const index_t len : {1, 15, 16, 17, 70}) {
    const auto x = random_tensor<TestType>(2, 3, len, 40);
    tensor<TestType, 4> y(2, 3, len, 40);
    position::encode(cpu{.threads = threads}, r, position::sequential{.start = 9}, x, y);
    REQUIRE(same(y, encoded(r, position::sequential{.start = 9}, x)));
    tensor<TestType, 4> in_place = x;
    position::encode(cpu{.threads = threads}, r, position::sequential{.start = 9}, in_place, in_place);
    REQUIRE(same(in_place, y));
  }
}

TEST_CASE("encode: positions from a list, shared or one for each batch row", "[position]") {
  const rotary r{.rotary_dim = 8};
  const auto x = random_tensor<float>(2, 3, 5, 8);
  tensor<float, 4> y(2, 3, 5, 8);
  const std::array<std::int32_t, 5> ids = {0, 1, 2, 0, 1};
  position::encode(cpu{}, r, position::token_ids{.ids = ids}, x, y);
  REQUIRE(same(y, encoded(r, position::token_ids{.ids = ids}, x)));
  tensor<index_t, 2> rows(2, 5);
  for (index_t i = 0; i < 5; ++i) {
    rows(0, i) = i;
    rows(1, i) = 10 * i - 7;
  }
  const position::token_ids_per_batch map{.ids = rows.view()};
  position::encode(cpu{}, r, map, x, y);
  REQUIRE(same(y, encoded(r, map, x)));
}

TEST_CASE("encode: heads and tokens in any memory order", "[position]") {
  const rotary r{.rotary_dim = 8};
  const auto x = random_tensor<float>(2, 5, 3, 8);  // [batch, len, heads, dim]
  tensor<float, 4> y(2, 5, 3, 8);
  position::encode(cpu{}, r, position::sequential{}, x.view().transposed(1, 2), y.view().transposed(1, 2));
  tensor<float, 4> swapped(2, 3, 5, 8);
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 3; ++h)
      for (index_t i = 0; i < 5; ++i)
        for (index_t d = 0; d < 8; ++d) swapped(b, h, i, d) = x(b, i, h, d);
  const auto expected = encoded(r, position::sequential{}, swapped);
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 3; ++h)
      for (index_t i = 0; i < 5; ++i)
        for (index_t d = 0; d < 8; ++d) REQUIRE(y(b, i, h, d) == expected(b, h, i, d));
}

TEST_CASE("encode: tokens one by one give the same bits as all at once", "[position]") {
  const rotary r{.rotary_dim = 8};
  const auto x = random_tensor<float>(1, 2, 33, 8);
  tensor<float, 4> all(1, 2, 33, 8), single(1, 2, 33, 8);
  position::encode(cpu{}, r, position::sequential{}, x, all);
  for (index_t i = 0; i < 33; ++i)
    position::encode(cpu{}, r, position::sequential{.start = i}, x.view().slice(2, {i, i + 1}),
                     single.view().slice(2, {i, i + 1}));
  REQUIRE(same(all, single));
}

TEST_CASE("encode_backward: is the gradient of encode", "[position][property]") {
  const rotary r{.rotary_dim = 6, .begin = 1, .attention_factor = 1.5f};
  auto x = random_tensor<double>(2, 2, 3, 8);
  const auto dy = random_tensor<double>(2, 2, 3, 8);
  tensor<double, 4> dx(2, 2, 3, 8), up(2, 2, 3, 8), down(2, 2, 3, 8);
  position::encode_backward(cpu{}, r, position::sequential{.start = 40}, dy, dx);
  for (index_t i = 0; i < x.size(); ++i) {  // encode is linear: a central difference has no error but rounding
    const double kept = x.data()[i];
    x.data()[i] = kept + 0.5;
    position::encode(cpu{}, r, position::sequential{.start = 40}, x, up);
    x.data()[i] = kept - 0.5;
    position::encode(cpu{}, r, position::sequential{.start = 40}, x, down);
    x.data()[i] = kept;
    double slope = 0;
    for (index_t j = 0; j < x.size(); ++j) slope += dy.data()[j] * (up.data()[j] - down.data()[j]);
    CAPTURE(i);
    REQUIRE(std::fabs(slope - dx.data()[i]) <= 1e-13);
  }
  tensor<double, 4> in_place = dy;
  position::encode_backward(cpu{}, r, position::sequential{.start = 40}, in_place, in_place);
  REQUIRE(same(in_place, dx));
}

TEST_CASE("encode: without an encoding vectors are copied", "[position]") {
  const auto x = random_tensor<bfloat16>(1, 2, 3, 5);
  tensor<bfloat16, 4> y(1, 2, 3, 5);
  position::encode(cpu{}, position::none{}, position::sequential{}, x, y);
  REQUIRE(same(x, y));
}

TEST_CASE("encode: empty tensors are fine", "[position]") {
  tensor<float, 4> none(2, 3, 0, 8), no_batch(0, 3, 5, 8);
  REQUIRE_NOTHROW(position::encode(cpu{}, rotary{.rotary_dim = 8}, position::sequential{}, none, none));
  REQUIRE_NOTHROW(position::encode(cpu{}, rotary{.rotary_dim = 8}, position::sequential{}, no_batch, no_batch));
}

TEST_CASE("encode: rejects what does not fit before anything is written", "[position][errors]") {
  const rotary r{.rotary_dim = 8};
  tensor<float, 4> x(2, 3, 5, 8), y(2, 3, 5, 8), shorter(2, 3, 4, 8), narrow(2, 3, 5, 6);
  x.fill(1.0f);
  const position::sequential map{};
  REQUIRE_THROWS_WITH(position::encode(cpu{}, r, map, x, shorter),
                      ContainsSubstring("y has len 4 (axis 2), but x has len 5"));
  REQUIRE_THROWS_WITH(position::encode(cpu{}, r, map, narrow, narrow), ContainsSubstring("must be <= head_dim (6)"));
  REQUIRE_THROWS_AS(position::encode(cpu{}, rotary{.rotary_dim = 3}, map, x, y), precondition_error);
  REQUIRE_THROWS_AS(position::encode(cpu{.threads = -2}, r, map, x, y), precondition_error);
  const std::array<std::int32_t, 4> few = {0, 1, 2, 3};
  REQUIRE_THROWS_WITH(position::encode(cpu{}, r, position::token_ids{.ids = few}, x, y),
                      ContainsSubstring("4 ids for 5 rows"));
  const tensor<index_t, 2> ids(1, 5);
  REQUIRE_THROWS_AS(position::encode(cpu{}, r, position::token_ids_per_batch{.ids = ids.view()}, x, y),
                    precondition_error);
  tensor<float, 4> wide(2, 3, 8, 5);
  REQUIRE_THROWS_WITH(position::encode(cpu{}, r, map, x, wide.view().transposed(2, 3)),
                      ContainsSubstring("the last axis of y must be contiguous"));
  tensor<float, 4> longer(2, 3, 6, 8);
  REQUIRE_THROWS_WITH(position::encode(cpu{}, r, map, longer.view().slice(2, {0, 5}), longer.view().slice(2, {1, 6})),
                      ContainsSubstring("overlap"));
  REQUIRE_THROWS_WITH(position::encode_backward(cpu{}, r, map, x, shorter),
                      ContainsSubstring("position::encode_backward"));
  REQUIRE_THROWS_WITH(position::encode(cpu{}, r, map, x.view().slice(2, {2, 1}), y.view().slice(2, {2, 1})),
                      ContainsSubstring("axis 2 of x has the negative length -1"));
  for (const float v : y) REQUIRE(v == 0.0f);
}
