// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/score/score.hpp>

#include <array>
#include <cstdint>
#include <support/catch.hpp>

using namespace seqprim;

namespace {
constexpr std::array<std::int32_t, 4> q_offsets = {0, 2, 7, 8}, k_offsets = {0, 9, 12, 20};
}  // namespace

TEST_CASE("packed score: the inner modifier sees positions within the sequence", "[score]") {
  const packing sequences{q_offsets, k_offsets};
  const score::packed op{sequences, score::soft_cap{.cap = 4} | score::alibi{.heads = 4}};
  STATIC_REQUIRE(score::depends_on_batch_or_head<decltype(op)>);
  for (index_t head = 0; head < 4; ++head) {
    const auto bound = score::bind(op, 0, head);
    const auto alone = score::bind(op.inner, 0, head);
    for (index_t q = 0; q < 8; ++q) {
      const index_t d = sequences.sequence_of_query(q);
      for (index_t k = k_offsets[static_cast<std::size_t>(d)]; k < k_offsets[static_cast<std::size_t>(d) + 1]; ++k) {
        const score::site within{sequences.query_position(q), sequences.key_position(k)};
        REQUIRE(bound(2.5f, {q, k}) == alone(2.5f, within));
        REQUIRE(bound.derivative(2.5f, {q, k}) == alone.derivative(2.5f, within));
      }
    }
  }
  REQUIRE(score::bind(op, 0, 1)(0.0f, {7, 19}) == 0.0f);           // the last query stands at the last key
  REQUIRE(score::bind(op, 0, 1)(0.0f, {7, 15}) == -4.0f / 16.0f);  // 4 tokens before it, slope 2^-4
}

TEST_CASE("packed score: its parts are checked", "[score][errors]") {
  const packing sequences{q_offsets, k_offsets};
  REQUIRE_NOTHROW(
      score::validate(score::packed{sequences, score::alibi{.heads = 4}}, {.heads = 4, .q_len = 8, .k_len = 20}));
  REQUIRE_THROWS_AS(
      score::validate(score::packed{sequences, score::alibi{.heads = 4}}, {.heads = 8, .q_len = 8, .k_len = 20}),
      precondition_error);
  // The packing of another batch, and one without sequences.
  const score::packed op{sequences, score::alibi{.heads = 4}};
  REQUIRE_NOTHROW(score::validate(op, {.heads = 4, .q_len = 8, .k_len = 20}));
  REQUIRE_THROWS_WITH(score::validate(op, {.heads = 4, .q_len = 9, .k_len = 20}),
                      ContainsSubstring("packing: q_offsets ends at 8 but q_len is 9"));
  REQUIRE_THROWS_WITH(score::validate(op, {.heads = 4, .q_len = 8, .k_len = 21}),
                      ContainsSubstring("packing: k_offsets ends at 20 but k_len is 21"));
  const packing none{index_array(q_offsets.data(), 1), index_array(k_offsets.data(), 1)};
  REQUIRE_THROWS_WITH(
      score::validate(score::packed{none, score::alibi{.heads = 4}}, {.heads = 4, .q_len = 8, .k_len = 20}),
      ContainsSubstring("packing: q_offsets ends at 0 but q_len is 8"));
  // Tables are as long as the longest sequence, not as all of them.
  const tensor<float, 3> of_key(1, 1, 9), too_short(1, 1, 8);
  REQUIRE_NOTHROW(score::validate(score::packed{sequences, score::key_bias{of_key.view()}}, {.q_len = 8, .k_len = 20}));
  REQUIRE_THROWS_WITH(
      score::validate(score::packed{sequences, score::key_bias{too_short.view()}}, {.q_len = 8, .k_len = 20}),
      ContainsSubstring("bias is for 8 keys but k_len is 9"));
  const packing broken{q_offsets, index_array(k_offsets.data(), 3)};
  REQUIRE_THROWS_AS(score::validate(score::packed{broken, score::identity{}}), precondition_error);
}
