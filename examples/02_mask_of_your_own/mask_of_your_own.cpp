// SPDX-License-Identifier: Apache-2.0
//
// A mask of your own: write it, check it, measure what it saves, compose it, use it.
//
// Shapes   q, k, v, out [batch, heads, len, head_dim]
//
// Only public headers; no data; under a second.
#include <seqprim/attention/forward.hpp>
#include <seqprim/core/core.hpp>
#include <seqprim/mask/mask.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

using namespace seqprim;

// 1. Write it. ---------------------------------------------------------------------------------------------------------
//
// A local mask that remembers landmarks: a query attends to its own block, and to every `stride`-th key of the past. A mask
// has two rules: one for a pair, one for a tile of pairs. The second may say `partial` whenever it is not sure; `empty` and
// `full` are promises.

// example-begin landmarks
struct landmarks {
  index_t block;   // length of a block [tokens]
  index_t stride;  // distance of the landmarks [tokens]

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept {
    return k <= q && (k / block == q / block || k % stride == 0);
  }

  SEQPRIM_HD constexpr mask::tile_kind classify(range q, range k) const noexcept {
    const index_t last_q = q.end - 1, last_k = k.end - 1;
    if (k.begin > last_q) return mask::tile_kind::empty;  // all keys lie in the future of all queries
    const bool has_landmark = round_up(k.begin, stride) <= last_k;
    const bool has_own_block = last_k / block >= q.begin / block;
    if (!has_landmark && !has_own_block) return mask::tile_kind::empty;
    const bool all_past = last_k <= q.begin;
    if (all_past && k.begin / block == last_q / block) return mask::tile_kind::full;
    return mask::tile_kind::partial;
  }
};
static_assert(mask::rule<landmarks>);
// example-end landmarks

// A common mistake: a tile rule that forgot a part of the pair rule.
struct forgetful : landmarks {
  SEQPRIM_HD constexpr mask::tile_kind classify(range q, range k) const noexcept {
    if (k.begin > q.end - 1 || (k.end - 1) / block < q.begin / block) return mask::tile_kind::empty;  // the landmarks!
    return mask::tile_kind::partial;
  }
};

// What attention means, written out for one query, to compare with.
template <class Mask>
double largest_difference(const Mask& mask, const tensor<float, 4>& q, const tensor<float, 4>& k,
                          const tensor<float, 4>& v, const tensor<float, 4>& out) {
  double worst = 0;
  const index_t len = q.extent(2), dim = q.extent(3);
  for (index_t h = 0; h < q.extent(1); ++h)
    for (index_t i = 0; i < len; ++i) {
      std::vector<double> sum(static_cast<std::size_t>(dim));
      double weights = 0;
      for (index_t j = 0; j < len; ++j) {
        if (!mask(i, j)) continue;
        double logit = 0;
        for (index_t d = 0; d < dim; ++d) logit += double{q(0, h, i, d)} * double{k(0, h, j, d)};
        const double weight = std::exp(logit / std::sqrt(double(dim)));
        weights += weight;
        for (index_t d = 0; d < dim; ++d) sum[static_cast<std::size_t>(d)] += weight * double{v(0, h, j, d)};
      }
      for (index_t d = 0; d < dim; ++d)
        worst = std::fmax(worst, std::fabs(sum[static_cast<std::size_t>(d)] / weights - double{out(0, h, i, d)}));
    }
  return worst;
}

int main() {
  const landmarks mine{.block = 48, .stride = 8};

  // 2. Let the library check it: tiles, runs and bounds against the pair rule, by brute force, on lengths that are not
  // multiples of anything. A loose tile costs speed; a wrong one would cost correctness, and is named.
  // example-begin check
  const mask::check_report report = mask::check(mine, 97, 131);
  std::printf("landmarks   %s\n", report.summary().c_str());
  // example-end check
  const mask::check_report mistake = mask::check(forgetful{mine}, 97, 131);
  std::printf("forgetful   %s\n\n", mistake.summary().c_str());

  // 3. See what it saves: kernels do no work for empty tiles and no test per pair in full ones.
  const index_t len = 1536, tile = 16;
  const auto show = [&](const char* name, const mask::tile_counts& c) {
    std::printf("%-28s %5lld empty %5lld partial %5lld full: %3.0f %% of the tiles are visited\n", name,
                static_cast<long long>(c.empty), static_cast<long long>(c.partial), static_cast<long long>(c.full),
                100.0 * static_cast<double>(c.visited()) / static_cast<double>(c.total()));
  };
  std::printf("%lld x %lld pairs in tiles of %lld x %lld\n", static_cast<long long>(len), static_cast<long long>(len),
              static_cast<long long>(tile), static_cast<long long>(tile));
  show("causal", mask::count_tiles(mask::causal{}, len, len, tile, tile));
  show("landmarks {48, 8}", mask::count_tiles(mine, len, len, tile, tile));
  const landmarks sparse{.block = 48, .stride = 96};  // most tiles of the past hold no landmark
  show("landmarks {48, 96}", mask::count_tiles(sparse, len, len, tile, tile));

  // 4. Compose it: the same rule inside each of several packed documents.
  // example-begin compose
  const std::vector<index_t> offsets = {0, 200, 201, 700, 1536};
  const auto packed = sparse & mask::documents(offsets);
  // example-end compose
  const mask::tile_counts packed_tiles = mask::count_tiles(packed, len, len, tile, tile);
  show("landmarks & documents", packed_tiles);
  const mask::check_report composed = mask::check(packed, len, len);

  // 5. Use it, like any mask of the library.
  tensor<float, 4> q(1, 2, len, 32), k(1, 2, len, 32), v(1, 2, len, 32), out(1, 2, len, 32);
  const random_stream random{.seed = 2};
  std::uint32_t drawn = 0;
  for (auto* t : {&q, &k, &v})
    for (float& x : *t) x = 2.0f * uniform_open(random.word(random_domain::caller, drawn++)) - 1.0f;
  attention::forward(cpu{}, attention::softmax{packed}, q, k, v, out);
  const double difference = largest_difference(packed, q, k, v, out);
  std::printf("\nattention through it differs from the definition by %.1e\n", difference);

  const bool right = report.ok() && !mistake.ok() && composed.ok() && difference < 1e-5 &&
                     packed_tiles.visited() < mask::count_tiles(sparse, len, len, tile, tile).visited();
  std::printf("%s\n", right ? "all as expected" : "SOMETHING IS WRONG");
  return right ? 0 : 1;
}
