// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/packed_prefix.hpp>
#include <seqprim/mask/shifted_rows.hpp>

#include <array>
#include <cstdint>
#include <mask/brute_force.hpp>

using namespace seqprim;
using namespace seqprim::test;

namespace {
constexpr std::array<std::int32_t, 6> offsets = {0, 13, 14, 54, 61, 90};
constexpr std::array<std::int32_t, 5> ends = {6, 13, 54, 58, 61};  // inside, start, end, inside, start
constexpr mask::packed_prefix packed{.offsets = {offsets.data(), 6}, .prefix_ends = {ends.data(), 5}};
}  // namespace

TEST_CASE("packed_prefix: causal inside each document, with its prefix visible from everywhere in it", "[mask]") {
  REQUIRE(packed(0, 5));
  REQUIRE_FALSE(packed(0, 6));
  REQUIRE(packed(6, 6));
  REQUIRE_FALSE(packed(6, 7));
  REQUIRE_FALSE(packed(13, 12));
  REQUIRE(packed(14, 53));
  REQUIRE_FALSE(packed(14, 54));
  REQUIRE(packed(57, 57));
  REQUIRE_FALSE(packed(61, 62));
}

TEST_CASE("packed_prefix: classify, runs and bounds agree with the element rule", "[mask][property]") {
  require_exact(packed, 90, 90);
  const auto offset = GENERATE(as<index_t>{}, -10, 50, 85);
  require_exact(mask::shifted(packed, offset), 20, 90);
}

TEST_CASE("packed_prefix: rejects a prefix end outside of its document, and a wrong number of them", "[mask][errors]") {
  std::array<std::int32_t, 5> before = ends, behind = ends;
  before[1] = 12;
  behind[3] = 62;
  REQUIRE_NOTHROW(mask::validate(packed, {.q_len = 90, .k_len = 90}));
  REQUIRE_THROWS_WITH(mask::validate(mask::packed_prefix{.offsets = offsets, .prefix_ends = before}),
                      ContainsSubstring("prefix_ends[1] (12) is outside of its document [13, 14]"));
  REQUIRE_THROWS_WITH(mask::validate(mask::packed_prefix{.offsets = offsets, .prefix_ends = behind}),
                      ContainsSubstring("prefix_ends[3] (62) is outside of its document [54, 61]"));
  REQUIRE_THROWS_WITH(mask::validate(mask::packed_prefix{.offsets = offsets, .prefix_ends = {ends.data(), 4}}),
                      ContainsSubstring("4 prefix_ends for 5 documents"));
  REQUIRE_THROWS_AS(mask::validate(packed, {.q_len = 90, .k_len = 91}), precondition_error);
}
