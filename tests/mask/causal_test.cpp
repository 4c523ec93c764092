// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/causal.hpp>
#include <seqprim/mask/shifted_rows.hpp>

#include <mask/brute_force.hpp>

using namespace seqprim;
using namespace seqprim::test;

TEST_CASE("causal: a query sees the keys up to its own position", "[mask]") {
  const auto m = mask::shifted(mask::causal{}, 3);
  REQUIRE(m(0, 3));
  REQUIRE_FALSE(m(0, 4));
  REQUIRE(m(5, 8));
  REQUIRE_FALSE(m(5, 9));
}

TEST_CASE("causal: classify, runs and bounds agree with the element rule", "[mask][property]") {
  const auto offset = GENERATE(as<index_t>{}, -200, -59, -1, 0, 1, 34, 300);
  CAPTURE(offset);
  require_exact(mask::shifted(mask::causal{}, offset), 97, 131);
}

TEST_CASE("causal: classify agrees with the definition on small tiles", "[mask][property]") {
  const auto offset = GENERATE(as<index_t>{}, -3, 0, 7);
  const auto tile = GENERATE(as<index_t>{}, 1, 3, 8);
  const auto m = mask::shifted(mask::causal{}, offset);
  for (index_t q = 0; q < 24; q += tile)
    for (index_t k = 0; k < 31; k += tile) {
      CAPTURE(offset, tile, q, k);
      REQUIRE(m.classify({q, q + tile}, {k, k + tile}) == brute_force(m, {q, q + tile}, {k, k + tile}));
    }
}

TEST_CASE("causal: aligned at the bottom right, the last query attends to every key", "[mask]") {
  const auto q_len = GENERATE(as<index_t>{}, 1, 5, 41, 60);
  const index_t k_len = 41;
  const auto m = mask::shifted(mask::causal{}, k_len - q_len);
  REQUIRE(m(q_len - 1, k_len - 1));
  index_t empty = 0;
  for (index_t q = 0; q < q_len; ++q) empty += empty_row(m, q, k_len);
  REQUIRE(empty == max_of<index_t>(q_len - k_len, 0));
}

TEST_CASE("causal: one new query with a cache sees all of it, as one full tile", "[mask]") {
  const auto m = mask::shifted(mask::causal{}, 4096 - 1);
  REQUIRE(m.classify({0, 1}, {0, 4096}) == mask::tile_kind::full);
}
