// SPDX-License-Identifier: Apache-2.0
// The CUDA kernel that encodes vectors on an emulated block of lanes: the same bits as the CPU entry point.
#include "encodings.hpp"
#include <seqprim/position/detail/cuda/encode_block.hpp>
#include <seqprim/position/position.hpp>

#include <array>
#include <cmath>
#include <cstring>
#include <support/catch.hpp>
#include <support/emulated_block.hpp>
#include <support/random.hpp>

using namespace seqprim;
using position::side;
using position::detail::direction;
using test::random_numbers;

namespace {

constexpr subject self{"position::encode", "position/encode"};

/// What the entry point on CUDA does after its checks, block by block.
template <direction Way, class E, class Map, class X, class Y>
void encode_in_blocks(const E& given, side which, const Map& map, const tensor_view<X, 4>& x,
                      const tensor_view<Y, 4>& y) {
  using namespace position::detail;
  const index_t head_dim = Way == direction::forward ? x.extent(3) : y.extent(3);
  const auto call = make_encode_call(self, position::for_head_dim(given, head_dim), which, map,
                                     dense_tokens{x.extent(0), x.extent(2)}, head_dim, tensor_view<const X, 4>(x),
                                     dense_results<Y>{y, rows_at_16_bytes(y)});
  for (index_t block = 0; block < call.blocks(); ++block)
    test::emulated_block::run(encode_warps, call.tile.shared_bytes, static_cast<std::uint32_t>(block),
                              [&](const auto& engine, std::byte* shared) { encode_block<Way>(engine, call, shared); });
}

template <class T> bool same_bits(const tensor<T, 4>& a, const tensor<T, 4>& b) {
  return std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}

/// Both ways, with an output of NaN, for x [batch, heads, len, dim].
template <class X, class Y, class E, class Map>
void require_same(const E& encoding, const Map& map, index_t batch, index_t heads, index_t len, index_t dim,
                  side which = side::query) {
  const index_t width = position::encoded_dim(position::for_head_dim(encoding, dim), dim);
  CAPTURE(batch, heads, len, dim, width);
  random_numbers random(static_cast<std::uint64_t>(1 + batch * 1000 + heads * 100 + len));
  tensor<X, 4> x(batch, heads, len, dim), dy(batch, heads, len, width);
  random.fill(x);
  random.fill(dy);
  tensor<Y, 4> y(batch, heads, len, width), dx(batch, heads, len, dim), y_cpu = y, dx_cpu = dx;
  y.fill(static_cast<Y>(std::nanf("")));
  dx.fill(static_cast<Y>(std::nanf("")));
  encode_in_blocks<direction::forward>(encoding, which, map, x.view(), y.view());
  encode_in_blocks<direction::backward>(encoding, which, map, dy.view(), dx.view());
  position::encode(cpu{}, encoding, map, which, x, y_cpu);
  position::encode_backward(cpu{}, encoding, map, which, dy, dx_cpu);
  REQUIRE(same_bits(y, y_cpu));
  REQUIRE(same_bits(dx, dx_cpu));
}

}  // namespace

TEMPLATE_TEST_CASE("encode block: rotary has the bits of the CPU for any lengths and dims",
                   "[position][cuda][property]", float, float16, bfloat16, double) {
  const position::rotary<position::half_split> whole{};
  const position::rotary<position::interleaved, position::geometric> part{
      .rotary_dim = 6, .begin = 1, .attention_factor = 1.5f};
  const index_t lengths[] = {1, 2, 31, 33, 70}, head_counts[] = {1, 2, 3, 9}, dims[] = {16, 64, 34};
  random_numbers random(61);
  for (const index_t len : lengths)
    for (const index_t heads : head_counts) {
      const index_t dim = dims[random.integer(0, 2)];
      require_same<TestType, TestType>(whole, position::sequential{.start = 100001}, 1 + len % 2, heads, len, dim);
      require_same<TestType, TestType>(part, position::sequential{.start = -3}, 1, heads, len, 7 + dim);
    }
}

TEST_CASE("encode block: elements of two types are rounded once", "[position][cuda]") {
  const position::rotary<position::half_split> rope{};
  require_same<bfloat16, float>(rope, position::sequential{}, 2, 3, 9, 24);
  require_same<float, float16>(rope, position::sequential{}, 2, 3, 9, 24);
}

