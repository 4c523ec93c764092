// SPDX-License-Identifier: Apache-2.0
#include <seqprim/mask/labels.hpp>

#include <array>
#include <cstdint>
#include <support/catch.hpp>
#include <support/random.hpp>
#include <vector>

using namespace seqprim;

namespace {

/// bounds(), walk() and tokens() of a label map against its labels, for every range of `all`.
template <class L> void require_label_map(const L& label, range all) {
  for (index_t begin = all.begin; begin < all.end; ++begin) {
    index_t least = label(begin), largest = least;
    for (index_t end = begin + 1; end <= all.end; ++end) {
      const range tokens{begin, end};
      const auto walk = mask::walk(label, tokens);
      least = min_of(least, label(end - 1));
      largest = max_of(largest, label(end - 1));
      CAPTURE(begin, end);
      REQUIRE(label.bounds(tokens) == range{least, largest + 1});
      REQUIRE(walk(tokens.size() - 1) == label(end - 1));
    }
  }
  if constexpr (mask::ordered_labels<L>) {
    const range labels{label(all.begin), label(all.end - 1) + 1};
    for (index_t low = labels.begin; low < labels.end; ++low)
      for (index_t high = low; high <= labels.end; ++high)
        for (index_t i = all.begin; i < all.end; ++i)
          REQUIRE(label.tokens({low, high}).contains(i) == (low <= label(i) && label(i) < high));
  }
}

std::vector<std::int32_t> random_labels(index_t count, std::uint64_t seed) {
  test::random_numbers random(seed);
  std::vector<std::int32_t> result;
  for (index_t i = 0; i < count; ++i) result.push_back(static_cast<std::int32_t>(random.integer(-20, 20)));
  return result;
}

}  // namespace

TEST_CASE("labels: computed labels have exact bounds and the same labels one by one, at any integer",
          "[mask][property]") {
  require_label_map(mask::own{}, {-9, 30});
  require_label_map(mask::shifted_by{-4}, {-9, 30});
  const auto n = GENERATE(as<index_t>{}, 1, 2, 3, 7, 40, 1000);
  CAPTURE(n);
  require_label_map(mask::blocks_of{n}, {-19, 40});
  require_label_map(mask::residue_of{n}, {-19, 40});
}

TEST_CASE("labels: walking needs no division up to 2^19 tokens and for blocks of any size", "[mask][property]") {
  constexpr index_t last = (index_t{1} << 19) - 1;
  for (const index_t size :
       {index_t{1}, index_t{3}, index_t{640}, index_t{65537}, last, last + 1, last + 2, index_t{1} << 40})
    for (const index_t begin : {index_t{0}, index_t{-5}, size - 1, 3 * size - 2, index_t{1} << 45}) {
      const mask::blocks_of blocks{size};
      const auto walk = mask::walk(blocks, {begin, begin + last + 1});
      bool same = true;
      for (const index_t i : {index_t{0}, index_t{1}, size - 1, size, size + 1, last / 2, last - 1, last})
        same = same && (i > last || walk(i) == blocks(begin + i));
      CAPTURE(size, begin);
      REQUIRE(same);
    }
}

TEST_CASE("labels: residues restart where the next block begins", "[mask]") {
  const mask::residue_of residue{5};
  REQUIRE(residue.restart({3, 7}) == 5);
  REQUIRE(residue.restart({-2, 2}) == 0);
  REQUIRE(residue.restart({5, 9}) == 9);
  REQUIRE(residue.restart({3, 9}) == 9);  // all residues: one range holds them
}

TEST_CASE("labels: bounds of stored labels are exact on every range, also where groups of 32 end", "[mask][property]") {
  const auto values = random_labels(131, 5);
  const mask::labels owner(values);
  const mask::label_view view = owner.row();
  for (std::size_t i = 0; i < values.size(); ++i) REQUIRE(view(static_cast<index_t>(i)) == values[i]);
  require_label_map(view, {0, 131});
}

