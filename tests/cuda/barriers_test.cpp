// SPDX-License-Identifier: Apache-2.0
// Every barrier, wait and commit of the tensor-core blocks is left out once, on the emulated block: something must notice.
#include <seqprim/attention/detail/cuda/append_block.hpp>
#include <seqprim/attention/detail/cuda/backward_block.hpp>
#include <seqprim/attention/detail/cuda/backward_rows.hpp>
#include <seqprim/attention/detail/cuda/decode_block.hpp>
#include <seqprim/attention/detail/cuda/forward_block.hpp>
#include <seqprim/attention/detail/cuda/sink_block.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/position/detail/cuda/encode_block.hpp>
#include <seqprim/position/position.hpp>
#include <seqprim/score/score.hpp>

#include <attention/problem.hpp>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <set>
#include <string>
#include <support/catch.hpp>
#include <support/emulated_block.hpp>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

using namespace seqprim;
namespace block = attention::detail;
using test::attention_problem;
using test::barrier_site;
using test::barrier_sites;

namespace {

using T = bfloat16;
using numbers = std::vector<float>;

/// A problem that some blocks solve, and what they write.
struct trial {
  const char* name;
  std::function<numbers()> run;
  bool plain_stores = false;  // functors write to shared memory
  numbers expected = {};
  std::set<barrier_site> sites = {};
};

template <class... Tensors> numbers numbers_of(const Tensors&... tensors) {
  numbers all;
  (all.insert(all.end(), tensors.begin(), tensors.end()), ...);
  return all;
}

attention_problem<T> problem_of(index_t heads, index_t kv_heads, index_t q_len, index_t k_len, index_t dim) {
  test::random_numbers random(801);
  attention_problem<T> p(1, heads, kv_heads, q_len, k_len, dim, dim);
  p.fill(random);
  return p;
}
template <class Op> block::problem sizes_of(const Op& op, const attention_problem<T>& p) {
  return {p.batch, p.heads, p.kv_heads, p.q_len, p.k_len, p.head_dim, p.value_dim, op.order, {}};
}
template <class Op> auto in_rows(const Op& op, const attention_problem<T>& p) {
  return block::in_rows(op, block::starts_of(op, p.q_len, p.k_len));
}

template <class Shape, class Op> numbers run_forward(const Op& op, const attention_problem<T>& p) {
  tensor<float, 4> out(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> lse(p.batch, p.heads, p.q_len);
  out.fill(77.0f);
  lse.fill(77.0f);
  using view = tensor_view<const T, 4>;
  const auto call = block::make_forward_call(in_rows(op, p), sizes_of(op, p), view(p.q.view()), view(p.k.view()),
                                             view(p.v.view()), out.view(), lse.view());
  for (index_t n = 0; n < block::forward_blocks<Shape>(call.p); ++n)
    test::emulated_block::run(
        Shape::warps, Shape::shared_bytes, static_cast<std::uint32_t>(n),
        [&](const auto& engine, std::byte* shared) { block::forward_block<Shape>(engine, call, shared); });
  return numbers_of(out, lse);
}

/// What forward leaves for backward, any numbers of their size, and the gradients.
struct backward_data {
  tensor<T, 4> dout;
  std::vector<block::row_statistics> statistics;
  tensor<float, 4> dq, dk, dv;

  explicit backward_data(const attention_problem<T>& p)
      : dout(p.batch, p.heads, p.q_len, p.value_dim),
        dq(p.batch, p.heads, p.q_len, p.head_dim),
        dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
        dv(p.batch, p.kv_heads, p.k_len, p.value_dim) {
    test::random_numbers random(802);
    random.fill(dout);
    for (index_t row = 0; row < p.heads * p.q_len; ++row)
      statistics.push_back(block::row_statistics_of(3.0f + random.uniform(), random.uniform()));
    for (auto* x : {&dq, &dk, &dv}) x->fill(77.0f);
  }
};

/// A block for each piece of [0, pieces).
template <class Body> void run_blocks(index_t pieces, int threads, int shared_bytes, const Body& body) {
  for (index_t piece = 0; piece < pieces; ++piece)
    test::emulated_block::run(threads / 32, static_cast<std::size_t>(shared_bytes), static_cast<std::uint32_t>(piece),
                              [&](const auto& engine, std::byte* shared) { body(engine, piece, shared); });
}

template <class Shape, class Op, class Learned = block::nothing_learned>
numbers run_backward(const Op& op, const attention_problem<T>& p, bool wide, const Learned& learned = {}) {
  backward_data data(p);
  const auto rows = in_rows(op, p);
  const block::backward_operands<decltype(rows.mask), decltype(rows.score), T, float, float, float, Learned> in{
      rows.mask,
      rows.score,
      sizes_of(op, p),
      static_cast<float>(op.scale_for(p.head_dim)),
      wide,
      p.q.view(),
      p.k.view(),
      p.v.view(),
      data.dout.view(),
      data.statistics.data(),
      data.dq.view(),
      data.dk.view(),
      data.dv.view(),
      learned};
  run_blocks(p.kv_heads * ceil_div(p.k_len, Shape::key_tile), Shape::key_threads, Shape::key_shared,
             [&](const auto& engine, index_t piece, std::byte* shared) {
               block::backward_key_block<Shape>(engine, in, piece, shared);
             });
  run_blocks(block::query_blocks(in.sizes, learned, Shape::query_tile), Shape::query_threads,
             Shape::template query_shared_for<Learned>, [&](const auto& engine, index_t piece, std::byte* shared) {
               block::backward_query_block<Shape>(engine, in, piece, shared);
             });
  return numbers_of(data.dq, data.dk, data.dv);
}
/// One warp for each row.
template <class Op, class Learned>
numbers run_backward_rows(const Op& op, const attention_problem<T>& p, const Learned& learned) {
  backward_data data(p);
  const auto rows = in_rows(op, p);
  const block::backward_rows_operands<decltype(rows.mask), decltype(rows.score), T, T, T, T, float, float, float,
                                      Learned>
      in{rows.mask,
         rows.score,
         sizes_of(op, p),
         static_cast<float>(op.scale_for(p.head_dim)),
         p.q.view(),
         p.k.view(),
         p.v.view(),
         data.dout.view(),
         data.statistics.data(),
         data.dq.view(),
         data.dk.view(),
         data.dv.view(),
         learned};
  const int threads = block::backward_warps * 32,
            shared_bytes = block::backward_warps * static_cast<int>(p.head_dim + p.value_dim) * 4;
  run_blocks(p.kv_heads * ceil_div(p.k_len, index_t{block::backward_warps}), threads, shared_bytes,
             [&](const auto& engine, index_t piece, std::byte* shared) {
               block::backward_key_rows(engine, in, piece, reinterpret_cast<float*>(shared));
             });
  run_blocks(block::query_blocks(in.sizes, learned, block::backward_warps), threads, shared_bytes,
             [&](const auto& engine, index_t piece, std::byte* shared) {
               block::backward_query_rows(engine, in, piece, reinterpret_cast<float*>(shared));
             });
  return numbers_of(data.dq, data.dk, data.dv);
}

/// Gradients of a parameter too, and of a table; one block owns all rows of a head. `run(op, what is learned)` is one of the above.
template <bool Table, class Run>
numbers run_learning(const attention_problem<T>& p, int block_warps, index_t block_rows, const Run& run) {
  constexpr index_t entries = 41;
  test::random_numbers random(805);
  tensor<float, 2> table(p.heads, entries), dscore(p.heads, 1), dtable(p.heads, entries);
  random.fill(table);
  dscore.fill(77.0f);
  dtable.fill(77.0f);
  const auto op = attention::softmax{mask::full{}, score::relative_bias{table.view(), -20} | score::soft_cap{.cap = 3}};
  block::score_gradients<float, 1, Table, false> to;
  to.dscore = dscore.view();
  if (Table) to.dtable = dtable.view();
  const index_t width = 1 + to.dtable.extent(1);
  std::vector<double> sums(static_cast<std::size_t>(p.heads * width * block::summing_warps(p.heads, p.q_len, width)),
                           std::nan(""));
  auto learned = block::learned_in(to, sums.data(), sizes_of(op, p), block_warps, block_rows);
  learned.parts = 1;
  learned.warps = block_warps;
  numbers all = run(op, learned);
  for (index_t n = 0; n < p.heads * width; ++n) block::join_score_sums(learned, n);
  const numbers of_score = numbers_of(dscore, dtable);
  all.insert(all.end(), of_score.begin(), of_score.end());
  return all;
}

numbers run_sinks() {
  constexpr index_t heads = 3, rows = 45, dim = 40;
  test::random_numbers random(806);
  tensor<float, 4> out(1, heads, rows, dim), dout(1, heads, rows, dim);
  tensor<float, 3> lse(1, heads, rows);
  tensor<float, 1> sinks(heads), dsinks(heads);
  random.fill(out);
  random.fill(dout);
  random.fill(lse);
  random.fill(sinks);
  dsinks.fill(77.0f);
  const block::sink_operands<float, float> in{sinks.view(), 0, out.view(), lse.view(), dout.view(), dsinks.view()};
  run_blocks(heads, block::sink_warps * 32, block::sink_warps * 8,
             [&](const auto& engine, index_t h, std::byte* shared) {
               block::sink_block(engine, in, h, reinterpret_cast<double*>(shared));
             });
  return numbers_of(dsinks);
}

template <int Keys> struct splits_of {
  static constexpr int split_keys(index_t) noexcept { return Keys; }
};

/// The merge of every row, after `blocks(call)`. Workspace full of NaN.
template <class Policy, class Op, class Cache, class Blocks>
numbers run_decode(const Op& op, const attention_problem<T>& p, const Cache& k, const Cache& v, const Blocks& blocks) {
  tensor<float, 4> out(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> lse(p.batch, p.heads, p.q_len);
  out.fill(77.0f);
  lse.fill(77.0f);
  const index_t rows = p.heads * p.q_len, splits = block::most_decode_splits<Policy>(p.k_len);
  tensor<float, 1> parts(rows * splits * (p.value_dim + 1));
  parts.fill(std::nanf(""));
  const auto operation = in_rows(op, p);
  const block::decode_call<std::remove_const_t<decltype(operation)>, T, float, Cache, Cache> call{
      operation,
      sizes_of(op, p),
      static_cast<float>(op.scale_for(p.head_dim)),
      tensor_view<const T, 4>(p.q.view()),
      k,
      v,
      out.view(),
      lse.view(),
      parts.data(),
      parts.data() + rows * splits * p.value_dim,
      static_cast<std::uint32_t>(splits),
      true,
      true,
      true,
      true};
  blocks(call, parts);
  for (index_t row = 0; row < rows; ++row)
    test::emulated_block::run(
        block::merge_shape::warps, block::merge_shape::shared_bytes, static_cast<std::uint32_t>(row),
        [&](const auto& engine, std::byte* shared) { block::merge_parts<Policy>(engine, call, shared); });
  return numbers_of(out, lse);
}
template <class Shape, class Cache> numbers run_decode(const attention_problem<T>& p, const Cache& k, const Cache& v) {
  return run_decode<splits_of<64>>(attention::softmax{}, p, k, v, [&](const auto& call, const auto&) {
    for (index_t n = 0; n < block::decode_blocks<Shape>(call.p, call.splits); ++n)
      test::emulated_block::run(Shape::warps, block::decode_shared_bytes<Shape, Cache>, static_cast<std::uint32_t>(n),
                                [&](const auto& engine, std::byte* shared) {
                                  block::decode_block<Shape, splits_of<64>>(engine, call, shared);
                                });
  });
}
using rows_cache = block::cache_of_rows<tensor_view<const T, 4>>;
template <class Shape> numbers run_decode(const attention_problem<T>& p) {
  return run_decode<Shape>(p, rows_cache{tensor_view<const T, 4>(p.k.view())},
                           rows_cache{tensor_view<const T, 4>(p.v.view())});
}
/// The same numbers as pages of 10 rows, in order.
template <class Shape> numbers run_paged_decode(const attention_problem<T>& p) {
  constexpr index_t page_size = 10;
  const index_t pages = p.k_len / page_size;
  tensor<std::int32_t, 2> entries(1, pages);
  for (index_t n = 0; n < pages; ++n) entries(0, n) = static_cast<std::int32_t>(n);
  const attention::page_table table(entries, index_array(&p.k_len, 1));
  const auto cache = [&](const tensor<T, 4>& rows) {
    const index_t dim = rows.extent(3);
    return block::cache_of_pages<tensor_view<const T, 4>>{
        {rows.data(), {pages, p.kv_heads, page_size, dim}, {page_size * dim, p.k_len * dim, dim, 1}}, table};
  };
  return run_decode<Shape>(p, cache(p.k), cache(p.v));
}
/// Parts of any numbers, more than the lanes of a warp, and more channels than lanes.
numbers run_merge(const attention_problem<T>& p) {
  const rows_cache k{tensor_view<const T, 4>(p.k.view())};
  return run_decode<splits_of<4>>(attention::softmax{}, p, k, k, [](const auto&, auto& parts) {
    test::random_numbers random(803);
    random.fill(parts);
  });
}

/// Keys, encoded and rounded to int8: what a cache holds then.
numbers run_append(index_t heads, index_t len) {
  using namespace position::detail;
  constexpr index_t dim = 24;
  test::random_numbers random(804);
  tensor<T, 4> k(1, heads, len, dim);
  random.fill(k);
  tensor<std::int8_t, 4> codes(1, heads, len, dim);
  tensor<float, 4> scales(1, heads, len, 2);
  codes.fill(77);
  scales.fill(77.0f);
  const auto cache = block::writable(attention::quantized(codes, scales));
  const auto starts = [](index_t) { return index_t{0}; };
  const auto call = make_encode_call(
      block::subject_of<block::entry::append>, position::for_head_dim(position::rotary<position::half_split>{}, dim),
      position::side::key, position::sequential{}, dense_tokens{1, len}, dim, tensor_view<const T, 4>(k.view()),
      block::results_in(cache.store, block::places_of(cache, starts), true));
  for (index_t n = 0; n < call.blocks(); ++n)
    test::emulated_block::run(
        encode_warps, call.tile.shared_bytes, static_cast<std::uint32_t>(n),
        [&](const auto& engine, std::byte* shared) { encode_block<direction::forward>(engine, call, shared); });
  return numbers_of(codes, scales);
}

struct small_backward {
  template <class Engine, int HeadDim, int ValueDim>
  static constexpr attention::backward_block_policy choose() noexcept {
    return {2, 1, 16, 2, 1, 16};
  }
};

/// What differs from the expected numbers; empty when nothing does.
std::string difference(const numbers& found, const numbers& expected) {
  std::size_t wrong = 0, nans = 0;
  for (std::size_t n = 0; n < expected.size(); ++n)
    if (bit_cast<std::uint32_t>(found[n]) != bit_cast<std::uint32_t>(expected[n])) {
      ++wrong;
      nans += found[n] != found[n];
    }
  if (wrong == 0) return {};
  return std::to_string(wrong) + " of " + std::to_string(expected.size()) + " numbers wrong, " + std::to_string(nans) +
         " of them NaN";
}

/// What notices that a site is left out. In a process of its own: poison may be read as an index.
std::string notice(const trial& t) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  std::fflush(stdout);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    for (const int n : {SIGSEGV, SIGBUS, SIGFPE, SIGABRT}) std::signal(n, SIG_DFL);  // not the test framework's
    alarm(60);
    std::string text;
    try {
      text = difference(t.run(), t.expected);
    } catch (const std::logic_error& error) {
      text = error.what();
    }
    _exit(write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 1);
  }
  close(ends[1]);
  std::string text;
  char letters[256];
  for (ssize_t count = 0; (count = read(ends[0], letters, sizeof letters)) > 0;)
    text.append(letters, static_cast<std::size_t>(count));
  close(ends[0]);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  if (WIFSIGNALED(status)) return std::string("the process ends with a signal: ") + strsignal(WTERMSIG(status));
  if (WEXITSTATUS(status) != 0)
    return "the process ends with status " + std::to_string(WEXITSTATUS(status));  // sanitizer
  return text;
}

}  // namespace

