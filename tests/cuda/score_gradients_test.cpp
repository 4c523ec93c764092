// SPDX-License-Identifier: Apache-2.0
// Gradients of what a score learns, as the kernels of the CUDA backward sum them, lane by lane on an emulated block: same text as on
// the device, no GPU.
#include <seqprim/attention/backward.hpp>
#include <seqprim/attention/detail/cuda/backward_block.hpp>
#include <seqprim/attention/detail/cuda/backward_rows.hpp>
#include <seqprim/attention/detail/cuda/sink_block.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/attention/sink_gradient.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/score/score.hpp>

#include <attention/naive_backward.hpp>
#include <attention/problem.hpp>
#include <attention/tables.hpp>
#include <cmath>
#include <limits>
#include <support/catch.hpp>
#include <support/emulated_block.hpp>
#include <vector>

using namespace seqprim;
using attention::softmax;
namespace block = seqprim::attention::detail;
using test::attention_problem;
using test::random_numbers;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// One call: what forward left, and the gradients asked for.
template <class T, int Parameters, bool Table, bool Rows> struct call {
  attention_problem<T> p;
  tensor<T, 4> out, dout;
  tensor<float, 3> lse;
  tensor<float, 4> dq, dk, dv;
  tensor<float, 2> dscore, dtable;
  tensor<float, 3> drow;

  call(const attention_problem<T>& problem, index_t entries, random_numbers& random)
      : p(problem),
        out(p.batch, p.heads, p.q_len, p.value_dim),
        dout(p.batch, p.heads, p.q_len, p.value_dim),
        lse(p.batch, p.heads, p.q_len),
        dq(p.batch, p.heads, p.q_len, p.head_dim),
        dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
        dv(p.batch, p.kv_heads, p.k_len, p.value_dim),
        dscore(p.heads, Parameters),
        dtable(p.heads, entries),
        drow(p.batch, p.heads, p.q_len) {
    random.fill(dout);
    for (auto* x : {&dq, &dk, &dv}) x->fill(std::nanf(""));
    for (auto* x : {&dscore, &dtable}) x->fill(std::nanf(""));
    drow.fill(std::nanf(""));
  }
  [[nodiscard]] block::score_gradients<float, Parameters, Table, Rows> learned() {
    block::score_gradients<float, Parameters, Table, Rows> to;
    if constexpr (Parameters > 0) to.dscore = dscore.view();
    if constexpr (Table) to.dtable = dtable.view();
    if constexpr (Rows) to.drow = drow.view();
    return to;
  }
};

template <class C> std::vector<block::row_statistics> statistics_of(const C& c) {
  std::vector<block::row_statistics> result;
  for (index_t b = 0; b < c.p.batch; ++b)
    for (index_t h = 0; h < c.p.heads; ++h)
      for (index_t i = 0; i < c.p.q_len; ++i) {
        float delta = 0;
        for (index_t d = 0; d < c.p.value_dim; ++d)
          delta += static_cast<float>(c.out(b, h, i, d)) * static_cast<float>(c.dout(b, h, i, d));
        result.push_back(block::row_statistics_of(c.lse(b, h, i), delta));
      }
  return result;
}
template <class Op, class T> block::problem sizes_of(const Op& op, const attention_problem<T>& p) {
  return {p.batch, p.heads, p.kv_heads, p.q_len, p.k_len, p.head_dim, p.value_dim, op.order, {}};
}

/// Sums for every warp that may sum, as a workspace that nobody has cleared.
template <class T> std::vector<double> workspace_for(const attention_problem<T>& p, index_t width) {
  return std::vector<double>(
      static_cast<std::size_t>(p.heads * width * block::summing_warps(p.heads, p.batch * p.q_len, width)),
      std::nan(""));
}
template <class Learned> void join(const Learned& learned, index_t heads) {
  for (index_t n = 0; n < heads * learned.width; ++n) block::join_score_sums(learned, n);
}

