// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/block_map.hpp>
#include <seqprim/mask/count_tiles.hpp>
#include <seqprim/mask/where.hpp>

#include <mask/brute_force.hpp>

using namespace seqprim;
using namespace seqprim::test;

namespace {
// Blocks of 11 x 7, every other one visible: nothing that the grid's own blocks line up with.
constexpr mask::where checkers{[](index_t q, index_t k) { return (q / 11 + k / 7) % 2 == 0; }};
}  // namespace

TEST_CASE("block_map: tiles of its own size are exact although the mask knows none", "[mask][property]") {
  const auto q_block = GENERATE(as<index_t>{}, 1, 4, 16, 200);
  const auto k_block = GENERATE(as<index_t>{}, 1, 5, 8, 64);
  const index_t q_len = 50, k_len = 61;
  const mask::block_grid grid(cpu{}, checkers, q_len, k_len, q_block, k_block);
  const auto m = grid.over(checkers);
  for (index_t q = 0; q < q_len; q += q_block)
    for (index_t k = 0; k < k_len; k += k_block) {
      const range rows{q, min(q + q_block, q_len)}, keys{k, min(k + k_block, k_len)};
      CAPTURE(q_block, k_block, q, k);
      REQUIRE(m.classify(rows, keys) == brute_force(checkers, rows, keys));
    }
}

TEST_CASE("block_map: tiles of any other size, and the bounds, are sound", "[mask][property]") {
  const auto q_block = GENERATE(as<index_t>{}, 1, 4, 16, 200);
  const mask::block_grid grid(cpu{}, checkers, 50, 61, q_block, 8);
  require_sound(grid.over(checkers), 50, 61);
  const auto window = checkers & mask::causal{};
  require_sound(mask::block_grid(cpu{}, window, 50, 61, q_block, 8).over(window), 50, 61);
}

TEST_CASE("block_map: the grid does not depend on the number of threads", "[mask]") {
  const mask::block_grid one(cpu{.threads = 1}, checkers, 50, 61, 3, 5);
  const mask::block_grid four(cpu{.threads = 4}, checkers, 50, 61, 3, 5);
  const auto a = one.kinds(), b = four.kinds();
  for (index_t i = 0; i < a.extent(0); ++i)
    for (index_t j = 0; j < a.extent(1); ++j) REQUIRE(a(i, j) == b(i, j));
}

TEST_CASE("block_map: lets kernels skip what the bare predicate does not", "[mask]") {
  const auto far = mask::where{[](index_t q, index_t k) { return k <= q && q - k < 8; }};
  const mask::block_grid grid(cpu{}, far, 128, 128, 16, 16);
  REQUIRE(mask::count_tiles(far, 128, 128, 16, 16).visited() == 64);
  REQUIRE(mask::count_tiles(grid.over(far), 128, 128, 16, 16).visited() == 15);
  REQUIRE(mask::key_bounds(grid.over(far), {64, 80}, 128) == range{48, 80});
  REQUIRE(mask::query_bounds(grid.over(far), {64, 80}, 128) == range{64, 96});
}

TEST_CASE("block_map: a problem without rows or keys has no blocks", "[mask]") {
  REQUIRE(mask::block_grid(cpu{}, checkers, 0, 61, 4, 4).kinds().extent(0) == 0);
  REQUIRE(mask::block_grid(cpu{}, checkers, 9, 0, 4, 4).kinds().extent(1) == 0);
}

TEST_CASE("block_map: rejects empty blocks, negative lengths and another problem", "[mask][errors]") {
  REQUIRE_THROWS_AS(mask::block_grid(cpu{}, checkers, 50, 61, 0, 8), precondition_error);
  REQUIRE_THROWS_AS(mask::block_grid(cpu{}, checkers, 50, 61, 8, -1), precondition_error);
  REQUIRE_THROWS_AS(mask::block_grid(cpu{}, checkers, -1, 61, 8, 8), precondition_error);
  REQUIRE_THROWS_AS(mask::block_grid(cpu{.threads = -1}, checkers, 50, 61, 8, 8), precondition_error);
  const mask::block_grid grid(cpu{}, checkers, 50, 61, 8, 8);
  REQUIRE_NOTHROW(mask::validate(grid.over(checkers), {.q_len = 50, .k_len = 61}));
  REQUIRE_THROWS_WITH(mask::validate(grid.over(checkers), {.q_len = 51, .k_len = 61}),
                      ContainsSubstring("made for [50, 61], asked for are queries [0, 51) and 61"));
}
