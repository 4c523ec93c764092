// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/position/position.hpp>

#include <support/catch.hpp>
#include <support/random.hpp>

using namespace seqprim;

TEST_CASE("on_read: encodes like what it wraps, and keeps keys out of caches", "[position]") {
  const position::rotary<position::half_split> rope;
  const position::on_read unfixed{rope};
  STATIC_REQUIRE(position::encoding<decltype(unfixed)>);
  REQUIRE(position::keys_may_be_cached(rope));
  REQUIRE_FALSE(position::keys_may_be_cached(unfixed));
  REQUIRE(position::for_head_dim(unfixed, 6).rotary_dim == 6);
  REQUIRE_FALSE(position::keys_may_be_cached(position::for_head_dim(unfixed, 6)));
  test::random_numbers random(51);
  tensor<float, 4> x(1, 2, 5, 6), y(1, 2, 5, 6), z(1, 2, 5, 6);
  random.fill(x);
  position::encode(cpu{}, rope, position::sequential{.start = 3}, x, y);
  position::encode(cpu{}, unfixed, position::sequential{.start = 3}, x, z);
  for (index_t i = 0; i < x.size(); ++i) REQUIRE(y.data()[i] == z.data()[i]);
}
