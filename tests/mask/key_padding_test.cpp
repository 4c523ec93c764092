// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/key_padding.hpp>
#include <seqprim/mask/shifted_rows.hpp>

#include <array>
#include <cstdint>
#include <mask/brute_force.hpp>

using namespace seqprim;
using namespace seqprim::test;

namespace {
constexpr std::array<std::int32_t, 4> lengths = {40, 17, 1, 0};
}

TEST_CASE("key_padding: hides the columns behind (right) or before (left) the real keys", "[mask]") {
  for (index_t b = 0; b < 4; ++b)
    for (index_t k = 0; k < 40; ++k) {
      CAPTURE(b, k);
      const index_t length = lengths[static_cast<std::size_t>(b)];
      REQUIRE(mask::key_padding{.lengths = lengths, .k_len = 40}.bind(b, 0)(3, k) == (k < length));
      REQUIRE(mask::key_padding{.lengths = lengths, .k_len = 40, .side = mask::padding_side::left}.bind(b, 0)(3, k) ==
              (k >= 40 - length));
    }
}

TEST_CASE("key_padding: classify and bounds agree with the element rule, alone and with causal", "[mask][property]") {
  const auto side = GENERATE(mask::padding_side::left, mask::padding_side::right);
  const mask::key_padding m{.lengths = lengths, .k_len = 40, .side = side};
  const mask::shape problem{.batch = 4, .heads = 1, .q_len = 37, .k_len = 40};
  require_exact(m, problem);
  require_exact(m & mask::shifted(mask::causal{}, 3), problem);
  require_exact(mask::shifted(mask::causal{}, 3) & m, problem);
}

TEST_CASE("key_padding: rejects lengths beyond k_len, another k_len, and missing batch rows", "[mask][errors]") {
  const mask::shape problem{.batch = 4, .heads = 1, .q_len = 37, .k_len = 40};
  REQUIRE_THROWS_WITH(mask::validate(mask::key_padding{.lengths = lengths, .k_len = 39}),
                      ContainsSubstring("lengths[0] (40) must be in [0, k_len (39)]"));
  REQUIRE_THROWS_WITH(mask::validate(mask::key_padding{.lengths = lengths, .k_len = 41}, problem),
                      ContainsSubstring("k_len (41) is not the number of keys (40)"));
  REQUIRE_THROWS_WITH(mask::validate(mask::key_padding{.lengths = {lengths.data(), 3}, .k_len = 40}, problem),
                      ContainsSubstring("3 entries but there are 4 batch rows"));
  const std::array<std::int32_t, 1> negative = {-1};
  REQUIRE_THROWS_AS(mask::validate(mask::key_padding{.lengths = negative, .k_len = 40}), precondition_error);
  REQUIRE_THROWS_AS(mask::validate(mask::key_padding{.lengths = {}, .k_len = -1}), precondition_error);
  REQUIRE_NOTHROW(mask::validate(mask::key_padding{.lengths = lengths, .k_len = 40}, problem));
}

TEST_CASE("key_padding: errors reach through compositions", "[mask][errors]") {
  const auto m = ~(mask::causal{} & mask::key_padding{.lengths = lengths, .k_len = 39});
  REQUIRE_THROWS_AS(mask::validate(m), precondition_error);
  const auto other = mask::causal{} | mask::key_padding{.lengths = lengths, .k_len = 41};
  REQUIRE_NOTHROW(mask::validate(other));
  REQUIRE_THROWS_AS(mask::validate(other, {.batch = 1, .heads = 1, .q_len = 1, .k_len = 40}), precondition_error);
}