TEST_CASE("encode block: every kind of map and encoding", "[position][cuda][property]") {
  tensor<index_t, 2> ids(2, 37);
  for (index_t i = 0; i < ids.size(); ++i) ids.data()[i] = i * i % 101;
  const position::token_ids_per_batch by_batch{.ids = ids.view()};
  const position::rotary<position::half_split> rope{.rotary_dim = 16};
  require_same<bfloat16, bfloat16>(rope, by_batch, 2, 3, 37, 16);
  const position::table<position::rotary<position::half_split>> table(cpu{}, rope, 101);
  require_same<bfloat16, bfloat16>(table.view(), by_batch, 2, 3, 37, 16);
  require_same<float, float>(test::xpos{.head_dim = 16}, position::sequential{.start = 4}, 1, 3, 20, 16, side::query);
  require_same<float, float>(test::xpos{.head_dim = 16}, position::sequential{.start = 4}, 1, 3, 20, 16, side::key);
  tensor<float, 2> theta(5, 12);
  random_numbers random(62);
  random.fill(theta);
  require_same<bfloat16, bfloat16>(test::cosine_lrpe<1>{.theta = theta.view()}, position::sequential{}, 2, 5, 35, 12);
  const position::rotary<position::interleaved, test::theta_per_head<1>> per_head{
      .rotary_dim = 24, .frequencies = {.theta = theta.view()}};
  require_same<float, float>(per_head, position::sequential{.start = 8}, 1, 5, 67, 24);
  tensor<double, 2> points(35, 2);
  for (index_t i = 0; i < points.size(); ++i) points.data()[i] = static_cast<double>(i) / 4;
  const position::rotary<position::half_split, test::axial<2>> axial{.rotary_dim = 16, .frequencies = {.dims = {8, 8}}};
  require_same<float16, float16>(axial, position::coordinates<2>{points.view()}, 2, 2, 35, 16);
}

TEST_CASE("encode block: vectors so long that only some fit at a time", "[position][cuda]") {
  const position::rotary<position::half_split> rope{};
  for (const index_t dim : {256, 512, 1024}) require_same<float, float>(rope, position::sequential{}, 1, 3, 9, dim);
  // As long as memory allows, one by one: in, out and a table.
  tensor<float, 2> theta(2, 2700);
  random_numbers random(63);
  random.fill(theta);
  require_same<float, float>(test::cosine_lrpe<1>{.theta = theta.view()}, position::sequential{}, 1, 2, 2, 2700);
  const tensor<float, 4> x(1, 1, 1, 9000);
  tensor<float, 4> y(1, 1, 1, 9000);
  REQUIRE_THROWS_WITH(
      encode_in_blocks<direction::forward>(rope, side::query, position::sequential{}, as_view(x), y.view()),
      ContainsSubstring("9000 elements and its table take 72") && ContainsSubstring("more than 65536"));
}

TEST_CASE("encode block: in place, in any memory order, at any address", "[position][cuda]") {
  const position::rotary<position::half_split> rope{.rotary_dim = 16};
  const position::sequential map{.start = 5};
  random_numbers random(64);
  tensor<bfloat16, 4> x(2, 19, 3, 3 * 16 + 1);  // [batch, len, heads, ..], rows at odd addresses
  random.fill(x);
  tensor<bfloat16, 4> expected = x;
  for (const index_t first : {0, 8, 33}) {
    CAPTURE(first);
    const auto part = [&](tensor<bfloat16, 4>& of) { return of.view().slice(3, {first, first + 16}).transposed(1, 2); };
    encode_in_blocks<direction::forward>(rope, side::query, map, part(x), part(x));
    position::encode(cpu{}, rope, map, part(expected), part(expected));
    REQUIRE(same_bits(x, expected));
  }
  tensor<bfloat16, 4> back(2, 3, 19, 16);
  encode_in_blocks<direction::forward>(position::none{}, side::query, map, x.view().slice(3, {1, 17}).transposed(1, 2),
                                       back.view());
  for (index_t i = 0; i < 19; ++i) REQUIRE(back(1, 2, i, 5).bits == x(1, i, 2, 6).bits);
}

TEST_CASE("encode block: a position outside of its table gives NaN there and nowhere else", "[position][cuda][edge]") {
  const position::rotary<position::half_split> rope{.rotary_dim = 8};
  const position::table<position::rotary<position::half_split>> table(cpu{}, rope, 4);
  const std::array<std::int32_t, 5> ids = {0, 4, 3, -1, 2};
  tensor<float, 4> x(1, 2, 5, 9), y(1, 2, 5, 9);
  x.fill(1.0f);
  encode_in_blocks<direction::forward>(table.view(), side::query, position::token_ids{.ids = ids}, as_view(x),
                                       y.view());
  for (index_t h = 0; h < 2; ++h)
    for (index_t i = 0; i < 5; ++i)
      for (index_t d = 0; d < 9; ++d) REQUIRE(std::isnan(y(0, h, i, d)) == ((i == 1 || i == 3) && d < 8));
}

TEST_CASE("encode block: nothing to do starts no block", "[position][cuda][edge]") {
  tensor<float, 4> no_rows(2, 3, 0, 8), no_heads(2, 0, 3, 8);
  const position::rotary<position::half_split> rope{};
  REQUIRE_NOTHROW(
      encode_in_blocks<direction::forward>(rope, side::query, position::sequential{}, no_rows.view(), no_rows.view()));
  REQUIRE_NOTHROW(encode_in_blocks<direction::forward>(rope, side::query, position::sequential{}, no_heads.view(),
                                                       no_heads.view()));
}
