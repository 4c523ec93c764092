// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/block_map.hpp>
#include <seqprim/mask/by_label.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/mask/dense.hpp>
#include <seqprim/mask/documents.hpp>
#include <seqprim/mask/full.hpp>
#include <seqprim/mask/key_padding.hpp>
#include <seqprim/mask/next_cut.hpp>
#include <seqprim/mask/prefix.hpp>
#include <seqprim/mask/row_ranges.hpp>
#include <seqprim/mask/sliding_window.hpp>
#include <seqprim/mask/where.hpp>

#include <support/catch.hpp>
#include <support/random.hpp>
#include <vector>

using namespace seqprim;

namespace {

/// The definition: the first c >= from such that no query in [start, c) attends to a key in [c, k_len).
template <class M> index_t definition(const M& m, const mask::shape& p, index_t from) {
  for (index_t c = from; c < p.k_len; ++c) {
    bool may_cut = true;
    for (index_t q = p.start; q < min_of(c, p.start + p.q_len); ++q)
      for (index_t k = c; k < p.k_len; ++k)
        for (index_t b = 0; b < p.batch; ++b) may_cut = may_cut && !mask::bind(m, b, 0)(q, k);
    if (may_cut) return c;
  }
  return p.k_len;
}

template <class M> void require_definition(const M& m, index_t n, index_t batch = 1) {
  for (const index_t k_len : {n, n - 1, n / 2})
    for (const index_t start : {index_t{0}, n / 5})
      for (const index_t q_len : {k_len - start, k_len / 3})
        for (index_t from = start; from <= k_len; from += 3) {
          CAPTURE(k_len, start, q_len, from);
          const mask::shape problem{batch, 1, q_len, k_len, start};
          REQUIRE(mask::next_cut(m, problem, from) == definition(m, problem, from));
        }
}

/// A mask as the contract requires it at least: no hint.
struct bare_causal {
  bool operator()(index_t q, index_t k) const { return k <= q; }
  mask::tile_kind classify(range q, range k) const { return mask::causal{}.classify(q, k); }
};

}  // namespace

TEST_CASE("next_cut: finds what the definition finds, for masks with hints and without", "[mask][property]") {
  require_definition(mask::causal{}, 40);
  require_definition(mask::full{}, 40);
  require_definition(mask::causal_window(3), 40);
  require_definition(mask::sliding_window{.left = 5, .right = 2}, 40);
  require_definition(mask::prefix{.length = 23}, 40);
  require_definition(bare_causal{}, 150);
  require_definition(mask::where{[](index_t q, index_t k) { return k <= q; }}, 40);
  require_definition(mask::where{[](index_t q, index_t k) { return k / 7 <= q / 7; }}, 40);
  require_definition(~mask::causal{}, 40);
  require_definition(mask::causal{} | mask::sliding_window{.left = 0, .right = 3}, 40);
  require_definition(mask::causal{} & mask::where{[](index_t q, index_t k) { return (q + k) % 3 != 0; }}, 40);
  const std::vector<index_t> offsets{0, 7, 20, 21, 40};
  require_definition(mask::documents(offsets), 40);
  require_definition(mask::documents(offsets) & mask::prefix{.length = 25}, 40);
  require_definition(mask::by_label{mask::causal{}, mask::blocks_of{.size = 6}, mask::blocks_of{.size = 6}}, 40);
  test::random_numbers random(61);
  std::vector<index_t> begin(40), end(40);
  for (std::size_t q = 0; q < 40; ++q) {
    begin[q] = random.integer(0, 39);
    end[q] = min_of<index_t>(static_cast<index_t>(q) + random.integer(-3, 4), 40);
  }
  require_definition(mask::row_ranges{begin, end}, 40);
  tensor<bool, 2> pairs(40, 40);
  for (index_t q = 0; q < 40; ++q)
    for (index_t k = 0; k < 40; ++k) pairs(q, k) = k <= q + 3 && random.integer(0, 3) == 0;
  require_definition(mask::dense{pairs.view()}, 40);
  const std::vector<index_t> lengths{13, 0, 30};
  require_definition(mask::prefix_per_batch{lengths}, 40, 3);
  require_definition(mask::sliding_window{.left = 9, .right = 1} & mask::prefix_per_batch{lengths}, 40, 3);
}

TEST_CASE("next_cut: two batch rows that disagree are cut where both may be", "[mask]") {
  // Row 0 may be cut at even positions, row 1 at multiples of 3.
  const index_t sizes[] = {2, 3};
  struct blocks {
    const index_t* size;
    auto bind(index_t batch, index_t) const {
      const index_t n = size[batch];
      return mask::where{[n](index_t q, index_t k) { return k / n <= q / n; }};
    }
  };
  const mask::shape problem{2, 1, 20, 20, 0};
  REQUIRE(mask::next_cut(blocks{sizes}, problem, 1) == 6);
  REQUIRE(mask::next_cut(blocks{sizes}, problem, 6) == 6);
  REQUIRE(mask::next_cut(blocks{sizes}, problem, 13) == 18);
  REQUIRE(mask::next_cut(blocks{sizes}, problem, 19) == 20);
}

TEST_CASE("next_cut: a table is not read behind its end", "[mask]") {
  tensor<bool, 2> pairs(4, 6);
  pairs.fill(true);
  REQUIRE(mask::next_cut(mask::dense{pairs.view()}, {1, 1, 20, 20, 0}, 1) == 6);
  REQUIRE(mask::next_cut(mask::where{[](index_t, index_t) { return true; }, {.queries = {3, 5}, .keys = {0, 9}}},
                         {1, 1, 20, 20, 0}, 1) == 1);
}
