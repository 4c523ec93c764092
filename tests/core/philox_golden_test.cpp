// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/philox.hpp>

#include <support/catch.hpp>
#include <support/curand.hpp>
#include <support/golden.hpp>

using namespace seqprim;
using namespace seqprim::test;

TEST_CASE("philox: words, uniforms and the cuRAND stream equal the golden files bit for bit", "[core][golden]") {
  const golden files[] = {golden("sampling", "philox_a"), golden("sampling", "philox_b")};
  for (const golden& g : files) {
    const auto counter = g.load<std::uint32_t, 2>("ctr"), key = g.load<std::uint32_t, 2>("key"),
               out = g.load<std::uint32_t, 2>("out");
    const auto open = g.load<float, 2>("u_open"), half_open = g.load<float, 2>("u_half"),
               curand = g.load<float, 2>("u_curand");
    for (index_t i = 0; i < counter.extent(0); ++i) {
      const philox_words words =
          philox({{counter(i, 0), counter(i, 1), counter(i, 2), counter(i, 3)}}, key(i, 0), key(i, 1));
      for (int lane = 0; lane < 4; ++lane) {
        CAPTURE(i, lane);
        REQUIRE(words[lane] == out(i, lane));
        REQUIRE(uniform_open(words[lane]) == open(i, lane));
        REQUIRE(uniform_half_open(words[lane]) == half_open(i, lane));
        REQUIRE(uniform_curand(words[lane]) == curand(i, lane));
      }
    }
    const auto seed = g.load<std::int64_t, 1>("cu_seed"), subsequence = g.load<std::int64_t, 1>("cu_subsequence"),
               offset = g.load<std::int64_t, 1>("cu_offset");
    const auto words = g.load<std::uint32_t, 2>("cu_words");
    const auto uniforms = g.load<float, 2>("cu_uniform");
    for (index_t i = 0; i < words.extent(0); ++i) {
      const curand_stream stream{.seed = static_cast<std::uint64_t>(seed(i)),
                                 .subsequence = static_cast<std::uint64_t>(subsequence(i)),
                                 .offset = static_cast<std::uint64_t>(offset(i))};
      for (index_t j = 0; j < words.extent(1); ++j) {
        CAPTURE(i, j);
        REQUIRE(stream.word(static_cast<std::uint64_t>(j)) == words(i, j));
        REQUIRE(uniform_curand(stream.word(static_cast<std::uint64_t>(j))) == uniforms(i, j));
      }
    }
  }
}