/// All kernels of a call on tensor cores. `parts`: blocks for each head, where not as many as the sizes ask for.
template <class Op, class T, int Parameters, bool Table, bool Rows>
void run_blocks(const Op& op, call<T, Parameters, Table, Rows>& c, std::uint32_t seed, index_t parts = 0) {
  using shape = block::backward_shape<64, 64>;
  const auto& p = c.p;
  const auto statistics = statistics_of(c);
  const auto rows = block::in_rows(op, block::starts_of(op, p.q_len, p.k_len));
  const auto sizes = sizes_of(op, p);
  const auto to = c.learned();
  auto sums = workspace_for(p, Parameters + to.dtable.extent(1));
  auto learned = block::learned_in(to, sums.data(), sizes, shape::policy.query_warps, shape::query_tile);
  if (parts > 0) {
    REQUIRE(parts <= learned.parts);
    learned.parts = parts;
    learned.warps = parts * shape::policy.query_warps;
  }
  const block::backward_operands<decltype(rows.mask), decltype(rows.score), T, float, float, float, decltype(learned)>
      in{rows.mask,     rows.score,
         sizes,         static_cast<float>(op.scale_for(p.head_dim)),
         false,         p.q.view(),
         p.k.view(),    p.v.view(),
         c.dout.view(), statistics.data(),
         c.dq.view(),   c.dk.view(),
         c.dv.view(),   learned};
  for (index_t piece = 0; piece < p.batch * p.kv_heads * ceil_div(p.k_len, index_t{shape::key_tile}); ++piece)
    test::emulated_block::run(shape::key_threads / 32, shape::key_shared, seed + static_cast<std::uint32_t>(piece),
                              [&](const test::emulated_engine& engine, std::byte* shared) {
                                block::backward_key_block<shape>(engine, in, piece, shared);
                              });
  for (index_t piece = 0; piece < block::query_blocks(sizes, learned, shape::query_tile); ++piece)
    test::emulated_block::run(shape::query_threads / 32, shape::query_shared_for<decltype(learned)>,
                              seed + static_cast<std::uint32_t>(piece),
                              [&](const test::emulated_engine& engine, std::byte* shared) {
                                block::backward_query_block<shape>(engine, in, piece, shared);
                              });
  join(learned, p.heads);
}

/// All kernels of a call, one warp per row.
template <class Op, class T, int Parameters, bool Table, bool Rows>
void run_rows(const Op& op, call<T, Parameters, Table, Rows>& c, std::uint32_t seed) {
  const auto& p = c.p;
  const auto statistics = statistics_of(c);
  const auto rows = block::in_rows(op, block::starts_of(op, p.q_len, p.k_len));
  const auto sizes = sizes_of(op, p);
  const auto to = c.learned();
  auto sums = workspace_for(p, Parameters + to.dtable.extent(1));
  const auto learned = block::learned_in(to, sums.data(), sizes, block::backward_warps, block::backward_warps);
  const block::backward_rows_operands<decltype(rows.mask), decltype(rows.score), T, T, T, T, float, float, float,
                                      std::remove_const_t<decltype(learned)>>
      in{rows.mask,
         rows.score,
         sizes,
         static_cast<float>(op.scale_for(p.head_dim)),
         p.q.view(),
         p.k.view(),
         p.v.view(),
         c.dout.view(),
         statistics.data(),
         c.dq.view(),
         c.dk.view(),
         c.dv.view(),
         learned};
  const auto shared_bytes = static_cast<std::size_t>(block::backward_warps * (p.head_dim + p.value_dim)) * 4;
  const auto run = [&](index_t blocks, const auto& body) {
    for (index_t piece = 0; piece < blocks; ++piece)
      test::emulated_block::run(block::backward_warps, shared_bytes, seed + static_cast<std::uint32_t>(piece),
                                [&](const test::emulated_engine& engine, std::byte* shared) {
                                  body(engine, piece, reinterpret_cast<float*>(shared));
                                });
  };
  run(p.batch * p.kv_heads * ceil_div(p.k_len, index_t{block::backward_warps}),
      [&](const auto& engine, index_t piece, float* shared) { block::backward_key_rows(engine, in, piece, shared); });
  run(block::query_blocks(sizes, learned, block::backward_warps),
      [&](const auto& engine, index_t piece, float* shared) { block::backward_query_rows(engine, in, piece, shared); });
  join(learned, p.heads);
}

/// Errors of many cases together: one case has a handful of numbers, each a sum with much cancellation.
struct errors {
  double mine = 0, naive = 0;

