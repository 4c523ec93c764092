// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/attention_sinks.hpp>
#include <seqprim/mask/key_range.hpp>
#include <seqprim/mask/shifted_rows.hpp>
#include <seqprim/mask/sliding_window.hpp>

#include <mask/brute_force.hpp>

using namespace seqprim;
using namespace seqprim::test;

TEST_CASE("attention_sinks: classify and bounds agree with the element rule", "[mask][property]") {
  const auto sinks = GENERATE(as<index_t>{}, 0, 1, 4, 30, 200);
  const auto window = GENERATE(as<index_t>{}, 1, 5, 16, 64, mask::unlimited);
  const auto offset = GENERATE(as<index_t>{}, -20, 0, 34);
  CAPTURE(sinks, window, offset);
  require_exact(mask::shifted(mask::attention_sinks{.sinks = sinks, .window = window}, offset), 67, 101);
}

TEST_CASE("attention_sinks: the composition that defines it sees the same", "[mask][property]") {
  const auto m = mask::shifted(mask::attention_sinks{.sinks = 4, .window = 9}, 11);
  const auto composed =
      mask::shifted(mask::causal{}, 11) & (mask::key_range{0, 4} | mask::shifted(mask::causal_window(9), 11));
  for (index_t q = 0; q < 50; ++q)
    for (index_t k = 0; k < 61; ++k) {
      CAPTURE(q, k);
      REQUIRE(m(q, k) == composed(q, k));
    }
}

TEST_CASE("attention_sinks: the cache holds sinks + window keys", "[mask]") {
  const auto m = mask::shifted(mask::attention_sinks{.sinks = 4, .window = 16}, 100);
  index_t seen = 0;
  for (index_t k = 0; k < 200; ++k) seen += m(0, k);
  REQUIRE(seen == 20);
}

TEST_CASE("attention_sinks: rejects negative sinks and an empty window", "[mask][errors]") {
  REQUIRE_THROWS_WITH(mask::validate(mask::attention_sinks{.sinks = -1, .window = 4}),
                      ContainsSubstring("sinks (-1) must be >= 0"));
  REQUIRE_THROWS_WITH(mask::validate(mask::attention_sinks{.sinks = 4, .window = 0}),
                      ContainsSubstring("window (0) must be >= 1"));
  REQUIRE_NOTHROW(mask::validate(mask::attention_sinks{.sinks = 0, .window = mask::unlimited}));
}
