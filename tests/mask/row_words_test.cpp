// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/concat.hpp>
#include <seqprim/mask/full.hpp>
#include <seqprim/mask/row_words.hpp>

#include <cstdint>
#include <mask/brute_force.hpp>
#include <support/catch.hpp>
#include <support/random.hpp>
#include <vector>

using namespace seqprim;

TEST_CASE("row_words: one bit for each pair, wherever the words begin", "[mask][property]") {
  const auto density = GENERATE(0, 1, 2, 3);  // no bit, few, most, all
  const auto first_key = GENERATE(as<index_t>{}, 0, 1, 40, 64);
  tensor<std::uint64_t, 2> words(50, 2);
  test::random_numbers random(32);
  const auto word = [&] { return std::uint64_t{random.word()} << 32 | random.word(); };
  for (std::uint64_t& w : words)
    w = density == 0 ? 0 : density == 3 ? ~std::uint64_t{0} : density == 1 ? word() & word() : word() | word();
  const mask::row_words m{words.view(), first_key};
  bool same = true;
  for (index_t q = 0; q < 50; ++q)
    for (index_t k = 0; k < 210; ++k) {
      const index_t bit = k - first_key;
      const bool expected = 0 <= bit && bit < 128 && (words(q, bit / 64) >> (bit % 64) & 1u) != 0;
      same = same && m(q, k) == expected;
    }
  REQUIRE(same);
  test::require_exact(m, 50, 210);
}

TEST_CASE("row_words: a draft tree behind a cache", "[mask]") {
  // 0 <- 1 <- 3, 0 <- 2: each node attends to the cache, its ancestors and itself.
  const std::vector<int> parent = {-1, 0, 0, 1};
  tensor<std::uint64_t, 2> words(4, 1);
  for (std::size_t n = 0; n < 4; ++n)
    words(static_cast<index_t>(n), 0) =
        std::uint64_t{1} << n | (parent[n] < 0 ? 0 : words(static_cast<index_t>(parent[n]), 0));
  const index_t cache = 21;
  // The nodes are queries 21 .. 24; the words begin with the first of them.
  const auto tree =
      mask::key_concat(mask::full{}, cache, mask::query_concat(mask::full{}, cache, mask::row_words{words.view()}));
  mask::validate(tree, {.q_len = 4, .k_len = 25, .start = cache});
  REQUIRE(tree(24, 20));
  REQUIRE(tree(24, 22));
  REQUIRE_FALSE(tree(24, 23));
  REQUIRE_FALSE(tree(22, 24));
}

TEST_CASE("row_words: rejects queries without words", "[mask][errors]") {
  const tensor<std::uint64_t, 2> words(4, 1);
  const mask::row_words m{words.view()};
  mask::validate(m, {.q_len = 4, .k_len = 1000});
  REQUIRE_THROWS_WITH(mask::validate(m, {.q_len = 4, .k_len = 8, .start = 4}),
                      ContainsSubstring("mask::row_words: the table is for queries at [0, 4)"));
}