  template <class A, class B, class C> void add(const A& actual, const B& of_naive, const C& exact) {
    const double size = std::max(1.0, test::largest(exact));
    mine += std::pow(test::distance(actual, exact) / size, 2);
    naive += std::pow(test::distance(of_naive, exact) / size, 2);
  }
  void require_small(double rounding) const {
    REQUIRE(std::isfinite(mine));
    REQUIRE(std::sqrt(mine) <= 2 * std::sqrt(naive) + rounding);
  }
};

/// One case against the definition; the other gradients must be there, too.
template <int Parameters, bool Table, bool Rows, class T, class Op, class Run>
void compare(const Op& op, const attention_problem<T>& p, random_numbers& random, errors& learned, errors& others,
             const Run& run) {
  index_t entries = 0;
  if constexpr (Table) entries = score::bind(op.score, 0, 0).table_size();
  call<T, Parameters, Table, Rows> c(p, entries, random);
  attention::forward(cpu{.threads = 1}, op, p.q, p.k, p.v, c.out, c.lse);
  run(op, c, random.word());
  tensor<double, 4> dq(p.batch, p.heads, p.q_len, p.head_dim), dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
      dv(p.batch, p.kv_heads, p.k_len, p.value_dim);
  tensor<double, 2> dscore(p.heads, Parameters), dtable(p.heads, entries);
  tensor<double, 3> drow(p.batch, p.heads, p.q_len);
  attention::reference::backward(op, p.q, p.k, p.v, c.dout, dq, dk, dv, Parameters > 0 ? &dscore : nullptr,
                                 Table ? &dtable : nullptr, Rows ? &drow : nullptr);
  call<T, Parameters, Table, Rows> naive(p, entries, random);
  for (auto* x : {&naive.dq, &naive.dk, &naive.dv}) x->fill(0);
  for (auto* x : {&naive.dscore, &naive.dtable}) x->fill(0);
  naive.drow.fill(0);
  test::naive_gradients(
      op, p, c.out, c.lse, c.dout, naive.dq, naive.dk, naive.dv,
      {Parameters > 0 ? &naive.dscore : nullptr, Table ? &naive.dtable : nullptr, Rows ? &naive.drow : nullptr});
  if constexpr (Parameters > 0) learned.add(c.dscore, naive.dscore, dscore);
  if constexpr (Table) learned.add(c.dtable, naive.dtable, dtable);
  if constexpr (Rows) learned.add(c.drow, naive.drow, drow);
  others.add(c.dq, naive.dq, dq);
  others.add(c.dk, naive.dk, dk);
  others.add(c.dv, naive.dv, dv);
}

template <class T> attention_problem<T> small_problem(random_numbers& random, index_t longest) {
  const index_t edges[] = {0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129, 150};
  const auto length = [&] { return min(edges[random.integer(0, 13)], longest); };
  const index_t group = random.integer(1, 2), kv_heads = random.integer(1, 2), q_len = length(), k_len = length();
  attention_problem<T> p(random.integer(1, 2), group * kv_heads, kv_heads, q_len, k_len, random.integer(1, 32),
                         random.integer(1, 32));
  p.fill(random);
  return p;
}

/// Every kind of gradient, alone and together.
template <class T, class Run> void agree_with_the_definition(std::uint32_t seed, index_t longest, const Run& run) {
  random_numbers random(seed);
  errors learned, others;
  for (int trial = 0; trial < 18; ++trial) {
    const auto p = small_problem<T>(random, longest);
    CAPTURE(trial, p.batch, p.heads, p.kv_heads, p.q_len, p.k_len, p.head_dim, p.value_dim);
    const index_t start = trial % 2 == 0 ? std::max<index_t>(p.k_len - p.q_len, 0) : random.integer(0, 30);
    const test::score_tables tables(random, p, start);
    tensor<float, 1> slopes(p.heads);
    for (float& slope : slopes) slope = 0.1f * random.uniform();
    const score::alibi_table alibi{.slopes = slopes.view(), .bidirectional = trial % 2 == 0};
    switch (trial % 6) {
      case 0:
        compare<1, false, false>(softmax{mask::causal{}, alibi}.starting_at(start), p, random, learned, others, run);
        break;
      case 1:
        compare<2, false, false>(
            softmax{mask::causal_window(30), score::soft_cap{.cap = 2.0f} | alibi}.starting_at(start).tiled_heads(), p,
            random, learned, others, run);
        break;
      case 2:
        compare<0, true, false>(softmax{mask::full{}, tables.relative_bias()}.starting_at(start).with_sink(0.5f), p,
                                random, learned, others, run);
        break;
      case 3:
        compare<0, true, true>(softmax{mask::full{}, tables.key_bias() | tables.query_scale()}.starting_at(start), p,
                               random, learned, others, run);
        break;
      case 4:
        compare<0, false, true>(
            softmax{mask::causal{} & ~mask::key_range{3, 30}, tables.query_scale()}.starting_at(start), p, random,
            learned, others, run);
        break;
      default:
        compare<1, true, true>(
            softmax{mask::causal{}, tables.query_scale() | tables.relative_bias() | score::soft_cap{.cap = 3.0f}}
                .starting_at(start),
            p, random, learned, others, run);
    }
  }
  learned.require_small(test::rounding<float>);
  others.require_small(test::rounding<T>);
}