TEST_CASE("cuda barriers: every one that is left out is noticed", "[attention][cuda][property]") {
  using two_stages = block::block_shape<T, 64, 64, 32, 32, 4, 2>;      // two warps share the keys of 16 rows
  using three_stages = block::block_shape<T, 128, 128, 16, 16, 1, 3>;  // queries are read again for each tile
  using small_shape = block::backward_shape<32, 32, void, small_backward>;
  // Neither the first queries nor the last keys belong to a pair.
  const auto causal = attention::softmax{mask::causal{}}.starting_at(-35);
  const auto forward = problem_of(2, 1, 70, 150, 64), deep = problem_of(1, 1, 20, 70, 128),
             decode = problem_of(6, 2, 3, 150, 64), merge = problem_of(4, 1, 1, 300, 200),
             backward = problem_of(4, 2, 70, 70, 32), learning = problem_of(2, 1, 70, 50, 32);
  std::vector<trial> trials{
      {"forward", [&] { return run_forward<two_stages>(attention::softmax{}, forward); }},
      {"forward, three stages", [&] { return run_forward<three_stages>(attention::softmax{}, deep); }},
      {"decode", [&] { return run_decode<two_stages>(decode); }},
      {"decode of pages", [&] { return run_paged_decode<two_stages>(decode); }},
      {"merge of 75 parts", [&] { return run_merge(merge); }},
      {"append", [] { return run_append(8, 40); }, true},
      // Fewer rows than lanes, so that lanes round rows that others have encoded.
      {"append of few rows", [] { return run_append(3, 10); }, true},
      {"backward", [&] { return run_backward<small_shape>(causal, backward, true); }},
      {"backward, rows not aligned", [&] { return run_backward<small_shape>(causal, backward, false); }},
      {"backward with a table",
       [&] {
         return run_learning<true>(learning, small_shape::policy.query_warps, small_shape::query_tile,
                                   [&](const auto& op, const auto& learned) {
                                     return run_backward<small_shape>(op, learning, true, learned);
                                   });
       }},
      {"backward with a table, by rows",
       [&] {
         return run_learning<true>(
             learning, block::backward_warps, block::backward_warps,
             [&](const auto& op, const auto& learned) { return run_backward_rows(op, learning, learned); });
       }},
      {"backward with a parameter, by rows",
       [&] {
         return run_learning<false>(
             learning, block::backward_warps, block::backward_warps,
             [&](const auto& op, const auto& learned) { return run_backward_rows(op, learning, learned); });
       }},
      {"sinks", run_sinks},
  };

  std::set<barrier_site> sites;
  for (trial& t : trials) {
    barrier_sites::met.clear();
    const std::size_t plain_bytes = test::emulated_block::plain_bytes;
    t.expected = t.run();
    REQUIRE((test::emulated_block::plain_bytes != plain_bytes) == t.plain_stores);
    t.sites = barrier_sites::met;
    sites.insert(t.sites.begin(), t.sites.end());
    CAPTURE(t.name);
    for (const float x : t.expected) REQUIRE(std::isfinite(x));
    REQUIRE(difference(t.run(), t.expected).empty());
  }
  for (const barrier_site& site : sites) {
    std::string by, how;
    barrier_sites::left_out = site;
    for (const trial& t : trials) {
      const std::string what = t.sites.count(site) == 0 ? std::string{} : notice(t);
      if (what.empty()) continue;
      by += (by.empty() ? "" : "; ") + std::string(t.name);
      if (how.empty()) how = what;
    }
    barrier_sites::left_out.reset();
    const std::string file(site.file.substr(site.file.rfind('/') + 1)), call(site.call);
    std::printf("%-20s %4d  %-13s  %s (%s)\n", file.c_str(), site.line, call.c_str(),
                how.empty() ? "NOT NOTICED" : how.c_str(), by.c_str());
    CAPTURE(file, site.line, call);
    CHECK(!how.empty());
  }
}
