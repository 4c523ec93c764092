// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/packing.hpp>

#include <array>
#include <cstdint>
#include <support/catch.hpp>

using namespace seqprim;

namespace {
// Four sequences: 7 queries and 9 keys; none and 4; 5 and 2; 1 and none.
constexpr std::array<std::int32_t, 5> q_offsets = {0, 7, 7, 12, 13};
constexpr std::array<std::int64_t, 5> k_offsets = {0, 9, 13, 15, 15};
}  // namespace

TEST_CASE("find_segment: finds the run of every position, behind empty runs", "[core]") {
  for (index_t i = 0; i < 13; ++i) REQUIRE(find_segment(q_offsets, i) == (i < 7 ? 0 : i < 12 ? 2 : 3));
  for (index_t i = 0; i < 15; ++i) REQUIRE(find_segment(k_offsets, i) == (i < 9 ? 0 : i < 13 ? 1 : 2));
}

TEST_CASE("packing: positions restart with every sequence; bottom_right puts the last query at the last key",
          "[core]") {
  const packing p{q_offsets, k_offsets};
  REQUIRE((p.sequences() == 4 && p.q_len() == 13 && p.k_len() == 15));
  REQUIRE((p.queries(1).empty() && p.keys(1) == range{9, 13}));
  REQUIRE((p.query_position(0) == 2 && p.query_position(6) == 8));
  REQUIRE((p.query_position(7) == -3 && p.query_position(11) == 1));
  REQUIRE(p.query_position(12) == -1);
  REQUIRE((p.key_position(8) == 8 && p.key_position(9) == 0 && p.key_position(14) == 1));
  const packing top{q_offsets, k_offsets, alignment::top_left};
  REQUIRE((top.query_position(6) == 6 && top.query_position(7) == 0 && top.key_position(14) == 1));
  STATIC_REQUIRE(packing{q_offsets, k_offsets}.query_position(3) == 5);
}

TEST_CASE("packing: rejects offsets that disagree, start elsewhere, decrease or end elsewhere", "[core][errors]") {
  constexpr std::array<std::int32_t, 5> late = {1, 2, 3, 4, 5}, down = {0, 4, 3, 5, 6};
  const index_array none(q_offsets.data(), 0);
  REQUIRE_NOTHROW(packing{q_offsets, k_offsets}.validate(0, 13, 15));
  REQUIRE_THROWS_WITH(
      (packing{q_offsets, index_array(k_offsets.data(), 4)}.validate()),
      "packing: q_offsets has 5 entries, k_offsets 4; they must agree. See docs/reference/core/packing.md");
  REQUIRE_THROWS_WITH((packing{none, none}.validate()), ContainsSubstring("q_offsets is empty"));
  REQUIRE_THROWS_WITH((packing{late, k_offsets}.validate()), ContainsSubstring("q_offsets[0] (1) must be 0"));
  REQUIRE_THROWS_WITH((packing{q_offsets, down}.validate()),
                      ContainsSubstring("k_offsets[2] (3) must be >= k_offsets[1] (4)"));
  REQUIRE_THROWS_WITH((packing{q_offsets, k_offsets}.validate(0, 12, 15)),
                      ContainsSubstring("q_offsets ends at 13 but q_len"));
  REQUIRE_THROWS_WITH((packing{q_offsets, k_offsets}.validate(0, 13, 16)), ContainsSubstring("but k_len is 16"));
  REQUIRE_NOTHROW(packing{index_array(late).on_device(), k_offsets}.validate());
}
