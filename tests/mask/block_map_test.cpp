// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/block_map.hpp>
#include <seqprim/mask/count_tiles.hpp>
#include <seqprim/mask/key_padding.hpp>
#include <seqprim/mask/packed.hpp>
#include <seqprim/mask/per_head.hpp>
#include <seqprim/mask/sliding_window.hpp>
#include <seqprim/mask/where.hpp>

#include <cstdint>
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
      const range rows{q, min_of(q + q_block, q_len)}, keys{k, min_of(k + k_block, k_len)};
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
  for (index_t i = 0; i < a.extent(2); ++i)
    for (index_t j = 0; j < a.extent(3); ++j) REQUIRE(a(0, 0, i, j) == b(0, 0, i, j));
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
  REQUIRE(mask::block_grid(cpu{}, checkers, 0, 61, 4, 4).kinds().extent(2) == 0);
  REQUIRE(mask::block_grid(cpu{}, checkers, 9, 0, 4, 4).kinds().extent(3) == 0);
}

TEST_CASE("block_map: rejects empty blocks, negative lengths and another problem", "[mask][errors]") {
  REQUIRE_THROWS_AS(mask::block_grid(cpu{}, checkers, 50, 61, 0, 8), precondition_error);
  REQUIRE_THROWS_AS(mask::block_grid(cpu{}, checkers, 50, 61, 8, -1), precondition_error);
  REQUIRE_THROWS_AS(mask::block_grid(cpu{}, checkers, -1, 61, 8, 8), precondition_error);
  REQUIRE_THROWS_AS(mask::block_grid(cpu{.threads = -1}, checkers, 50, 61, 8, 8), precondition_error);
  const mask::block_grid grid(cpu{}, checkers, 50, 61, 8, 8);
  REQUIRE_NOTHROW(mask::validate(grid.over(checkers), {.q_len = 50, .k_len = 61}));
  REQUIRE_THROWS_WITH(
      mask::validate(grid.over(checkers), {.q_len = 51, .k_len = 61}),
      ContainsSubstring("mask::block_map: the table is for queries at [0, 50) but those of the call are at [0, 51)"));
}

TEST_CASE("block_map: behind `packed`, the map is made for the positions that are asked for", "[mask][errors]") {
  const index_t queries[] = {0, 2}, keys[] = {0, 8};
  const packing sequences{{queries, 2}, {keys, 2}};
  const mask::block_grid rows_of_call(cpu{.threads = 1}, checkers, 2, 8, 1, 4),
      all_rows(cpu{.threads = 1}, checkers, 8, 8, 1, 4);
  REQUIRE_THROWS_AS(mask::validate(mask::packed{sequences, rows_of_call.over(checkers)}, {1, 1, 2, 8}),
                    precondition_error);
  const mask::packed fits{sequences, all_rows.over(checkers)};
  mask::validate(fits, {1, 1, 2, 8});
  REQUIRE(mask::check(fits, 2, 8).ok());
}

TEST_CASE("block_map: a grid for each batch row and head", "[mask][property]") {
  const std::int32_t lengths[] = {61, 17, 0};
  const mask::sliding_window windows[] = {mask::causal_window(9), mask::causal_window(40)};
  const mask::per_head per_head{tensor_view<const mask::sliding_window, 1>(windows, 2)};
  const auto m = mask::key_padding{.lengths = {lengths, 3}, .k_len = 61} & per_head & checkers;
  const mask::shape problem{.batch = 3, .heads = 2, .q_len = 50, .k_len = 61};
  const mask::block_grid grid(cpu{}, m, problem, 8, 8);
  const auto mapped = grid.over(m);
  STATIC_REQUIRE(mask::depends_on_batch_or_head<decltype(mapped)>);
  REQUIRE(mask::check(mapped, problem).ok());
  index_t empty = 0;
  for (index_t b = 0; b < 3; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t q = 0; q < 50; ++q)
        for (index_t k = 0; k < 61; ++k) {
          REQUIRE(mask::bind(mapped, b, h)(q, k) == mask::bind(m, b, h)(q, k));
          empty += mask::bind(mapped, b, h).classify({q, q + 1}, {k, k + 1}) == mask::tile_kind::empty;
        }
  REQUIRE(empty > 50 * 61 * 2);  // the padded batch row, at least
  REQUIRE_THROWS_WITH(mask::validate(mapped, {.batch = 3, .heads = 3, .q_len = 50, .k_len = 61}),
                      ContainsSubstring("2 masks for 3 heads"));
  REQUIRE_THROWS_AS(mask::validate(mapped, {.batch = 4, .heads = 2, .q_len = 50, .k_len = 61}), precondition_error);
}
