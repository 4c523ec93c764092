// SPDX-License-Identifier: Apache-2.0
#include <seqprim/linalg/buffer.hpp>

#include <support/catch.hpp>

using namespace seqprim;

TEST_CASE("buffer: grows, and keeps its memory for smaller views", "[linalg]") {
  linalg::buffer<float> memory;
  const auto large = memory.view(4, 5);
  REQUIRE((large.extent(0) == 4 && large.extent(1) == 5 && large.contiguous()));
  for (index_t i = 0; i < 4; ++i)
    for (index_t j = 0; j < 5; ++j) REQUIRE(large(i, j) == 0.0f);
  large(3, 4) = 7;
  REQUIRE(memory.view(2, 3).data == large.data);
  REQUIRE(memory.view(20)(19) == 7.0f);
  const auto larger = memory.view(3, 7, 2);
  REQUIRE((larger.size() == 42 && larger(2, 6, 1) == 0.0f));
  REQUIRE(memory.view(0, 9).size() == 0);
}
