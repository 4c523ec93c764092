// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/count_tiles.hpp>
#include <seqprim/mask/key_range.hpp>
#include <seqprim/mask/shifted_rows.hpp>
#include <seqprim/mask/sliding_window.hpp>

#include <mask/brute_force.hpp>

using namespace seqprim;
using namespace seqprim::test;

TEST_CASE("count_tiles: a causal square of n x n tiles has n partial ones on the diagonal", "[mask]") {
  const auto n = GENERATE(as<index_t>{}, 1, 2, 7);
  const mask::tile_counts counts = mask::count_tiles(mask::causal{}, 16 * n, 16 * n, 16, 16);
  REQUIRE(counts == mask::tile_counts{.empty = n * (n - 1) / 2, .partial = n, .full = n * (n - 1) / 2});
  REQUIRE(counts.visited() == n * (n + 1) / 2);
  REQUIRE(counts.total() == n * n);
}

TEST_CASE("count_tiles: counts what brute force counts, ragged tiles included", "[mask][property]") {
  const auto q_tile = GENERATE(as<index_t>{}, 1, 7, 16, 130);
  const auto k_tile = GENERATE(as<index_t>{}, 1, 13, 32, 130);
  const auto m = mask::shifted(mask::causal_window(19), 30) & ~mask::key_range{40, 50};
  mask::tile_counts expected;
  for (index_t q = 0; q < 67; q += q_tile)
    for (index_t k = 0; k < 101; k += k_tile) {
      const auto kind = brute_force(m, {q, min_of<index_t>(q + q_tile, 67)}, {k, min_of<index_t>(k + k_tile, 101)});
      expected.empty += kind == mask::tile_kind::empty;
      expected.partial += kind == mask::tile_kind::partial;
      expected.full += kind == mask::tile_kind::full;
    }
  const mask::tile_counts counts = mask::count_tiles(m, 67, 101, q_tile, k_tile);
  CAPTURE(q_tile, k_tile);
  REQUIRE(counts.total() == expected.total());
  REQUIRE(counts.empty <= expected.empty);  // a composition may be loose where two partial tiles meet
  REQUIRE(counts.full == expected.full);
  if (q_tile <= 16 && k_tile <= 32) REQUIRE(counts.empty > 0);
  const auto exact = mask::count_tiles(mask::shifted(mask::causal_window(19), 30), 67, 101, q_tile, k_tile);
  mask::tile_counts exact_expected;
  for (index_t q = 0; q < 67; q += q_tile)
    for (index_t k = 0; k < 101; k += k_tile) {
      const auto kind = brute_force(mask::shifted(mask::causal_window(19), 30), {q, min_of<index_t>(q + q_tile, 67)},
                                    {k, min_of<index_t>(k + k_tile, 101)});
      exact_expected.empty += kind == mask::tile_kind::empty;
      exact_expected.partial += kind == mask::tile_kind::partial;
      exact_expected.full += kind == mask::tile_kind::full;
    }
  REQUIRE(exact == exact_expected);
}

TEST_CASE("count_tiles: an empty problem has no tiles", "[mask]") {
  REQUIRE(mask::count_tiles(mask::causal{}, 0, 10, 4, 4).total() == 0);
  REQUIRE(mask::count_tiles(mask::causal{}, 10, 0, 4, 4).total() == 0);
}

TEST_CASE("count_tiles: rejects negative lengths, empty tiles and broken masks", "[mask][errors]") {
  REQUIRE_THROWS_AS(mask::count_tiles(mask::causal{}, -1, 10, 4, 4), precondition_error);
  REQUIRE_THROWS_AS(mask::count_tiles(mask::causal{}, 10, -1, 4, 4), precondition_error);
  REQUIRE_THROWS_AS(mask::count_tiles(mask::causal{}, 10, 10, 0, 4), precondition_error);
  REQUIRE_THROWS_AS(mask::count_tiles(mask::causal{}, 10, 10, 4, 0), precondition_error);
  REQUIRE_THROWS_AS(mask::count_tiles(mask::causal_window(0), 10, 10, 4, 4), precondition_error);
}
