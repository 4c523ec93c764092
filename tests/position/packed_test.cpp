// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/position/encode.hpp>
#include <seqprim/position/packed.hpp>
#include <seqprim/position/rotary.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <support/catch.hpp>
#include <support/random.hpp>

using namespace seqprim;

namespace {
constexpr std::array<std::int32_t, 5> q_offsets = {0, 7, 7, 12, 13}, k_offsets = {0, 9, 13, 15, 15};
}  // namespace

TEST_CASE("packed positions: rotary of packed rows is rotary of each sequence alone", "[position]") {
  const packing sequences{q_offsets, k_offsets};
  const position::rotary<position::half_split> rotary{.rotary_dim = 8};
  test::random_numbers random(3);
  tensor<float, 4> q(1, 2, 13, 8), k(1, 2, 15, 8), q_packed(1, 2, 13, 8), k_packed(1, 2, 15, 8);
  random.fill(q);
  random.fill(k);
  position::encode(cpu{}, rotary, position::packed_queries{sequences}, q, q_packed);
  position::encode(cpu{}, rotary, position::packed_keys{sequences}, k, k_packed);
  for (index_t d = 0; d < sequences.sequences(); ++d) {
    const auto part = [](const tensor<float, 4>& x, range r) { return x.view().slice(2, r); };
    const range rows = sequences.queries(d), columns = sequences.keys(d);
    tensor<float, 4> q_alone(1, 2, rows.size(), 8), k_alone(1, 2, columns.size(), 8);
    position::encode(cpu{}, rotary, position::sequential{.start = columns.size() - rows.size()}, part(q, rows),
                     q_alone);
    position::encode(cpu{}, rotary, position::sequential{}, part(k, columns), k_alone);
    for (index_t h = 0; h < 2; ++h) {
      for (index_t i = 0; i < rows.size(); ++i)
        for (index_t c = 0; c < 8; ++c) REQUIRE(q_packed(0, h, rows.begin + i, c) == q_alone(0, h, i, c));
      for (index_t j = 0; j < columns.size(); ++j)
        for (index_t c = 0; c < 8; ++c) REQUIRE(k_packed(0, h, columns.begin + j, c) == k_alone(0, h, j, c));
    }
  }
}

TEST_CASE("packed positions: rejects offsets that end before the last row", "[position][errors]") {
  const packing sequences{q_offsets, k_offsets};
  REQUIRE_NOTHROW(position::validate_map(position::packed_queries{sequences}, 1, 13));
  REQUIRE_THROWS_WITH(position::validate_map(position::packed_queries{sequences}, 1, 14),
                      ContainsSubstring("q_offsets ends at 13, but there are 14 queries"));
  REQUIRE_THROWS_WITH(position::validate_map(position::packed_keys{sequences}, 1, 16),
                      ContainsSubstring("k_offsets ends at 15, but there are 16 keys"));
}
