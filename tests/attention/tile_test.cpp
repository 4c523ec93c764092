// SPDX-License-Identifier: Apache-2.0
#include <seqprim/attention/detail/cpu/logits.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/score/score.hpp>

#include <cmath>
#include <limits>
#include <support/catch.hpp>
#include <support/random.hpp>
#include <vector>

using namespace seqprim;
using attention::detail::columns_are;

namespace {

using isa = arch::native_isa;

/// Hides in a tile of ones and compares each number with the mask's own answer.
template <columns_are Columns, class Mask> void require_hidden(const Mask& mask, range rows, range columns) {
  const index_t step = round_up(columns.size(), 16);
  std::vector<float> tile(static_cast<std::size_t>(rows.size() * step), 1.0f);
  attention::detail::apply_mask<isa, float, Columns>(mask, rows, columns, tile.data(), step, -7.0f);
  for (index_t i = 0; i < rows.size(); ++i)
    for (index_t j = 0; j < columns.size(); ++j) {
      const index_t row = rows.begin + i, column = columns.begin + j;
      const bool visible = Columns == columns_are::queries ? mask(column, row) : mask(row, column);
      CAPTURE(row, column);
      REQUIRE(tile[static_cast<std::size_t>(i * step + j)] == (visible ? 1.0f : -7.0f));
    }
}

template <class Mask> void require_hidden(const Mask& mask) {
  test::random_numbers random(17);
  for (int trial = 0; trial < 12; ++trial) {
    const index_t row = random.integer(0, 100), column = random.integer(0, 100);
    const range rows{row, row + random.integer(1, 40)}, columns{column, column + random.integer(1, 40)};
    require_hidden<columns_are::queries>(mask, rows, columns);
    require_hidden<columns_are::keys>(mask, rows, columns);
  }
}

/// A modifier that only takes one number at a time.
struct bare {
  float operator()(float logit, score::site at) const { return logit + 0.25f * static_cast<float>(at.q - 2 * at.k); }
  float derivative(float logit, score::site) const { return 1.0f + logit; }
};
static_assert(score::modifier<bare> && !score::takes_lanes<bare, arch::lanes<isa, float>>);

/// A modifier that reads arrays by key, by query and by distance.
struct reads_arrays {
  const float *of_key, *of_query, *by_distance, *by_some_distance;
  range held;  // distances of the last

  template <class X, class Site = score::site> X operator()(X logit, Site at) const {
    return logit * derivative(logit, at) + at.template by_distance<X>(by_distance);
  }
  template <class X, class Site = score::site> X derivative(X, Site at) const {
    return at.template of_key<X>(of_key) + X(2.0f) * at.template of_query<X>(of_query) +
           X(4.0f) * at.template by_distance<X>(by_some_distance, held);
  }
};
static_assert(score::takes_lanes<reads_arrays, arch::lanes<isa, float>>);

/// A tile of logits modified at once, against the modifier asked for each logit alone, where `visible(q, k)`.
template <columns_are Columns, class Score, class Visible = mask::full>
void require_modified(const Score& score, range rows = {40, 47}, range columns = {11, 44},
                      const Visible& visible = {}) {
  test::random_numbers random(18);
  const index_t step = round_up(columns.size(), 16);
  std::vector<float> raw(static_cast<std::size_t>(rows.size() * step));
  for (float& x : raw) x = 20.0f * random.normal();
  std::vector<float> tile = raw, gradient(raw.size(), 2.0f);
  attention::detail::modify<isa, Columns>(score, 0.5f, rows, columns, tile.data(), step);
  attention::detail::multiply_by_derivative<isa, Columns>(score, rows, columns, raw.data(), gradient.data(), step);
  for (index_t i = 0; i < rows.size(); ++i)
    for (index_t j = 0; j < columns.size(); ++j) {
      const auto at = static_cast<std::size_t>(i * step + j);
      const auto site = attention::detail::site_of<Columns>(rows.begin + i, columns.begin + j);
      if (!visible(site.q, site.k)) continue;
      // The same formula with and without contraction: a few roundings of the largest number in it (an ALiBi bias, the logit).
      const float expected = score(0.5f * raw[at], site) * static_cast<float>(attention::detail::log2_e);
      REQUIRE(std::fabs(tile[at] - expected) <= 1e-5f * std::fmax(1.0f, std::fabs(expected)));
      REQUIRE(gradient[at] == Approx(2.0f * score.derivative(raw[at], site)).epsilon(1e-5).margin(1e-30));
    }
}

template <class Score> void require_modified(const Score& score) {
  require_modified<columns_are::queries>(score);
  require_modified<columns_are::keys>(score);
}

/// The entries [of.begin, of.end) of an array and no more: the address sanitizer sees a read beside them.
struct entries_of {
  std::vector<float> values;
  const float* at_zero;

  entries_of(range of, test::random_numbers& random)
      : values(static_cast<std::size_t>(of.size())), at_zero(values.data() - of.begin) {
    for (float& x : values) x = random.normal();
  }
};

}  // namespace