/// Entries in no order, repeated, and pairs with none: table_index may only be asked about visible pairs.
struct scattered {
  const float* values;
  index_t q_len, k_len;
  bool* asked_beyond;

  static constexpr bool learns_table = true;
  static constexpr index_t entries = 7;
  template <class X> X operator()(X logit, score::site at) const {
    const index_t entry = entry_of(at);
    return entry < 0 ? logit : logit + static_cast<X>(values[entry]);
  }
  template <class X> X derivative(X, score::site) const { return X{1}; }
  [[nodiscard]] index_t table_size() const { return entries; }
  [[nodiscard]] index_t table_index(score::site at) const {
    *asked_beyond = *asked_beyond || at.k > at.q || at.q >= q_len || at.k >= k_len;
    return entry_of(at);
  }
  [[nodiscard]] static index_t entry_of(score::site at) { return (at.q * 5 + at.k * at.k * 3) % 9 % 8 - 1; }
  template <class X> X table_derivative(X, score::site) const { return X{1}; }
};

}  // namespace

TEST_CASE("score gradients on CUDA blocks: agree with the definition", "[attention][property]") {
  agree_with_the_definition<bfloat16>(701, 150,
                                      [](const auto& op, auto& c, std::uint32_t seed) { run_blocks(op, c, seed); });
}

TEMPLATE_TEST_CASE("score gradients on CUDA rows: agree with the definition", "[attention][property]", float, float16) {
  agree_with_the_definition<TestType>(702, 65,
                                      [](const auto& op, auto& c, std::uint32_t seed) { run_rows(op, c, seed); });
}

TEST_CASE("score gradients on CUDA: a table in any order, asked about visible pairs only", "[attention][property]") {
  random_numbers random(703);
  attention_problem<bfloat16> p(1, 2, 1, 150, 150, 16, 8);
  p.fill(random);
  float values[scattered::entries];
  for (float& x : values) x = random.normal();
  bool asked_beyond = false;
  const auto op = softmax{mask::causal{}, scattered{values, 150, 150, &asked_beyond}}.starting_at(0);
  errors learned, others;
  compare<0, true, false>(op, p, random, learned, others,
                          [](const auto& o, auto& c, std::uint32_t seed) { run_blocks(o, c, seed); });
  compare<0, true, false>(op, p, random, learned, others,
                          [](const auto& o, auto& c, std::uint32_t seed) { run_rows(o, c, seed); });
  learned.require_small(test::rounding<float>);
  REQUIRE(!asked_beyond);
}

TEST_CASE("score gradients on CUDA: a packed batch adds up the sequences", "[attention][property]") {
  random_numbers random(704);
  const index_t offsets[] = {0, 30, 30, 47, 100};
  attention_problem<bfloat16> p(1, 2, 2, 100, 100, 16, 8);
  p.fill(random);
  tensor<float, 2> table(2, 9);
  random.fill(table);
  const packing sequences{{offsets, 5}, {offsets, 5}};
  const auto op = softmax{mask::causal{}, score::relative_bias{table.view(), -8}}.packed(sequences);
  errors learned, others;
  compare<0, true, false>(op, p, random, learned, others,
                          [](const auto& o, auto& c, std::uint32_t seed) { run_blocks(o, c, seed); });
  learned.require_small(test::rounding<float>);
}

