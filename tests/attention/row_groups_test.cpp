// SPDX-License-Identifier: Apache-2.0
// Where forward cuts its tiles of rows when a mask keeps groups of rows apart.
#include <seqprim/attention/detail/cpu/row_groups.hpp>
#include <seqprim/mask/mask.hpp>

#include <cstdint>
#include <support/catch.hpp>
#include <vector>

using namespace seqprim;

namespace {

std::vector<index_t> tile_ends(const auto& m, index_t q_len, index_t k_len) {
  constexpr attention::tile_policy policy{.row_block = 16, .tile_cost = 512};
  std::vector<index_t> ends;
  for (index_t row = 0; row < q_len; row = ends.back()) {
    ends.push_back(attention::detail::first_tile_end(policy, m, {row, q_len}, k_len));
    REQUIRE((ends.back() > row && ends.back() <= q_len));
  }
  return ends;
}

/// A group that ends before its own query.
struct stuck {
  constexpr bool operator()(index_t q, index_t k) const noexcept { return k <= q; }
  constexpr mask::tile_kind classify(range, range) const noexcept { return mask::tile_kind::partial; }
  constexpr mask::row_group group_at(index_t q) const noexcept { return {q - 1, mask::everywhere}; }
};

}  // namespace

TEST_CASE("row groups: tiles of rows end where two sequences are better taken apart", "[attention]") {
  const std::vector<std::int32_t> long_ones = {0, 100, 300, 350}, short_ones = {0, 4, 8, 8, 12};
  std::vector<std::int32_t> single, caches;  // one query each, 500 keys each: a register of queries at a time
  for (int d = 0; d <= 40; ++d) {
    single.push_back(d);
    caches.push_back(500 * d);
  }
  const std::vector<index_t> apart = {100, 300, 350};
  REQUIRE(tile_ends(mask::packed{packing{long_ones, long_ones}, mask::causal{}}, 350, 350) == apart);
  REQUIRE(tile_ends(mask::documents(long_ones) & mask::causal{}, 350, 350) == apart);
  REQUIRE(tile_ends(mask::shifted(mask::documents(long_ones), -7), 360, 350) == std::vector<index_t>{107, 307, 360});
  REQUIRE(tile_ends(mask::packed{packing{short_ones, short_ones}, mask::causal{}}, 12, 12) == std::vector<index_t>{12});
  REQUIRE(tile_ends(mask::packed{packing{single, caches}, mask::causal{}}, 40, 20000) ==
          std::vector<index_t>{16, 32, 40});
  REQUIRE(tile_ends(mask::causal{}, 100, 100) == std::vector<index_t>{100});
}

TEST_CASE("row groups: a mask whose group does not end behind the query cannot stop a kernel", "[attention][edge]") {
  REQUIRE(tile_ends(stuck{}, 40, 40).back() == 40);
  REQUIRE_FALSE(mask::check(stuck{}, 40, 40).ok());
}