TEST_CASE("hide: leaves what the mask shows and nothing else, for runs, compositions and bare rules",
          "[attention][property]") {
  index_t ends[] = {0, 17, 17 + 30, 150};
  tensor<bool, 2> visible(150, 150);
  test::random_numbers random(19);
  for (bool& x : visible) x = random.integer(0, 1) == 1;
  require_hidden(mask::full{});
  require_hidden(mask::shifted(mask::causal{}, -3));
  require_hidden(mask::shifted(mask::causal_window(9), 4));
  require_hidden(mask::documents({ends, 4}) & mask::causal{});
  require_hidden(mask::shifted(mask::attention_sinks{.sinks = 5, .window = 12}, 7));
  require_hidden(mask::attention_sinks{.sinks = 0, .window = mask::unlimited});
  require_hidden(mask::dense{visible.view()});
  require_hidden(~mask::dense{visible.view()} | mask::causal_window(3));
  require_hidden((mask::attention_sinks{.sinks = 40, .window = 6} | mask::key_range{60, 70}) &
                 ~mask::shifted(mask::causal{}, -30));
}

TEST_CASE("modify: many logits at once give what one gives, for every kind of modifier", "[attention][property]") {
  require_modified(score::soft_cap{.cap = 7.0f});
  require_modified(score::shifted(score::distance_bias{.slope = 0.3f}, 5));
  require_modified(score::shifted(score::distance_bias{.slope = 0.3f, .bidirectional = true}, 5));
  require_modified(score::soft_cap{.cap = 7.0f} | score::distance_bias{.slope = 0.3f});
  require_modified(bare{});
  require_modified(bare{} | score::soft_cap{.cap = 100.0f});
}

TEST_CASE("modify: arrays are read for the pairs of the tile and no others", "[attention][property]") {
  test::random_numbers random(20);
  for (int trial = 0; trial < 40; ++trial) {
    const index_t q = random.integer(0, 60), k = random.integer(0, 60);
    const range queries{q, q + random.integer(1, 40)}, keys{k, k + random.integer(1, 40)};
    const range distances{keys.begin - queries.end + 1, keys.end - queries.begin};
    // Some distances of the tile, none of them, more than all.
    const index_t least = distances.begin + random.integer(-30, 50);
    const range held{least, least + random.integer(1, 60)};
    const entries_of of_key(keys, random), of_query(queries, random), by_distance(distances, random),
        some(held, random);
    const reads_arrays score{of_key.at_zero, of_query.at_zero, by_distance.at_zero, some.at_zero + held.begin, held};
    CAPTURE(queries.begin, queries.end, keys.begin, keys.end, held.begin, held.end);
    require_modified<columns_are::queries>(score, keys, queries);
    require_modified<columns_are::keys>(score, queries, keys);
    // The same entries, counted from where the rows of a call begin.
    const index_t start = random.integer(-5, 5);
    const auto moved = score::shifted(score, -start);
    require_modified<columns_are::queries>(moved, keys, {queries.begin + start, queries.end + start});
    require_modified<columns_are::keys>(moved, {queries.begin + start, queries.end + start}, keys);
  }
}

TEST_CASE("modify: packed sequences in lanes, whose tables end where a sequence ends", "[attention][property]") {
  test::random_numbers random(21);
  for (int trial = 0; trial < 40; ++trial) {
    std::vector<index_t> q_offsets = {0}, k_offsets = {0};
    index_t longest = 0;
    while (q_offsets.back() < 60 || k_offsets.back() < 60) {
      const index_t queries = random.integer(0, trial % 2 == 0 ? 9 : 40), more = random.integer(0, 12);
      q_offsets.push_back(q_offsets.back() + queries);
      k_offsets.push_back(k_offsets.back() + queries + more);
      longest = std::max(longest, queries + more);
    }
    const packing sequences{q_offsets, k_offsets};
    const entries_of of_key({0, longest}, random), of_query({0, longest}, random),
        by_distance({1 - longest, longest}, random);
    const reads_arrays inner{of_key.at_zero,
                             of_query.at_zero,
                             by_distance.at_zero,
                             by_distance.at_zero + (1 - longest),
                             {1 - longest, longest}};
    const score::packed score{sequences, inner};
    static_assert(score::takes_lanes<decltype(score), arch::lanes<isa, float>> || arch::simd<isa, float>::lanes == 1);
    score::validate(score, {.q_len = q_offsets.back(), .k_len = k_offsets.back()});
    const mask::packed visible{sequences, mask::full{}};
    const range queries{random.integer(0, 20), random.integer(21, q_offsets.back())},
        keys{random.integer(0, 20), random.integer(21, k_offsets.back())};
    require_modified<columns_are::queries>(score, keys, queries, visible);
    require_modified<columns_are::keys>(score, queries, keys, visible);
  }
}

TEST_CASE("modify: NaN stays NaN, infinities become the cap", "[attention][edge]") {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const score::soft_cap cap{.cap = 7.0f};
  std::vector<float> tile(16, 0.0f), gradient(16, 2.0f);
  tile[3] = std::numeric_limits<float>::quiet_NaN();
  tile[5] = infinity;
  tile[6] = -infinity;
  const std::vector<float> raw = tile;
  attention::detail::modify<isa, columns_are::keys>(cap, 0.5f, {0, 1}, {0, 16}, tile.data(), 16);
  attention::detail::multiply_by_derivative<isa, columns_are::keys>(cap, {0, 1}, {0, 16}, raw.data(), gradient.data(),
                                                                    16);
  const float top = 7.0f * static_cast<float>(attention::detail::log2_e);
  for (std::size_t j = 0; j < 16; ++j) {
    CAPTURE(j);
    REQUIRE(std::isnan(tile[j]) == (j == 3));
    REQUIRE(std::isnan(gradient[j]) == (j == 3));
    if (j != 3) REQUIRE(tile[j] == (j == 5 ? top : j == 6 ? -top : 0.0f));
    if (j == 5 || j == 6) REQUIRE(std::fabs(gradient[j]) <= 1e-30f);
  }
}