TEST_CASE("labels: grown labels are the labels of the whole sequence, for rows of unequal length", "[mask][property]") {
  const auto values = random_labels(150, 6);
  mask::labels grown(3);
  for (index_t i = 0; i < 150; ++i) {
    for (index_t b = 0; b < 3; ++b)
      if (i < 150 - 40 * b) grown.push_back(b, values[static_cast<std::size_t>(i)] + b);
    if (i % 37 != 0) continue;
    const mask::label_view row = grown.row(1);
    const index_t count = min_of<index_t>(i + 1, 110);
    REQUIRE(row.count == count);
    index_t least = row(0);
    for (index_t j = 0; j < count; ++j) least = min_of(least, row(j));
    REQUIRE(row.bounds({0, count}).begin == least);
  }
  REQUIRE(grown.batch() == 3);
  REQUIRE(grown.rows().labeled() == range{0, 70});
  for (index_t b = 0; b < 3; ++b) {
    const mask::label_view row = grown.rows().bind(b, 0);
    REQUIRE(row.count == 150 - 40 * b);
    REQUIRE(grown.size(b) == row.count);
    require_label_map(row, {0, row.count});
    for (index_t i = 0; i < row.count; ++i) REQUIRE(row(i) == values[static_cast<std::size_t>(i)] + b);
  }
}

TEST_CASE("labels: a copy of the storage serves as well as the owner", "[mask]") {
  tensor<std::int64_t, 2> values(2, 45);
  for (index_t i = 0; i < values.size(); ++i) values.data()[i] = 3 * i % 17 - 4;
  const mask::labels owner(values);
  const auto storage = owner.storage();
  std::vector<std::int32_t> copy(storage.data,
                                 storage.data + storage.size());  // on a device: one copy of so many bytes
  const mask::label_rows rows = owner.rows_in(copy.data());
  REQUIRE_FALSE(rows.host_readable);
  for (index_t b = 0; b < 2; ++b) {
    const mask::label_view here = owner.row(b), there = rows.bind(b, 7);
    REQUIRE(there.count == 45);
    REQUIRE(there.values != here.values);
    for (index_t i = 0; i < 45; ++i) REQUIRE(there(i) == values(b, i));
    REQUIRE(there.bounds({1, 44}) == here.bounds({1, 44}));
  }
}

TEST_CASE("labels: one row serves every batch row", "[mask]") {
  const std::array<std::int32_t, 3> values = {4, 2, 9};
  const mask::labels owner(values);
  REQUIRE(owner.rows().bind(5, 0)(2) == 9);
  owner.rows().validate(6);
}

TEST_CASE("labels: rejects labels that do not fit, rows that do not exist and wrong sizes", "[mask][errors]") {
  mask::labels owner(2);
  owner.push_back(0, (index_t{1} << 30) - 1);
  owner.push_back(0, -(index_t{1} << 30));
  REQUIRE_THROWS_WITH(owner.push_back(0, index_t{1} << 30),
                      "mask::labels: label 1073741824 of batch row 0, token 2, must be in [-2^30, 2^30). See "
                      "docs/reference/mask/labels.md");
  REQUIRE_THROWS_WITH(owner.push_back(2, 0), ContainsSubstring("there is no batch row 2 of 2"));
  REQUIRE(owner.size(0) == 2);
  REQUIRE_THROWS_AS(mask::labels(0), precondition_error);
  REQUIRE_THROWS_AS(mask::labels(1, -1), precondition_error);
  REQUIRE_THROWS_WITH(owner.rows().validate(3), ContainsSubstring("2 rows of labels for 3 batch rows"));
  REQUIRE_THROWS_WITH(mask::blocks_of{0}.validate(), ContainsSubstring("mask::blocks_of: size (0) must be >= 1"));
  REQUIRE_THROWS_WITH(mask::residue_of{0}.validate(), ContainsSubstring("mask::residue_of: modulus (0) must be in"));
  REQUIRE_THROWS_AS(mask::residue_of{index_t{1} << 30}.validate(), precondition_error);
}
