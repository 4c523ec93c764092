// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/mask/prefix.hpp>
#include <seqprim/mask/shifted_rows.hpp>

#include <array>
#include <cstdint>
#include <mask/brute_force.hpp>

using namespace seqprim;
using namespace seqprim::test;

TEST_CASE("prefix: classify, runs and bounds agree with the element rule", "[mask][property]") {
  const auto length = GENERATE(as<index_t>{}, 0, 1, 17, 64, 101);
  const auto offset = GENERATE(as<index_t>{}, -20, 0, 34);
  CAPTURE(length, offset);
  require_exact(mask::shifted(mask::prefix{.length = length}, offset), 67, 101);
}

TEST_CASE("prefix: a length of zero or one is causal, one of k_len is full", "[mask]") {
  const auto length = GENERATE(as<index_t>{}, 0, 1);
  for (index_t q = 0; q < 20; ++q)
    for (index_t k = 0; k < 20; ++k) REQUIRE(mask::prefix{.length = length}(q, k) == mask::causal{}(q, k));
  REQUIRE(mask::prefix{.length = 20}.classify({0, 20}, {0, 20}) == mask::tile_kind::full);
}

TEST_CASE("prefix_per_batch: binds to the length of its batch row, from 32-bit or 64-bit arrays", "[mask]") {
  const std::array<std::int32_t, 3> narrow = {0, 20, 40};
  tensor<index_t, 1> wide(3);
  for (int b = 0; b < 3; ++b) wide(b) = narrow[static_cast<std::size_t>(b)];
  for (const mask::prefix_per_batch& m :
       {mask::prefix_per_batch{.lengths = narrow}, mask::prefix_per_batch{.lengths = wide}}) {
    for (index_t b = 0; b < 3; ++b) REQUIRE(mask::bind(m, b, 5).length == narrow[static_cast<std::size_t>(b)]);
    require_exact(m, {.batch = 3, .heads = 2, .q_len = 38, .k_len = 40});
  }
}

TEST_CASE("prefix: rejects lengths below zero and missing batch rows", "[mask][errors]") {
  const mask::shape problem{.batch = 3, .heads = 1, .q_len = 10, .k_len = 10};
  REQUIRE_THROWS_AS(mask::validate(mask::prefix{.length = -1}), precondition_error);
  REQUIRE_NOTHROW(mask::validate(mask::prefix{.length = 11}, problem));  // full over the keys that are there
  const std::array<std::int32_t, 3> negative = {0, -2, 4};
  REQUIRE_THROWS_WITH(mask::validate(mask::prefix_per_batch{.lengths = negative}),
                      ContainsSubstring("lengths[1] (-2) must be >= 0"));
  const std::array<std::int32_t, 3> long_one = {0, 2, 11};
  REQUIRE_NOTHROW(mask::validate(mask::prefix_per_batch{.lengths = long_one}));
  REQUIRE_NOTHROW(mask::validate(mask::prefix_per_batch{.lengths = long_one}, problem));
  const std::array<std::int32_t, 2> few = {0, 2};
  REQUIRE_THROWS_WITH(mask::validate(mask::prefix_per_batch{.lengths = few}, problem),
                      ContainsSubstring("2 entries but there are 3 batch rows"));
}

TEST_CASE("prefix_per_batch: lengths on the device are not read by host checks", "[mask]") {
  const std::array<std::int32_t, 1> negative = {-2};
  const mask::prefix_per_batch m{.lengths = index_array(negative).on_device()};
  REQUIRE_NOTHROW(mask::validate(m, {.batch = 1, .heads = 1, .q_len = 1, .k_len = 1}));
  REQUIRE_THROWS_AS(mask::validate(m, {.batch = 2, .heads = 1, .q_len = 1, .k_len = 1}), precondition_error);
}
