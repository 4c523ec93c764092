// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/philox.hpp>

#include <support/catch.hpp>

using namespace seqprim;

TEST_CASE("philox: the published test vectors come out bit for bit", "[core]") {
  struct vector {
    philox_words counter;
    std::uint32_t key[2];
    philox_words expected;
  };
  const vector vectors[] = {
      {{{0, 0, 0, 0}}, {0, 0}, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
      {{{~0u, ~0u, ~0u, ~0u}}, {~0u, ~0u}, {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
      {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
       {0xa4093822, 0x299f31d0},
       {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
  };
  for (const auto& v : vectors) {
    const philox_words words = philox(v.counter, v.key[0], v.key[1]);
    for (int lane = 0; lane < 4; ++lane) REQUIRE(words[lane] == v.expected[lane]);
  }
}
