// SPDX-License-Identifier: Apache-2.0
// What a mask or a score costs beyond its tiles: each composition in a duel with the plain causal mask.
//
// `x_of_causal` is time / time of causal, divided by visited tiles / tiles that causal visits: 1 where the composition costs
// nothing. The first group visits exactly the tiles of causal, so that nothing is divided out.
#include <seqprim/score/score.hpp>

#include <string>
#include <support/attention.hpp>
#include <utility>
#include <vector>

using namespace seqprim;
using namespace seqprim::mask::operators;
using namespace seqprim::score::operators;

namespace {

constexpr index_t length = 4096;
constexpr std::int64_t one_document[] = {0, length};
constexpr std::int64_t eight_documents[] = {0, 300, 1000, 1100, 1900, 2500, 2501, 3600, length};
constexpr std::int64_t no_prefix[] = {0};
constexpr std::int64_t eight_prefixes[] = {100, 301, 1100, 1164, 2000, 2501, 3000, 3600};
constexpr std::int64_t whole_row[] = {length};

constexpr auto whole = mask::documents({one_document, 2});
constexpr auto packed = mask::documents({eight_documents, 9});

/// Masks that borrow more than a few offsets.
const tensor<bool, 2>& causal_matrix() {
  static const tensor<bool, 2> matrix = [] {
    tensor<bool, 2> m(length, length);
    for (index_t i = 0; i < length; ++i)
      for (index_t j = 0; j < length; ++j) m(i, j) = j <= i;
    return m;
  }();
  return matrix;
}
const mask::block_grid& causal_grid() {
  constexpr auto policy = attention::default_policy::choose<arch::native_isa>();
  static const mask::block_grid grid(cpu{}, mask::causal{}, length, length, policy.q_tile, policy.k_tile);
  return grid;
}

template <class T, class Op> void run(benchmark::State& state, const Op& op) {
  const index_t dim = state.range(1);
  bench::attention_inputs<T> in(1, 1, length, length, dim);
  const auto tiles = bench::tiles_of(op.mask, length, length);
  const auto causal_tiles = bench::tiles_of(mask::causal{}, length, length);
  const auto result = bench::run_duel(
      state, "x_of_causal", [&] { in.forward(op); }, [&] { in.forward(attention::softmax{mask::causal{}}); });
  state.counters["x_of_causal"] =
      result.ratio * static_cast<double>(causal_tiles.visited()) / static_cast<double>(tiles.visited());
  state.counters["tiles"] = static_cast<double>(tiles.visited());
  state.counters["partial_tiles"] = static_cast<double>(tiles.partial);
  bench::report_flop<T>(state, bench::forward_flop(dim) * bench::visible_pairs(op.mask, length, length),
                        result.seconds);
}

template <class T, class Op> void add_for(const std::string& name, const char* type, const Op& op) {
  benchmark::RegisterBenchmark((name + "<" + type + ">").c_str(), [op](benchmark::State& state) { run<T>(state, op); })
      ->ArgNames({"seq", "dim"})
      ->Args({length, 128})
      ->Apply(bench::duel_settings);
}

template <class Mask, class Score = score::identity>
void add(const std::string& name, const Mask& mask, const Score& score = {}) {
  const attention::softmax op{mask, score};
  add_for<float>(name, "float", op);
  add_for<bfloat16>(name, "bfloat16", op);
}

[[maybe_unused]] const bool registered = [] {
  const mask::causal causal{};
  // The tiles of causal.
  add("same_tiles_causal", causal);  // the noise of the measurement
  add("same_tiles_prefix_0", mask::prefix{.length = 0});
  add("same_tiles_document_and_causal", whole & causal);
  add("same_tiles_packed_prefix", mask::packed_prefix({one_document, 2}, {no_prefix, 1}));
  add("same_tiles_window_of_all", mask::causal_window(length));
  add("same_tiles_sinks_window_of_all", mask::attention_sinks{.sinks = 4, .window = length});
  add("same_tiles_padding_and_causal", mask::key_padding{.lengths = {whole_row, 1}, .k_len = length} & causal);
  add("same_tiles_causal_or_window", causal | mask::causal_window(1024));
  add("same_tiles_not_future", ~(~causal));
  add("same_tiles_causal_and_not_nothing", causal & ~mask::key_range{.begin = 0, .end = 0});
  add("same_tiles_dense", mask::dense{.visible = causal_matrix().view()});
  add("same_tiles_block_map", causal_grid().over(causal));
  // Other tiles, compared tile by tile. More of them are on a boundary.
  add("per_tile_documents_and_causal", packed & causal);
  add("per_tile_documents", packed);
  add("per_tile_packed_prefix", mask::packed_prefix({eight_documents, 9}, {eight_prefixes, 8}));
  add("per_tile_prefix", mask::prefix{.length = 1024});
  add("per_tile_window", mask::causal_window(1024));
  add("per_tile_two_sided_window", mask::sliding_window{.left = 512, .right = 512});
  add("per_tile_sinks", mask::attention_sinks{.sinks = 4, .window = 1024});
  add("per_tile_window_or_document", (mask::causal_window(512) | packed) & causal);
  // Scores, over causal and over a composition.
  const score::soft_cap cap{.cap = 50.0f};
  const score::alibi alibi{.heads = 1};
  add("score_soft_cap", causal, cap);
  add("score_alibi", causal, alibi);
  add("score_soft_cap_then_alibi", causal, cap | alibi);
  add("score_soft_cap_documents", whole & causal, cap);
  add("score_alibi_sinks", mask::attention_sinks{.sinks = 4, .window = length}, alibi);
  return true;
}();

}  // namespace
