// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/philox.hpp>

#include <support/catch.hpp>
#include <support/curand.hpp>

using namespace seqprim;
using namespace seqprim::test;

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

TEST_CASE("philox: is a constant expression", "[core]") {
  STATIC_REQUIRE(philox({{0, 0, 0, 0}}, 0, 0)[0] == 0x6627e8d5);
}

TEST_CASE("random_stream: each word is a lane of the counter (element / 4, step, request, domain)", "[core]") {
  const random_stream stream{.seed = 0x0123456789abcdefu, .request = 7, .step = 1u << 31};
  for (const std::uint32_t element : {0u, 1u, 2u, 3u, 4u, 1003u, 0xffffffffu}) {
    const philox_words expected = philox({{element / 4, 1u << 31, 7, 77}}, 0x89abcdefu, 0x01234567u);
    REQUIRE(stream.word(random_domain{77}, element) == expected[static_cast<int>(element % 4)]);
    REQUIRE(stream.four(random_domain{77}, element / 4)[0] == expected[0]);
  }
}

TEST_CASE("random_stream: seed, request, step and domain each change the words", "[core]") {
  const random_stream base{.seed = 1, .request = 2, .step = 3};
  const auto word = base.word(random_domain{0}, 0);
  REQUIRE(random_stream{1ull << 32 | 1, 2, 3}.word(random_domain{0}, 0) != word);
  REQUIRE(random_stream{0, 2, 3}.word(random_domain{0}, 0) != word);
  REQUIRE(random_stream{1, 3, 2}.word(random_domain{0}, 0) != word);
  REQUIRE(random_stream{1, 2, 4}.word(random_domain{0}, 0) != word);
  REQUIRE(base.word(random_domain{1}, 0) != word);
}

TEST_CASE("uniforms: the smallest and the largest word give the documented ends of the interval", "[core]") {
  STATIC_REQUIRE(uniform_open(0) == 0x1p-24f);
  STATIC_REQUIRE(uniform_open(~0u) == 1.0f - 0x1p-24f);
  STATIC_REQUIRE(uniform_half_open(0) == 0.0f);
  STATIC_REQUIRE(uniform_half_open(~0u) == 1.0f - 0x1p-24f);
  STATIC_REQUIRE(uniform_curand(0) == 0x1p-33f);
  STATIC_REQUIRE(uniform_curand(~0u) == 1.0f);
}

TEST_CASE("curand_stream: offset and index are one position", "[core][property]") {
  const curand_stream from_zero{.seed = 5, .subsequence = 1ull << 40, .offset = 0};
  for (std::uint64_t offset = 0; offset < 9; ++offset)
    for (std::uint64_t i = 0; i < 9; ++i)
      REQUIRE(curand_stream{5, 1ull << 40, offset}.word(i) == from_zero.word(offset + i));
}