TEST_CASE("score gradients on CUDA: same bits in any order of the warps; blocks share rows in any number",
          "[attention][property]") {
  random_numbers random(705);
  attention_problem<bfloat16> p(2, 2, 1, 300, 70, 16, 16);
  p.fill(random);
  const test::score_tables tables(random, p, 0);
  const auto op =
      softmax{mask::full{}, tables.query_scale() | tables.relative_bias() | score::soft_cap{.cap = 3.0f}}.starting_at(
          0);
  call<bfloat16, 1, true, true> first(p, score::bind(op.score, 0, 0).table_size(), random), second = first,
                                                                                            third = first;
  const auto run = [&](auto& c, std::uint32_t seed, index_t parts) {
    attention::forward(cpu{.threads = 1}, op, p.q, p.k, p.v, c.out, c.lse);
    run_blocks(op, c, seed, parts);
  };
  run(first, 1, 2);
  run(second, 99, 2);
  run(third, 1, 5);
  const auto same = [](const auto& a, const auto& b) { return std::equal(a.begin(), a.end(), b.begin()); };
  REQUIRE(same(first.dscore, second.dscore));
  REQUIRE(same(first.dtable, second.dtable));
  REQUIRE(same(first.drow, second.drow));
  REQUIRE(same(first.drow, third.drow));  // a row has one owner
  REQUIRE(same(first.dq, third.dq));
  REQUIRE(test::distance(first.dtable, third.dtable) <= 1e-6 * std::max(1.0, test::largest(first.dtable)));
  REQUIRE(test::distance(first.dscore, third.dscore) <= 1e-6 * std::max(1.0, test::largest(first.dscore)));
}

TEST_CASE("score gradients on CUDA: nothing asked for gives the bits of every gradient asked for", "[attention]") {
  random_numbers random(706);
  attention_problem<bfloat16> p(1, 2, 1, 70, 66, 16, 16);
  p.fill(random);
  const auto op = softmax{mask::causal{}, score::soft_cap{.cap = 2.0f}}.starting_at(0);
  call<bfloat16, 1, false, false> asked(p, 0, random);
  call<bfloat16, 0, false, false> plain(p, 0, random);
  plain.dout = asked.dout;
  attention::forward(cpu{.threads = 1}, op, p.q, p.k, p.v, asked.out, asked.lse);
  plain.out = asked.out;
  plain.lse = asked.lse;
  run_blocks(op, asked, 1);
  using shape = block::backward_shape<64, 64>;
  const auto statistics = statistics_of(plain);
  const auto rows = block::in_rows(op, block::starts_of(op, p.q_len, p.k_len));
  const auto sizes = sizes_of(op, p);
  const block::backward_operands<decltype(rows.mask), decltype(rows.score), bfloat16, float, float, float> in{
      rows.mask,
      rows.score,
      sizes,
      static_cast<float>(op.scale_for(p.head_dim)),
      false,
      p.q.view(),
      p.k.view(),
      p.v.view(),
      plain.dout.view(),
      statistics.data(),
      plain.dq.view(),
      plain.dk.view(),
      plain.dv.view()};
  for (index_t piece = 0; piece < block::query_blocks(sizes, in.learned, shape::query_tile); ++piece)
    test::emulated_block::run(shape::query_threads / 32, shape::query_shared, 7,
                              [&](const test::emulated_engine& engine, std::byte* shared) {
                                block::backward_query_block<shape>(engine, in, piece, shared);
                              });
  REQUIRE(std::equal(asked.dq.begin(), asked.dq.end(), plain.dq.begin()));
}

