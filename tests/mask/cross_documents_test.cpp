// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/cross_documents.hpp>

#include <array>
#include <cstdint>
#include <mask/brute_force.hpp>

using namespace seqprim;
using namespace seqprim::test;

namespace {
constexpr std::array<std::int32_t, 5> queries = {0, 7, 7, 30, 44};    // the second sequence has no query
constexpr std::array<std::int32_t, 5> sources = {0, 19, 40, 40, 63};  // the third has no key
}  // namespace

TEST_CASE("cross_documents: queries of a sequence see all of its keys and no others", "[mask]") {
  const mask::cross_documents m{.q_offsets = queries, .k_offsets = sources};
  for (index_t q = 0; q < 44; ++q)
    for (index_t k = 0; k < 63; ++k) {
      const bool expected = (q < 7 && k < 19) || (q >= 30 && k >= 40);
      if (m(q, k) != expected) {
        CAPTURE(q, k);
        REQUIRE(m(q, k) == expected);
      }
    }
  REQUIRE(empty_row(m, 7, 63));
}

TEST_CASE("cross_documents: classify, runs and bounds agree with the element rule", "[mask][property]") {
  require_sound(mask::cross_documents{.q_offsets = queries, .k_offsets = sources}, 44, 63);
  constexpr std::array<std::int32_t, 4> q = {0, 7, 30, 44}, k = {0, 19, 40, 63};
  require_exact(mask::cross_documents{.q_offsets = q, .k_offsets = k}, 44, 63);
}

TEST_CASE("cross_documents: rejects arrays that disagree, decrease or end elsewhere", "[mask][errors]") {
  constexpr std::array<std::int32_t, 3> down = {0, 5, 4}, good = {0, 4, 9};
  REQUIRE_THROWS_AS(mask::validate(mask::cross_documents{.q_offsets = down, .k_offsets = good}), precondition_error);
  REQUIRE_THROWS_AS(mask::validate(mask::cross_documents{.q_offsets = good, .k_offsets = down}), precondition_error);
  REQUIRE_THROWS_WITH(mask::validate(mask::cross_documents{.q_offsets = queries, .k_offsets = good}),
                      ContainsSubstring("q_offsets has 5 entries, k_offsets 3"));
  const mask::cross_documents m{.q_offsets = queries, .k_offsets = sources};
  REQUIRE_NOTHROW(mask::validate(m, {.q_len = 44, .k_len = 63}));
  REQUIRE_THROWS_WITH(mask::validate(m, {.q_len = 45, .k_len = 63}), ContainsSubstring("but q_len is 45"));
  REQUIRE_THROWS_WITH(mask::validate(m, {.q_len = 44, .k_len = 62}), ContainsSubstring("but k_len is 62"));
}
