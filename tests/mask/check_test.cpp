// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/check.hpp>
#include <seqprim/mask/documents.hpp>
#include <seqprim/mask/key_padding.hpp>
#include <seqprim/mask/sliding_window.hpp>
#include <seqprim/mask/where.hpp>

#include <array>
#include <cstdint>
#include <support/catch.hpp>
#include <vector>

using namespace seqprim;

namespace {

/// Causal with one answer broken, to see that the checker sees it.
enum class fault {
  none,
  full,
  empty,
  range,
  order,
  key_bounds,
  query_bounds,
  below_zero,
  composition,
  part,
  group_keys,
  group_end
};

template <fault Fault> struct faulty {
  static constexpr bool ordered = true;
  index_t bad = 20;  ///< the row, or the column, where it goes wrong

  constexpr bool operator()(index_t q, index_t k) const noexcept {
    if (Fault == fault::order && q == bad) return false;
    return k <= q;
  }
  constexpr mask::tile_kind classify(range q, range k) const noexcept {
    if (Fault == fault::full && q.begin == bad && k.end == bad + 2) return mask::tile_kind::full;
    if (Fault == fault::empty && k.begin == bad && k.end == bad + 1) return mask::tile_kind::empty;
    if (Fault == fault::order) return mask::tile_kind::partial;
    if (Fault == fault::below_zero && q.begin < 0) return mask::tile_kind::full;
    return mask::causal{}.classify(q, k);
  }
  constexpr range visible_keys(index_t q) const noexcept requires(Fault == fault::range || Fault == fault::order) {
    if (Fault == fault::range && q == bad) return {0, q};
    if (Fault == fault::order && q == bad) return {0, 0};
    return {0, q + 1};
  }
  constexpr range key_bounds(range q, index_t) const noexcept {
    return {0, q.end - (Fault == fault::key_bounds && q.end > bad ? 1 : 0)};
  }
  constexpr range query_bounds(range k, index_t q_len) const noexcept {
    return {k.begin + (Fault == fault::query_bounds && k.begin >= bad ? 1 : 0), q_len};
  }
  constexpr auto composition() const noexcept requires(Fault == fault::composition) {
    return mask::causal{} & ~mask::key_range{bad, bad + 1};
  }
  /// Right pair by pair, but a part has a wrong hint.
  constexpr auto composition() const noexcept requires(Fault == fault::part) {
    return mask::both<mask::causal, mask::inverse<faulty<fault::empty>>>{{}, {{bad}}} |
           mask::both<mask::causal, faulty<fault::empty>>{{}, {bad}};
  }
  constexpr mask::row_group group_at(index_t q) const noexcept
      requires(Fault == fault::group_keys || Fault == fault::group_end) {
    if (Fault == fault::group_end) return {q == bad ? q : q + 1, {0, q + 1}};
    return {q < bad ? bad : mask::unlimited, {0, bad}};
  }
};

template <fault Fault> mask::check_report checked() { return mask::check(faulty<Fault>{}, 33, 41); }

}  // namespace

TEST_CASE("check: finds nothing wrong or loose in a mask that is right", "[mask]") {
  const mask::check_report report = checked<fault::none>();
  REQUIRE(report.ok());
  REQUIRE(report.exact());
  REQUIRE(report.tiles > 4000);
  REQUIRE_THAT(report.summary(), ContainsSubstring("0 wrong answers, 0 loose tiles"));
}

TEST_CASE("check: names the tile and the pair where a mask claims too much", "[mask]") {
  const mask::check_report full = checked<fault::full>();
  REQUIRE_FALSE(full.ok());
  REQUIRE_THAT(full.summary(), ContainsSubstring("says full but query 20 does not attend to key 21"));
  const mask::check_report empty = checked<fault::empty>();
  REQUIRE_FALSE(empty.ok());
  REQUIRE_THAT(empty.first_wrong, ContainsSubstring("says empty but query 20 attends to key 20"));
}

TEST_CASE("check: finds wrong ranges, ranges out of order, and bounds that are too small", "[mask]") {
  REQUIRE_THAT(checked<fault::range>().first_wrong,
               ContainsSubstring("visible_keys(20) is [0, 20) but query 20 attends to key 20"));
  REQUIRE_THAT(
      checked<fault::order>().first_wrong,
      ContainsSubstring("visible_keys(20) is [0, 0) after [0, 20): the ends of ordered ranges must never decrease"));
  REQUIRE_THAT(checked<fault::key_bounds>().first_wrong,
               ContainsSubstring("key_bounds(q [20, 21)) is [0, 20) but query 20"));
  REQUIRE_THAT(checked<fault::query_bounds>().first_wrong,
               ContainsSubstring("query_bounds(k [20, 21)) is [21, 33) but query 20 attends to key 20"));
}