TEST_CASE("backward on CUDA: rows that see only logits of -inf take no part, whatever dout and q hold there",
          "[attention][edge]") {
  random_numbers random(707);
  attention_problem<bfloat16> p(1, 2, 1, 150, 100, 16, 16);
  p.fill(random);
  // The first 70 keys have a bias of -inf in the second head: its rows 0 to 69 see nothing else.
  tensor<float, 3> bias(1, 2, 100);
  random.fill(bias);
  for (index_t j = 0; j < 70; ++j) bias(0, 1, j) = -infinity;
  const auto op = softmax{mask::causal{}, score::key_bias{bias.view()}}.starting_at(0);
  const auto check = [&](const auto& run) {
    call<bfloat16, 0, true, false> clean(p, 100, random), dirty = clean;
    attention::forward(cpu{.threads = 1}, op, p.q, p.k, p.v, clean.out, clean.lse);
    REQUIRE(clean.lse(0, 1, 69) == -infinity);
    REQUIRE(clean.lse(0, 1, 70) > -infinity);
    dirty.out = clean.out;
    dirty.lse = clean.lse;
    for (index_t i = 0; i < 70; ++i) {
      dirty.dout(0, 1, i, i % 16) = bfloat16(i % 2 == 0 ? std::nanf("") : infinity);
      dirty.p.q(0, 1, i, i % 16) = bfloat16(std::nanf(""));
    }
    run(op, clean, 1u);
    run(op, dirty, 2u);
    const auto same = [](const auto& a, const auto& b) { return std::equal(a.begin(), a.end(), b.begin()); };
    REQUIRE(same(clean.dq, dirty.dq));
    REQUIRE(same(clean.dk, dirty.dk));
    REQUIRE(same(clean.dv, dirty.dv));
    REQUIRE(same(clean.dtable, dirty.dtable));
    for (index_t i = 0; i < 70; ++i) REQUIRE(dirty.dq(0, 1, i, 0) == 0.0f);
  };
  SECTION("blocks") {
    check([](const auto& o, auto& c, std::uint32_t seed) { run_blocks(o, c, seed); });
  }
  SECTION("rows") {
    check([](const auto& o, auto& c, std::uint32_t seed) { run_rows(o, c, seed); });
  }
}

TEST_CASE("score gradients on CUDA: memory is bounded, and every block of warps fits", "[attention]") {
  STATIC_REQUIRE(block::summing_warps(0, 100, 5) == 0);
  STATIC_REQUIRE(block::summing_warps(1, 1, 5) == block::most_summing_warps);
  STATIC_REQUIRE(block::summing_warps(1, 1 << 20, 5) == 4096);
  STATIC_REQUIRE(block::summing_warps(32, 8 * 8192, 1) == 128);
  STATIC_REQUIRE(block::summing_warps(8, 8192, 16384) == 64);
  STATIC_REQUIRE(block::summing_warps(32, 8192, 1 << 20) == block::most_summing_warps);
}

TEST_CASE("sink_gradient on CUDA blocks: agrees with the CPU", "[attention][property]") {
  random_numbers random(708);
  // More rows than warps of a block, and fewer; the first rows see nothing, and one head has no sink.
  for (const index_t q_len : {0, 1, 7, 45}) {
    attention_problem<float> p(2, 3, 1, q_len, 20, 8, 40);
    p.fill(random);
    tensor<float, 1> sinks(3), expected(3), found(3);
    random.fill(sinks);
    sinks(1) = -infinity;
    tensor<float, 4> out(2, 3, q_len, 40), dout(2, 3, q_len, 40);
    tensor<float, 3> lse(2, 3, q_len);
    random.fill(dout);
    const auto op = softmax{mask::causal{}}.starting_at(-3).with_sinks(sinks.view());
    attention::forward(cpu{.threads = 1}, op, p.q, p.k, p.v, out, lse);
    for (index_t i = 0; i < min<index_t>(q_len, 3); ++i) dout(1, 1, i, 0) = std::nanf("");  // lse = -inf
    attention::sink_gradient(cpu{.threads = 1}, op, out, lse, dout, expected);
    for (const bool each : {true, false}) {
      found.fill(std::nanf(""));
      const block::sink_operands<float, float> in{each ? op.sinks : tensor_view<const float, 1>{},
                                                  each ? 7.0f : sinks(0),
                                                  out.view(),
                                                  lse.view(),
                                                  dout.view(),
                                                  found.view()};
      for (index_t h = 0; h < 3; h += each ? 1 : 3)
        test::emulated_block::run(block::sink_warps, block::sink_warps * sizeof(double), static_cast<std::uint32_t>(h),
                                  [&](const test::emulated_engine& engine, std::byte* shared) {
                                    block::sink_block(engine, in, h, reinterpret_cast<double*>(shared));
                                  });
      for (index_t h = 0; h < 3; h += each ? 1 : 3)
        REQUIRE(std::abs(found(h) - expected(h)) <= 2 * test::rounding<float> * std::max(1.0f, std::abs(expected(h))));
    }
  }
}
