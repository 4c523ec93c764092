// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/attention_sinks.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/mask/full.hpp>
#include <seqprim/mask/last_queries.hpp>
#include <seqprim/mask/prefix.hpp>
#include <seqprim/mask/shifted_rows.hpp>
#include <seqprim/mask/sliding_window.hpp>

#include <array>
#include <mask/brute_force.hpp>

using namespace seqprim;
using namespace seqprim::test;
using Catch::Matchers::ContainsSubstring;

namespace {

constexpr std::array<std::int32_t, 5> lengths = {131, 97, 5, 0, 40};
constexpr index_t q_len = 37, k_len = 131;

/// Every pair is that of the inner mask, counted from the first token of the sequence.
template <class Inner> void require_last_rows(const Inner& inner) {
  const mask::last_queries m{lengths, inner};
  const row_starts starts = mask::query_starts(m, q_len, k_len);
  bool same = true;
  for (index_t b = 0; b < 5; ++b) {
    const index_t length = lengths[static_cast<std::size_t>(b)];
    REQUIRE(starts(b) == length - q_len);
    const auto bound = mask::bind(m, b, 0);
    const auto whole = mask::bind(inner, b, 0);
    for (index_t q = starts(b); q < length; ++q)
      for (index_t k = 0; k < k_len; ++k) same = same && bound(q, k) == (q >= 0 && k < length && whole(q, k));
    const mask::check_report report = mask::check(mask::shifted(bound, starts(b)), q_len, k_len);
    INFO(report.summary());
    REQUIRE(report.tiles > 0);
    REQUIRE(report.ok());
  }
  REQUIRE(same);
}

}  // namespace

TEST_CASE("last_queries: rows of the inner mask, as far as the sequence goes", "[mask][property]") {
  const std::array<std::int32_t, 5> prefixes = {3, 97, 0, 0, 20};
  require_last_rows(mask::full{});
  require_last_rows(mask::causal{});
  require_last_rows(mask::causal_window(10));
  require_last_rows(mask::sliding_window{.left = 9, .right = 4});
  // Ranges of the first rows end before the first key.
  require_last_rows(mask::shifted(mask::causal{}, -3));
  require_last_rows(mask::shifted(mask::causal_window(3), -4));
  require_last_rows(mask::attention_sinks{.sinks = 3, .window = 12});
  require_last_rows(mask::causal{} & ~mask::key_range{20, 50});
  require_last_rows(mask::prefix_per_batch{.lengths = prefixes});
}

TEST_CASE("last_queries: one query of each sequence sees all of it", "[mask]") {
  const mask::last_queries m{lengths, mask::causal{}};
  REQUIRE(mask::bind(m, 1, 0).classify({96, 97}, {0, 97}) == mask::tile_kind::full);
  REQUIRE(mask::bind(m, 1, 0).classify({96, 97}, {97, 131}) == mask::tile_kind::empty);
  REQUIRE(mask::bind(m, 3, 0).classify({-1, 0}, {0, 131}) == mask::tile_kind::empty);
  static_assert(mask::one_range_per_row<mask::bound<mask::last_queries<mask::causal>>>);
}

TEST_CASE("last_queries: rejects missing and impossible lengths", "[mask][errors]") {
  const mask::shape problem{.batch = 3, .heads = 1, .q_len = 2, .k_len = 10};
  const std::array<std::int32_t, 3> good = {10, 0, 1}, negative = {1, -2, 3}, long_one = {1, 2, 11};
  REQUIRE_NOTHROW(mask::validate(mask::last_queries{good, mask::causal{}}, problem));
  REQUIRE_THROWS_WITH(mask::validate(mask::last_queries{negative, mask::causal{}}),
                      ContainsSubstring("lengths[1] (-2) must be >= 0"));
  REQUIRE_THROWS_WITH(mask::validate(mask::last_queries{long_one, mask::causal{}}, problem),
                      ContainsSubstring("lengths[2] (11) must be <= k_len (10)"));
  const std::array<std::int32_t, 2> few = {1, 2};
  REQUIRE_THROWS_WITH(mask::validate(mask::last_queries{few, mask::causal{}}, problem),
                      ContainsSubstring("2 entries but there are 3 batch rows"));
  REQUIRE_THROWS_WITH(mask::validate(mask::last_queries{good, mask::prefix{.length = -1}}, problem),
                      ContainsSubstring("length (-1)"));
}
