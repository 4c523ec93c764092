// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/attention_sinks.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/mask/full.hpp>
#include <seqprim/mask/last_queries.hpp>
#include <seqprim/mask/prefix.hpp>
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
  const mask::last_queries m{lengths, q_len, inner};
  bool same = true;
  for (index_t b = 0; b < 5; ++b) {
    const index_t length = lengths[static_cast<std::size_t>(b)];
    const auto bound = mask::bind(m, b, 0);
    const auto whole = mask::bind(inner, b, 0);
    for (index_t q = 0; q < q_len; ++q)
      for (index_t k = 0; k < k_len; ++k) {
        const index_t row = q + length - q_len;
        same = same && bound(q, k) == (row >= 0 && k < length && whole(row, k));
      }
  }
  REQUIRE(same);
  const mask::check_report report = mask::check(m, mask::shape{.batch = 5, .heads = 1, .q_len = q_len, .k_len = k_len});
  INFO(report.summary());
  REQUIRE(report.tiles > 0);
  REQUIRE(report.ok());
}

}  // namespace

TEST_CASE("last_queries: rows of the inner mask, as far as the sequence goes", "[mask][property]") {
  const std::array<std::int32_t, 5> prefixes = {3, 97, 0, 0, 20};
  require_last_rows(mask::full{});
  require_last_rows(mask::causal{});
  require_last_rows(mask::causal_window(10));
  require_last_rows(mask::sliding_window{.left = 9, .right = 4});
  require_last_rows(mask::attention_sinks{.sinks = 3, .window = 12});
  require_last_rows(mask::causal{} & ~mask::key_range{20, 50});
  require_last_rows(mask::prefix_per_batch{.lengths = prefixes});
}

TEST_CASE("last_queries: one query of each sequence sees all of it", "[mask]") {
  const mask::last_queries m{lengths, 1, mask::causal{}};
  REQUIRE(mask::bind(m, 1, 0).classify({0, 1}, {0, 97}) == mask::tile_kind::full);
  REQUIRE(mask::bind(m, 1, 0).classify({0, 1}, {97, 131}) == mask::tile_kind::empty);
  REQUIRE(mask::bind(m, 3, 0).classify({0, 1}, {0, 131}) == mask::tile_kind::empty);
  static_assert(mask::one_range_per_row<mask::bound<mask::last_queries<mask::causal>>>);
}

TEST_CASE("last_queries: rejects other numbers of queries, missing and impossible lengths", "[mask][errors]") {
  const mask::shape problem{.batch = 3, .heads = 1, .q_len = 2, .k_len = 10};
  const std::array<std::int32_t, 3> good = {10, 0, 1}, negative = {1, -2, 3}, long_one = {1, 2, 11};
  REQUIRE_NOTHROW(mask::validate(mask::last_queries{good, 2, mask::causal{}}, problem));
  REQUIRE_THROWS_WITH(mask::validate(mask::last_queries{good, 3, mask::causal{}}, problem),
                      ContainsSubstring("q_len (3) must equal that of the call (2)"));
  REQUIRE_THROWS_WITH(mask::validate(mask::last_queries{negative, 2, mask::causal{}}),
                      ContainsSubstring("lengths[1] (-2) must be >= 0"));
  REQUIRE_THROWS_WITH(mask::validate(mask::last_queries{long_one, 2, mask::causal{}}, problem),
                      ContainsSubstring("lengths[2] (11) must be <= k_len (10)"));
  const std::array<std::int32_t, 2> few = {1, 2};
  REQUIRE_THROWS_WITH(mask::validate(mask::last_queries{few, 2, mask::causal{}}, problem),
                      ContainsSubstring("2 entries but there are 3 batch rows"));
  REQUIRE_THROWS_WITH(mask::validate(mask::last_queries{good, 2, mask::prefix{.length = 11}}, problem),
                      ContainsSubstring("length (11)"));
}