TEST_CASE("check: asks about queries below position 0", "[mask]") {
  REQUIRE_THAT(checked<fault::below_zero>().first_wrong, ContainsSubstring("says full but query -"));
}

TEST_CASE("check: compares a composition pair by pair, and the hints of its parts", "[mask]") {
  REQUIRE_THAT(checked<fault::composition>().first_wrong,
               ContainsSubstring("composition() hides key 20 but query 20 attends to it"));
  REQUIRE_THAT(checked<fault::part>().first_wrong, ContainsSubstring("of a part"));
  const auto parts = mask::causal_window(9) | faulty<fault::range>{};
  REQUIRE_THAT(mask::check(parts, 33, 41).first_wrong,
               ContainsSubstring("visible_keys(20) of a part is [0, 20) but query 20 attends to key 20"));
}

TEST_CASE("check: finds groups of queries that do not end behind the query, or miss keys", "[mask]") {
  REQUIRE_THAT(checked<fault::group_end>().first_wrong,
               ContainsSubstring("group_at(20) ends at 20, which must be behind the query"));
  REQUIRE_THAT(checked<fault::group_keys>().first_wrong,
               ContainsSubstring("group_at(20) has queries [20, 33) and keys [0, 20) but query 20 attends to key 20"));
  // Kernels advance whatever a mask says.
  REQUIRE(mask::group_at(faulty<fault::group_end>{}, 20).end == 21);
}

TEST_CASE("check: lists the hints that a mask gives, and those that it lacks", "[mask]") {
  const std::vector<std::int32_t> offsets = {0, 9, 41};
  REQUIRE(mask::check(mask::causal{}, 33, 41).hints == "visible_keys (ordered), key_bounds, query_bounds");
  REQUIRE(mask::check(mask::causal{}, 33, 41).missing == "group_at");
  REQUIRE(mask::check(mask::documents(offsets), 41, 41).hints ==
          "visible_keys (ordered), key_bounds, query_bounds, group_at");
  const auto bare = mask::check(mask::where{[](index_t q, index_t k) { return k <= q; }}, 33, 41);
  REQUIRE(bare.missing == "visible_keys, visible_labels, composition, key_bounds, query_bounds, group_at");
  REQUIRE_THAT(bare.summary(), ContainsSubstring("; without: visible_keys"));
  REQUIRE_THAT(mask::check(mask::causal{} | mask::key_range{0, 3}, 33, 41).hints, ContainsSubstring("composition"));
}

TEST_CASE("check: counts loose tiles without calling them wrong", "[mask]") {
  const mask::check_report report = mask::check(mask::where{[](index_t q, index_t k) { return k <= q; }}, 33, 41);
  REQUIRE(report.ok());
  REQUIRE_FALSE(report.exact());
  REQUIRE(report.loose > 0);
  REQUIRE_THAT(report.summary(), ContainsSubstring("says partial but the tile is"));
}

TEST_CASE("check: asks masks that depend on batch or head for each of them", "[mask]") {
  const std::array<std::int32_t, 2> lengths = {41, 7};
  const auto m = mask::key_padding{.lengths = lengths, .k_len = 41} & faulty<fault::empty>{};
  const mask::check_report report = mask::check(m, {.batch = 2, .heads = 3, .q_len = 33, .k_len = 41});
  REQUIRE_FALSE(report.ok());
  REQUIRE_THAT(report.first_wrong, ContainsSubstring("of batch row 0, head 0 says empty"));
  const auto one = mask::check(mask::key_padding{.lengths = lengths, .k_len = 41},
                               {.batch = 1, .heads = 1, .q_len = 33, .k_len = 41});
  const auto six = mask::check(mask::key_padding{.lengths = lengths, .k_len = 41},
                               {.batch = 2, .heads = 3, .q_len = 33, .k_len = 41});
  REQUIRE(six.tiles == 6 * one.tiles);
}

TEST_CASE("check: an empty problem is vacuously right", "[mask]") {
  REQUIRE(mask::check(mask::causal{}, 0, 5).ok());
  REQUIRE(mask::check(mask::causal{}, 5, 0).tiles == 0);
}

TEST_CASE("check: rejects negative lengths and broken masks", "[mask][errors]") {
  REQUIRE_THROWS_AS(mask::check(mask::causal{}, -1, 5), precondition_error);
  REQUIRE_THROWS_AS(mask::check(mask::causal{}, 5, -1), precondition_error);
  const std::array<std::int32_t, 2> lengths = {41, 7};
  REQUIRE_THROWS_AS(mask::check(mask::key_padding{.lengths = lengths, .k_len = 40}, 5, 40), precondition_error);
}
