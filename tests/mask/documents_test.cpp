// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/documents.hpp>
#include <seqprim/mask/shifted_rows.hpp>
#include <seqprim/mask/sliding_window.hpp>

#include <array>
#include <cstdint>
#include <mask/brute_force.hpp>
#include <vector>

using namespace seqprim;
using namespace seqprim::test;

namespace {

const std::vector<std::int32_t> five = {0, 13, 14, 54, 61, 90};

index_t document_of(index_t token) {
  index_t d = 0;
  while (five[static_cast<std::size_t>(d) + 1] <= token) ++d;
  return d;
}

}  // namespace

TEST_CASE("documents: a query sees the keys of its own document", "[mask]") {
  const auto m = mask::documents(five);
  for (index_t q = 0; q < 90; ++q)
    for (index_t k = 0; k < 90; ++k)
      if (m(q, k) != (document_of(q) == document_of(k))) {
        CAPTURE(q, k);
        REQUIRE(m(q, k) == (document_of(q) == document_of(k)));
      }
  SUCCEED();
}

TEST_CASE("documents: classify, runs and bounds agree with the element rule", "[mask][property]") {
  const auto m = mask::documents(five);
  require_exact(m, 90, 90);
  require_exact(m & mask::causal{}, 90, 90);
  require_exact(m & mask::causal_window(9), 90, 90);
  require_exact(mask::causal_window(9) & m & mask::causal{}, 90, 90);
  require_sound(m | mask::causal_window(9), 90, 90);
}

TEST_CASE("documents: rows of a call that begins elsewhere, and rows outside of all documents", "[mask][property]") {
  const auto offset = GENERATE(as<index_t>{}, -10, 55, 85);
  const auto m = mask::shifted(mask::documents(five), offset);
  require_exact(m, 20, 90);
  REQUIRE(empty_row(m, 19, 90) == (offset == 85));
  REQUIRE(empty_row(m, 0, 90) == (offset == -10));
}

TEST_CASE("documents: many documents of any size", "[mask][property]") {
  std::vector<std::int64_t> offsets = {0};
  for (int d = 0; d < 40; ++d) offsets.push_back(offsets.back() + 1 + (d * 7) % 5);
  require_exact(mask::documents(offsets) & mask::causal{}, offsets.back(), offsets.back());
}

TEST_CASE("documents: rejects offsets that do not start at 0, decrease, or end elsewhere", "[mask][errors]") {
  const std::array<std::int32_t, 3> late = {1, 4, 9}, down = {0, 4, 3}, flat = {0, 4, 4}, good = {0, 4, 9};
  REQUIRE_THROWS_WITH(mask::validate(mask::documents({})), ContainsSubstring("empty"));
  REQUIRE_THROWS_WITH(mask::validate(mask::documents(late)), ContainsSubstring("[0] (1) must be 0"));
  REQUIRE_THROWS_WITH(mask::validate(mask::documents(down)), ContainsSubstring("[2] (3) must be >= "));
  REQUIRE_NOTHROW(mask::validate(mask::documents(flat)));  // the last document is empty
  REQUIRE_NOTHROW(mask::validate(mask::documents(good)));
  REQUIRE_THROWS_WITH(mask::validate(mask::documents(good), {.q_len = 9, .k_len = 10}),
                      ContainsSubstring("ends at 9 but k_len is 10"));
}

namespace {
constexpr std::array<std::int32_t, 5> queries = {0, 7, 7, 30, 44};    // the second sequence has no query
constexpr std::array<std::int32_t, 5> sources = {0, 19, 40, 40, 63};  // the third has no key
}  // namespace

TEST_CASE("cross_documents: queries of a sequence attend to all of its keys and no others", "[mask]") {
  const auto m = mask::cross_documents(queries, sources);
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

TEST_CASE("cross_documents: classify and hints agree with the pair rule", "[mask][property]") {
  require_exact(mask::cross_documents(queries, sources), 44, 63);
  constexpr std::array<std::int32_t, 4> q = {0, 7, 30, 44}, k = {0, 19, 40, 63};
  require_exact(mask::cross_documents(q, k), 44, 63);
}

TEST_CASE("cross_documents: rejects arrays that disagree, decrease or end elsewhere", "[mask][errors]") {
  constexpr std::array<std::int32_t, 3> down = {0, 5, 4}, good = {0, 4, 9};
  REQUIRE_THROWS_AS(mask::validate(mask::cross_documents(down, good)), precondition_error);
  REQUIRE_THROWS_AS(mask::validate(mask::cross_documents(good, down)), precondition_error);
  REQUIRE_THROWS_WITH(mask::validate(mask::cross_documents(queries, good)),
                      ContainsSubstring("q_offsets has 5 entries, k_offsets 3"));
  const auto m = mask::cross_documents(queries, sources);
  REQUIRE_NOTHROW(mask::validate(m, {.q_len = 44, .k_len = 63}));
  REQUIRE_THROWS_WITH(mask::validate(m, {.q_len = 45, .k_len = 63}), ContainsSubstring("q_len is 45"));
  REQUIRE_THROWS_WITH(mask::validate(m, {.q_len = 44, .k_len = 62}), ContainsSubstring("k_len is 62"));
}

namespace {
constexpr std::array<std::int32_t, 6> offsets = {0, 13, 14, 54, 61, 90};
constexpr std::array<std::int32_t, 5> prefix_ends = {6, 13, 54, 58, 61};  // inside, start, end, inside, start
const auto with_prefix = mask::packed_prefix({offsets.data(), 6}, {prefix_ends.data(), 5});
}  // namespace

TEST_CASE("packed_prefix: causal inside each document, with its prefix visible from everywhere in it", "[mask]") {
  const auto m = mask::bind(with_prefix, 0, 0);
  REQUIRE(m(0, 5));
  REQUIRE_FALSE(m(0, 6));
  REQUIRE(m(6, 6));
  REQUIRE_FALSE(m(6, 7));
  REQUIRE_FALSE(m(13, 12));
  REQUIRE(m(14, 53));
  REQUIRE_FALSE(m(14, 54));
  REQUIRE(m(57, 57));
  REQUIRE_FALSE(m(61, 62));
}

TEST_CASE("packed_prefix: classify and hints agree with the pair rule", "[mask][property]") {
  require_exact(with_prefix, 90, 90);
  const auto offset = GENERATE(as<index_t>{}, -10, 50, 85);
  require_exact(mask::shifted(mask::bind(with_prefix, 0, 0), offset), 20, 90);
}

TEST_CASE("packed_prefix: rejects a prefix end outside of its document, and a wrong number of them", "[mask][errors]") {
  std::array<std::int32_t, 5> before = prefix_ends, behind = prefix_ends;
  before[1] = 12;
  behind[3] = 62;
  REQUIRE_NOTHROW(mask::validate(with_prefix, {.q_len = 90, .k_len = 90}));
  REQUIRE_THROWS_WITH(mask::validate(mask::packed_prefix(offsets, before)),
                      ContainsSubstring("prefix_ends[1] (12) is outside of its document [13, 14]"));
  REQUIRE_THROWS_WITH(mask::validate(mask::packed_prefix(offsets, behind)),
                      ContainsSubstring("prefix_ends[3] (62) is outside of its document [54, 61]"));
  REQUIRE_THROWS_WITH(mask::validate(mask::packed_prefix(offsets, {prefix_ends.data(), 4})),
                      ContainsSubstring("4 prefix_ends for 5 documents"));
  REQUIRE_THROWS_AS(mask::validate(with_prefix, {.q_len = 90, .k_len = 91}), precondition_error);
}
