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
  const mask::documents m{.offsets = five};
  for (index_t q = 0; q < 90; ++q)
    for (index_t k = 0; k < 90; ++k)
      if (m(q, k) != (document_of(q) == document_of(k))) {
        CAPTURE(q, k);
        REQUIRE(m(q, k) == (document_of(q) == document_of(k)));
      }
  SUCCEED();
}

TEST_CASE("documents: classify, runs and bounds agree with the element rule", "[mask][property]") {
  const mask::documents m{.offsets = five};
  require_exact(m, 90, 90);
  require_exact(m & mask::causal{}, 90, 90);
  require_exact(m & mask::causal_window(9), 90, 90);
  require_exact(mask::causal_window(9) & m & mask::causal{}, 90, 90);
  require_sound(m | mask::causal_window(9), 90, 90);
}

TEST_CASE("documents: rows of a call that begins elsewhere, and rows outside of all documents", "[mask][property]") {
  const auto offset = GENERATE(as<index_t>{}, -10, 55, 85);
  const auto m = mask::shifted(mask::documents{.offsets = five}, offset);
  require_exact(m, 20, 90);
  REQUIRE(empty_row(m, 19, 90) == (offset == 85));
  REQUIRE(empty_row(m, 0, 90) == (offset == -10));
}

TEST_CASE("documents: many documents of any size", "[mask][property]") {
  std::vector<std::int64_t> offsets = {0};
  for (int d = 0; d < 40; ++d) offsets.push_back(offsets.back() + 1 + (d * 7) % 5);
  require_exact(mask::documents{.offsets = offsets} & mask::causal{}, offsets.back(), offsets.back());
}

TEST_CASE("documents: rejects offsets that do not start at 0, do not increase, or end elsewhere", "[mask][errors]") {
  const std::array<std::int32_t, 3> late = {1, 4, 9}, flat = {0, 4, 4}, good = {0, 4, 9};
  REQUIRE_THROWS_WITH(mask::validate(mask::documents{.offsets = {}}), ContainsSubstring("is empty"));
  REQUIRE_THROWS_WITH(mask::validate(mask::documents{.offsets = late}), ContainsSubstring("[0] (1) must be 0"));
  REQUIRE_THROWS_WITH(mask::validate(mask::documents{.offsets = flat}), ContainsSubstring("[2] (4) must be > "));
  REQUIRE_NOTHROW(mask::validate(mask::documents{.offsets = good}));
  REQUIRE_THROWS_WITH(mask::validate(mask::documents{.offsets = good}, {.q_len = 9, .k_len = 10}),
                      ContainsSubstring("ends at 9 but k_len is 10"));
}
