// SPDX-License-Identifier: Apache-2.0
// The CUDA decode kernels on an emulated block of lanes: blocks, splits, pages and the merge of parts, against the definition in
// double.
#include <seqprim/attention/decode.hpp>
#include <seqprim/attention/detail/cuda/decode_block.hpp>
#include <seqprim/attention/tuning.cuh>
#include <seqprim/mask/mask.hpp>
#include <seqprim/score/score.hpp>

#include <algorithm>
#include <attention/problem.hpp>
#include <cstring>
#include <support/catch.hpp>
#include <support/emulated_block.hpp>
#include <vector>

using namespace seqprim;
using attention::detail::block_shape;
using test::attention_problem;
using test::random_numbers;

namespace {

template <class T> using small = block_shape<T, 64, 64, 32, 32, 2, 2>;
template <class T> using deep = block_shape<T, 64, 64, 16, 16, 1, 3>;         // three stages
template <class T> using shared_keys = block_shape<T, 64, 64, 16, 64, 4, 2>;  // four warps share the keys

/// Splits of one size.
template <int Keys> struct splits_of {
  static constexpr int split_keys(index_t) noexcept { return Keys; }
};
/// Longer sequences have larger splits, and some have fewer than a shorter one.
struct growing_splits {
  static constexpr int split_keys(index_t k_len) noexcept { return k_len <= 100 ? 32 : k_len <= 200 ? 64 : 192; }
};

template <class T> struct results {
  tensor<T, 4> out;
  tensor<float, 3> lse;
  tensor<float, 4> parts;  // [rows, splits, 1, value_dim + 1], the last of which is lse
};

template <class Policy, class Call> void run_merge(const Call& call, index_t row) {
  using attention::detail::merge_shape;
  test::emulated_block::run(
      merge_shape::warps, merge_shape::shared_bytes, static_cast<std::uint32_t>(row),
      [&](const auto& engine, std::byte* shared) { attention::detail::merge_parts<Policy>(engine, call, shared); });
}

/// The kernels of decode on emulated blocks; workspace full of NaN.
template <class Shape, class Policy, class Op, class T, class Keys, class Values>
results<T> decode(const Op& op, const attention::detail::problem& p, const tensor_view<const T, 4>& q, const Keys& k,
                  const Values& v) {
  using namespace attention::detail;
  const index_t rows = p.batch * p.heads * p.q_len, splits = most_decode_splits<Policy>(p.k_len);
  results<T> r{tensor<T, 4>(p.batch, p.heads, p.q_len, p.value_dim), tensor<float, 3>(p.batch, p.heads, p.q_len),
               tensor<float, 4>(rows, splits, 1, p.value_dim + 1)};
  r.out.fill(T(77.0f));
  r.lse.fill(77.0f);
  tensor<float, 1> parts(rows * splits * (p.value_dim + 1) + 1);
  parts.fill(std::nanf(""));
  const decode_call<Op, T, T, Keys, Values> call{op,
                                                 p,
                                                 static_cast<float>(op.scale_for(p.head_dim)),
                                                 q,
                                                 k,
                                                 v,
                                                 r.out.view(),
                                                 r.lse.view(),
                                                 parts.data(),
                                                 parts.data() + rows * splits * p.value_dim,
                                                 static_cast<std::uint32_t>(splits),
                                                 rows_are_aligned(q),
                                                 loads_are_wide(k.store),
                                                 loads_are_wide(v.store),
                                                 rows_are_aligned(r.out.view())};
  for (index_t block = 0; block < decode_blocks<Shape>(p, splits); ++block)
    test::emulated_block::run(
        Shape::warps, decode_shared_bytes<Shape, Keys>, static_cast<std::uint32_t>(block),
        [&](const auto& engine, std::byte* shared) { decode_block<Shape, Policy>(engine, call, shared); });
  if (splits > 1)
    for (index_t row = 0; row < rows; ++row) run_merge<Policy>(call, row);
  for (index_t n = 0; n < rows * splits; ++n) {
    for (index_t d = 0; d < p.value_dim; ++d) r.parts(n / splits, n % splits, 0, d) = parts(n * p.value_dim + d);
    r.parts(n / splits, n % splits, 0, p.value_dim) = parts(rows * splits * p.value_dim + n);
  }
  return r;
}

template <class T> attention::detail::problem problem_of(const attention_problem<T>& p, attention::head_order order) {
  return {p.batch, p.heads, p.kv_heads, p.q_len, p.k_len, p.head_dim, p.value_dim, order, {}};
}

template <class Shape, class Policy, class T, class Op>
results<T> decode_dense(const Op& op, const attention_problem<T>& p) {
  using cache = attention::detail::cache_of_rows<tensor_view<const T, 4>>;
  const auto rows = attention::detail::in_rows(op, attention::detail::starts_of(op, p.q_len, p.k_len));
  return decode<Shape, Policy>(rows, problem_of(p, op.order), tensor_view<const T, 4>(p.q.view()),
                               cache{tensor_view<const T, 4>(p.k.view())}, cache{tensor_view<const T, 4>(p.v.view())});
}

template <class Shape, class Policy, class T, class Op>
void require_close_decode(const Op& op, const attention_problem<T>& p) {
  const results<T> r = decode_dense<Shape, Policy>(op, p);
  tensor<double, 4> exact(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<double, 3> exact_lse(p.batch, p.heads, p.q_len);
  attention::reference::forward(op, p.q, p.k, p.v, exact, exact_lse);
  tensor<float, 4> naive(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> naive_lse(p.batch, p.heads, p.q_len);
  test::naive_forward(op, p, naive, naive_lse);
  const double size = std::max(1.0, test::largest(exact)), lse_size = std::max(1.0, test::largest(exact_lse));
  CAPTURE(p.batch, p.heads, p.kv_heads, p.q_len, p.k_len, p.head_dim, p.value_dim);
  REQUIRE(test::distance(r.out, exact) <=
          2 * test::distance(naive, exact) + 2 * (test::rounding<T> + test::rounding<float>)*size);
  REQUIRE(test::distance(r.lse, exact_lse) <=
          2 * test::distance(naive_lse, exact_lse) + 4 * test::rounding<float> * lse_size);
}

template <class Shape, class Policy> void check_decode(std::uint64_t seed, int trials) {
  using T = typename Shape::element;
  random_numbers random(seed);
  for (int trial = 0; trial < trials; ++trial) {
    const index_t kv_heads = random.integer(1, 2), group = random.integer(1, 5), q_len = random.integer(1, 9);
    const index_t k_len = random.integer(1, 3 * Policy::split_keys(1000) + 5);
    attention_problem<T> p(random.integer(1, 2), group * kv_heads, kv_heads, q_len, k_len,
                           trial % 2 == 0 ? Shape::head_dim : random.integer(1, Shape::head_dim),
                           trial % 2 == 0 ? Shape::value_dim : random.integer(1, Shape::value_dim));
    p.fill(random);
    const index_t offset = k_len - q_len;
    CAPTURE(seed, trial);
    switch (trial % 4) {
      case 0: require_close_decode<Shape, Policy>(attention::softmax{mask::causal{}}.starting_at(offset), p); break;
      case 1: {
        const index_t lengths[] = {random.integer(0, k_len), random.integer(0, k_len)};
        const attention::softmax op{mask::key_padding{.lengths = {lengths, 2}, .k_len = k_len}};
        require_close_decode<Shape, Policy>(op.with_sink(0.25f).tiled_heads(), p);
        break;
      }
      case 2:
        require_close_decode<Shape, Policy>(
            attention::softmax{mask::sliding_window{.left = 20}, score::alibi{.heads = p.heads}}.starting_at(offset),
            p);
        break;
      default:
        require_close_decode<Shape, Policy>(
            attention::softmax{mask::full{}, score::soft_cap{.cap = 3.0f}}.tiled_heads(), p);
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("decode block: agrees with the definition, heads that share keys as rows of one tile",
                   "[attention][cuda][property]", float16, bfloat16) {
  check_decode<shared_keys<TestType>, splits_of<64>>(721, 12);
  check_decode<small<TestType>, splits_of<64>>(722, 12);
  check_decode<small<TestType>, growing_splits>(725, 8);
  check_decode<block_shape<TestType, 128, 128, 16, 64, 4, 2>, splits_of<128>>(723, 2);
  check_decode<block_shape<TestType, 256, 256, 16, 32, 2, 2>, splits_of<32>>(724, 2);
}

TEST_CASE("decode block: bits depend neither on the batch nor on what lies behind the keys", "[attention][cuda]") {
  random_numbers random(731);
  attention_problem<bfloat16> p(3, 4, 2, 2, 150, 64, 64);
  p.fill(random);
  const auto op = attention::softmax{mask::causal{}}.starting_at(148);
  const auto all = decode_dense<shared_keys<bfloat16>, splits_of<64>>(op, p);
  attention_problem<bfloat16> one(1, 4, 2, 2, 150, 64, 64);
  std::copy_n(p.q.data() + one.q.size(), one.q.size(), one.q.data());
  std::copy_n(p.k.data() + one.k.size(), one.k.size(), one.k.data());
  std::copy_n(p.v.data() + one.v.size(), one.v.size(), one.v.data());
  const auto alone = decode_dense<shared_keys<bfloat16>, splits_of<64>>(op, one);
  for (index_t n = 0; n < one.q.size(); ++n) REQUIRE(alone.out.data()[n].bits == all.out.data()[one.q.size() + n].bits);
}

namespace {

/// The rows [batch, heads, len, dim] of sequences in pages, one after the other or heads first; what holds no row is NaN, or a page
/// that does not exist.
template <class T> struct pages_of {
  tensor<T, 4> memory;
  tensor<std::int32_t, 2> entries;
  bool heads_first;

  pages_of(const tensor<T, 4>& rows, const index_t* lengths, index_t page_size, bool heads_first_)
      : entries(rows.extent(0), ceil_div(rows.extent(2), page_size) + 1), heads_first(heads_first_) {
    const index_t batch = rows.extent(0), heads = rows.extent(1), dim = rows.extent(3), max_pages = entries.extent(1);
    const index_t pages = batch * max_pages, step = heads_first ? 13 : 17;
    REQUIRE(pages % step != 0);  // so that the pages are permuted
    memory = heads_first ? tensor<T, 4>(pages, heads, page_size, dim) : tensor<T, 4>(pages, page_size, heads, dim);
    memory.fill(T(std::nanf("")));
    entries.fill(-1);
    const tensor_view<T, 4> to = heads_first ? memory.view() : memory.view().transposed(1, 2);
    for (index_t b = 0; b < batch; ++b)
      for (index_t j = 0; j < lengths[b]; ++j) {
        const index_t page = (b * max_pages + j / page_size) * step % pages;
        entries(b, j / page_size) = static_cast<std::int32_t>(page);
        for (index_t h = 0; h < heads; ++h)
          for (index_t d = 0; d < dim; ++d) to(page, h, j % page_size, d) = rows(b, h, j, d);
      }
  }
  [[nodiscard]] tensor_view<const T, 4> view() const {
    const tensor_view<const T, 4> all = memory.view();
    return heads_first ? all : all.transposed(1, 2);
  }
  [[nodiscard]] attention::page_table table(const index_array& lengths) const { return {entries, lengths}; }
};

template <class T> bool same_bits(const results<T>& a, const results<T>& b) {
  return std::memcmp(a.out.data(), b.out.data(), static_cast<std::size_t>(a.out.size()) * sizeof(T)) == 0 &&
         std::memcmp(a.lse.data(), b.lse.data(), static_cast<std::size_t>(a.lse.size()) * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("decode block: pages of any size and order give the bits of a contiguous cache", "[attention][cuda]") {
  random_numbers random(732);
  const index_t page_size = GENERATE(as<index_t>{}, 1, 7, 16, 64);
  constexpr index_t most = 130;
  const index_t lengths[] = {130, 0, 65};
  const index_array own(lengths, 3);
  CAPTURE(page_size);
  attention_problem<float16> p(3, 4, 2, 1, most, 64, 48);
  p.fill(random);
  // Keys and values need not have the same pages.
  const pages_of<float16> k(p.k, lengths, page_size, true), v(p.v, lengths, page_size == 7 ? 13 : page_size, false);
  k.table(own).validate(3, k.memory.extent(0), page_size);
  using cache = attention::detail::cache_of_pages<tensor_view<const float16, 4>>;
  const attention::softmax op{};
  const attention::softmax padded{mask::key_padding{.lengths = own, .k_len = most}};
  const auto check = [&](auto shape, auto policy) {
    using Shape = decltype(shape);
    using Policy = decltype(policy);
    const auto paged = decode<Shape, Policy>(attention::detail::in_rows(op, {}), problem_of(p, op.order),
                                             tensor_view<const float16, 4>(p.q.view()), cache{k.view(), k.table(own)},
                                             cache{v.view(), v.table(own)});
    REQUIRE(same_bits(paged, decode_dense<Shape, Policy>(padded, p)));
    for (index_t h = 0; h < 4; ++h) REQUIRE(std::isinf(paged.lse(1, h, 0)));
  };
  check(shared_keys<float16>{}, splits_of<64>{});
  check(small<float16>{}, splits_of<192>{});  // several tiles in a block
  check(deep<float16>{}, splits_of<192>{});
}

TEST_CASE("decode block: a tile list finds the tiles that are not empty, in order", "[attention][cuda]") {
  random_numbers random(736);
  for (const int tiles : {0, 1, 31, 32, 33, 64, 65, 200}) {
    std::vector<mask::tile_kind> kinds(static_cast<std::size_t>(tiles));
    const index_t every = random.integer(1, 50);
    for (auto& kind : kinds)
      kind = random.integer(0, every) > 0 ? mask::tile_kind::empty
             : random.integer(0, 1) == 0  ? mask::tile_kind::full
                                          : mask::tile_kind::partial;
    CAPTURE(tiles, every);
    std::vector<std::vector<attention::detail::tile_step>> seen(64);
    test::emulated_block::run(2, 16, static_cast<std::uint32_t>(tiles), [&](const auto& engine, std::byte*) {
      attention::detail::tile_list list(tiles);
      auto& mine = seen[static_cast<std::size_t>(engine.warp() * 32 + engine.lane())];
      do {
        mine.push_back(list.next(engine, [&](int tile) { return kinds[static_cast<std::size_t>(tile)]; }));
      } while (mine.back().tile() < tiles);
    });
    for (const auto& steps : seen) {
      std::size_t n = 0;
      for (int tile = 0; tile < tiles; ++tile) {
        const mask::tile_kind kind = kinds[static_cast<std::size_t>(tile)];
        if (kind == mask::tile_kind::empty) continue;
        REQUIRE(n < steps.size());
        REQUIRE(steps[n].tile() == tile);
        REQUIRE(steps[n].kind() == kind);
        ++n;
      }
      REQUIRE(n + 1 == steps.size());
    }
  }
}

TEST_CASE("decode block: many tiles of which few are visible", "[attention][cuda]") {
  random_numbers random(737);
  attention_problem<float16> p(1, 2, 1, 3, 1300, 64, 64);
  p.fill(random);
  // Tiles 0 and 79 to 81 of 82.
  require_close_decode<deep<float16>, splits_of<2048>>(
      attention::softmax{mask::attention_sinks{.sinks = 3, .window = 20}}, p);
}

TEST_CASE("decode splits: the most of any shorter sequence, found by bisection", "[attention][cuda]") {
  using namespace attention::detail;
  std::uint32_t most = 1;
  for (index_t k_len = 0; k_len < 700; ++k_len) {
    most = std::max(most, decode_splits<growing_splits>(k_len));
    REQUIRE(most_decode_splits<growing_splits>(k_len) == most);
    REQUIRE(most_decode_splits<splits_of<64>>(k_len) ==
            static_cast<std::uint32_t>(std::max<index_t>(1, ceil_div(k_len, 64))));
  }
  STATIC_REQUIRE(most_decode_splits<attention::default_block_policy>(4096) == 32);
  STATIC_REQUIRE(most_decode_splits<attention::default_block_policy>(5000) == 32);
  STATIC_REQUIRE(most_decode_splits<attention::default_block_policy>(1 << 20) == 2048);
  STATIC_REQUIRE(require_split_keys<attention::default_block_policy, 64>());
  STATIC_REQUIRE(require_split_keys<growing_splits, 32>());
  STATIC_REQUIRE(!require_split_keys<growing_splits, 64>());  // the shortest have 32
  STATIC_REQUIRE(!require_split_keys<splits_of<0>, 16>());
}

TEST_CASE("decode block: bits of a sequence depend neither on its batch nor on the size of the table",
          "[attention][cuda]") {
  using Shape = small<bfloat16>;
  using cache = attention::detail::cache_of_pages<tensor_view<const bfloat16, 4>>;
  random_numbers random(733);
  constexpr index_t page_size = 16, max_pages = 40;  // for 640 tokens: ten times what the shorter ones have
  const index_t lengths[] = {70, 250, 0, 32, 193, 100};
  constexpr index_t batch = 6;
  tensor<bfloat16, 4> q(batch, 4, 2, 64), k_pages(batch * max_pages, 2, page_size, 64),
      v_pages(batch * max_pages, 2, page_size, 64);
  random.fill(q);
  random.fill(k_pages);
  random.fill(v_pages);
  tensor<std::int32_t, 2> entries(batch, max_pages);
  for (index_t n = 0; n < entries.size(); ++n) entries.data()[n] = static_cast<std::int32_t>(n);
  const attention::softmax op = attention::softmax{mask::causal{}}.with_sink(0.75f);
  const auto run = [&](index_t first, index_t count, index_t k_len) {
    const index_array own(lengths + first, count);
    const attention::page_table table(entries.view().slice(0, {first, first + count}), own);
    const auto rows = attention::detail::in_rows(op, attention::detail::starts_of(op, 2, k_len, own));
    return decode<Shape, growing_splits>(rows, {count, 4, 2, 2, k_len, 64, 64, op.order, {}},
                                         tensor_view<const bfloat16, 4>(q.view().slice(0, {first, first + count})),
                                         cache{k_pages.view(), table}, cache{v_pages.view(), table});
  };
  const auto all = run(0, batch, 250), in_table = run(0, batch, max_pages * page_size);
  for (index_t b = 0; b < batch; ++b) {
    CAPTURE(b);
    const auto alone = run(b, 1, lengths[b]);
    for (index_t n = 0; n < alone.out.size(); ++n) {
      const std::uint16_t bits = alone.out.data()[n].bits;
      REQUIRE(all.out.data()[b * alone.out.size() + n].bits == bits);
      REQUIRE(in_table.out.data()[b * alone.out.size() + n].bits == bits);
    }
    for (index_t n = 0; n < alone.lse.size(); ++n) {
      REQUIRE(all.lse.data()[b * alone.lse.size() + n] == alone.lse.data()[n]);
      REQUIRE(in_table.lse.data()[b * alone.lse.size() + n] == alone.lse.data()[n]);
    }
  }
}

TEST_CASE("decode block: splits without a visible key leave at once", "[attention][cuda]") {
  random_numbers random(734);
  attention_problem<float16> p(1, 2, 1, 1, 300, 64, 64);
  p.fill(random);
  const attention::softmax op{mask::sliding_window{.left = 40}};  // keys 259 to 299: the splits 4 of 5 on
  const auto r = decode_dense<small<float16>, splits_of<64>>(op, p);
  for (index_t row = 0; row < 2; ++row)
    for (index_t split = 0; split < 5; ++split) {
      CAPTURE(row, split);
      const float lse = r.parts(row, split, 0, 64);
      REQUIRE((lse == -std::numeric_limits<float>::infinity()) == (split < 4));
      for (index_t d = 0; d < 64; ++d) REQUIRE(std::isnan(r.parts(row, split, 0, d)) == (split < 4));
    }
}

namespace {

/// An int8 cache [outer, heads, rows, dim] with `blocks` scales per row, which do not lie side by side. Codes may lie at odd addresses.
struct coded {
  tensor<std::int8_t, 4> codes;
  tensor<float, 4> scales;  // [outer, heads, blocks, rows]
  index_t dim;

  coded(random_numbers& random, index_t outer, index_t heads, index_t rows, index_t dim_, index_t blocks, bool aligned)
      : codes(outer, heads, rows, aligned ? round_up(dim_, 16) : dim_ + 1),
        scales(outer, heads, blocks, rows),
        dim(dim_) {
    for (std::int8_t& x : codes) x = static_cast<std::int8_t>(random.integer(-128, 127));
    for (float& x : scales) x = 0.001f * static_cast<float>(random.integer(1, 20));
  }
  [[nodiscard]] attention::quantized<const std::int8_t, const float> cache() const {
    const auto part = codes.view().slice(3, {codes.extent(3) - dim, codes.extent(3)});
    return {tensor_view<const std::int8_t, 4>(part), tensor_view<const float, 4>(scales.view().transposed(2, 3))};
  }
  /// The values, rounded to T.
  template <class T> [[nodiscard]] tensor<T, 4> values() const {
    tensor<T, 4> result(codes.extent(0), codes.extent(1), codes.extent(2), dim);
    const auto from = cache();
    for (index_t b = 0; b < codes.extent(0); ++b)
      for (index_t h = 0; h < codes.extent(1); ++h)
        for (index_t j = 0; j < codes.extent(2); ++j)
          for (index_t d = 0; d < dim; ++d) result(b, h, j, d) = T(from(b, h, j, d));
    return result;
  }
};

}  // namespace

TEMPLATE_TEST_CASE("decode block: int8 caches give the bits of a cache that holds their values", "[attention][cuda]",
                   float16, bfloat16) {
  using Shape = small<TestType>;
  using Policy = splits_of<96>;
  using namespace attention::detail;
  random_numbers random(741);
  const attention::softmax op{mask::causal{}};
  const auto rows = in_rows(op, starts_of(op, 2, 130));
  const auto check = [&](index_t head_dim, index_t value_dim, index_t head_blocks, index_t value_blocks, bool aligned) {
    CAPTURE(head_dim, value_dim, aligned);
    attention_problem<TestType> p(2, 4, 2, 2, 130, head_dim, value_dim);
    p.fill(random);
    const coded k(random, 2, 2, 130, head_dim, head_blocks, aligned),
        v(random, 2, 2, 130, value_dim, value_blocks, aligned);
    p.k = k.values<TestType>();
    p.v = v.values<TestType>();
    const auto expected = decode_dense<Shape, Policy>(op, p);
    const cache_of_rows<code_store> k_cache{block_store(k.cache())}, v_cache{block_store(v.cache())};
    REQUIRE(loads_are_wide(k_cache.store) == (aligned && head_dim % 16 == 0));
    const tensor_view<const TestType, 4> q = p.q.view();
    REQUIRE(same_bits(expected, decode<Shape, Policy>(rows, problem_of(p, op.order), q, k_cache, v_cache)));
    // Codes and numbers side by side.
    const cache_of_rows<tensor_view<const TestType, 4>> numbers{tensor_view<const TestType, 4>(p.v.view())};
    REQUIRE(same_bits(expected, decode<Shape, Policy>(rows, problem_of(p, op.order), q, k_cache, numbers)));
  };
  check(64, 64, 1, 1, true);
  check(64, 48, 4, 3, true);
  check(32, 64, 2, 1, false);
  check(20, 7, 1, 1, true);
  check(20, 7, 1, 1, false);
}

TEST_CASE("decode block: int8 caches in pages agree with the CPU", "[attention][cuda]") {
  using T = bfloat16;
  using namespace attention::detail;
  random_numbers random(742);
  constexpr index_t page_size = 8, max_pages = 20, dim = 64;
  const index_t lengths[] = {150, 1, 0, 70};
  const index_array own(lengths, 4);
  coded k(random, 4 * max_pages, 2, page_size, dim, 4, true), v(random, 4 * max_pages, 2, page_size, dim, 1, true);
  tensor<std::int32_t, 2> page_of(4, max_pages);
  page_of.fill(-1);
  for (index_t b = 0; b < 4; ++b)
    for (index_t n = 0; n < ceil_div(lengths[b], page_size); ++n)
      page_of(b, n) = static_cast<std::int32_t>((b * max_pages + n) * 7 % (4 * max_pages));
  const attention::page_table table(page_of, own);
  tensor<T, 4> q(4, 4, 1, dim);
  random.fill(q);
  const attention::softmax op{};
  const cache_of_pages<code_store> k_cache{block_store(k.cache()), table}, v_cache{block_store(v.cache()), table};
  const problem shape{4, 4, 2, 1, 150, dim, dim, op.order, {}};
  const auto rows = in_rows(op, {});
  const tensor_view<const T, 4> queries = q.view();
  const auto r = decode<small<T>, growing_splits>(rows, shape, queries, k_cache, v_cache);
  tensor<float, 4> out(4, 4, 1, dim);
  tensor<float, 3> lse(4, 4, 1);
  attention::decode<arch::scalar>(cpu{}, op, q, attention::paged(k.cache(), table), attention::paged(v.cache(), table),
                                  out, lse);
  // Keys and values are rounded to T, and so are weights and the result. |q| <= 1, |k| and |v| <= 128 * 0.02.
  const double roundings = test::rounding<T>, logit_error = roundings * dim * 2.56 / 8;
  REQUIRE(test::distance(r.lse, lse) <= logit_error);
  REQUIRE(test::distance(r.out, out) <= (2 * logit_error + 3 * roundings) * 2.56);
  for (index_t h = 0; h < 4; ++h) REQUIRE((std::isinf(r.lse(2, h, 0)) && r.out(2, h, 0, 5).bits == 0));

  // A scale that is NaN stays with the queries that attend to its row, and what no sequence holds is never used.
  for (tensor<float, 4>* const scales : {&k.scales, &v.scales})
    for (index_t n = 0; n < scales->size(); n += 3) scales->data()[n] = std::nanf("");
  const auto clean_row = [&](coded& cache, index_t b, index_t j) {
    const index_t page = page_of(b, j / page_size);
    for (index_t h = 0; h < 2; ++h)
      for (index_t n = 0; n < cache.scales.extent(2); ++n) cache.scales(page, h, n, j % page_size) = 0.01f;
  };
  for (index_t j = 0; j < lengths[0]; ++j) {
    clean_row(k, 0, j);
    clean_row(v, 0, j);
  }
  k.scales(page_of(1, 0), 0, 0, 0) = std::nanf("");
  const auto dirty = decode<small<T>, growing_splits>(rows, shape, queries, k_cache, v_cache);
  for (index_t h = 0; h < 4; ++h)
    for (index_t d = 0; d < dim; ++d) REQUIRE(std::isfinite(static_cast<float>(dirty.out(0, h, 0, d))));
  REQUIRE(std::isnan(dirty.lse(1, 0, 0)));
}

TEST_CASE("decode block: ragged queries have the bits of each sequence alone", "[attention][cuda]") {
  using namespace attention::detail;
  using T = bfloat16;
  using Narrow = shared_keys<T>;  // up to 16 rows
  using Wide = small<T>;
  using Policy = splits_of<64>;
  random_numbers random(751);
  constexpr index_t batch = 7, heads = 6, kv_heads = 2, tokens = 33, dim = 64;
  const index_t offsets[] = {0, 0, 1, 4, 4, 24, 26, 33};  // two idle slots, the first of them without keys
  const index_t lengths[] = {0, 70, 3, 9, 130, 65, 40};
  const index_array own(lengths, batch);
  attention_problem<T> p(batch, heads, kv_heads, 1, 130, dim, dim);
  p.fill(random);
  const pages_of<T> k(p.k, lengths, 16, true), v(p.v, lengths, 16, false);
  tensor<T, 4> q(1, heads, tokens, dim), out(1, heads, tokens, dim);
  tensor<float, 3> lse(1, heads, tokens);
  random.fill(q);
  using cache = cache_of_pages<tensor_view<const T, 4>>;
  const auto check = [&](const auto& op) {
    const ragged_starts starts{own, {offsets, batch + 1}};
    const auto rows = in_rows(op, starts);
    const index_t splits = most_decode_splits<Policy>(130), parts_of_rows = heads * tokens * splits;
    tensor<float, 1> parts(parts_of_rows * (dim + 1));
    parts.fill(std::nanf(""));
    out.fill(T(77.0f));
    lse.fill(77.0f);
    decode_call<std::remove_const_t<decltype(rows)>, T, T, cache, cache, ragged_queries> call{
        rows,
        {batch, heads, kv_heads, tokens, 130, dim, dim, op.order, {}},
        0.125f,
        tensor_view<const T, 4>(q.view()),
        {k.view(), k.table(own)},
        {v.view(), v.table(own)},
        out.view(),
        lse.view(),
        parts.data(),
        parts.data() + parts_of_rows * dim,
        static_cast<std::uint32_t>(splits),
        true,
        true,
        true,
        true,
        {starts.offsets, 1, 16}};
    const auto run = [&](auto shape) {
      using Shape = decltype(shape);
      for (index_t block = 0; block < decode_blocks<Shape>(call.p, splits, call.queries); ++block)
        test::emulated_block::run(
            Shape::warps, decode_shared_bytes<Shape, cache>, static_cast<std::uint32_t>(block),
            [&](const auto& engine, std::byte* shared) { decode_block<Shape, Policy>(engine, call, shared); });
    };
    run(Narrow{});
    call.queries.least_rows = 17;
    call.queries.most_rows = most_decode_items;
    run(Wide{});
    for (index_t row = 0; row < heads * tokens; ++row) run_merge<Policy>(call, row);

    for (index_t b = 0; b < batch; ++b) {
      const range mine = starts.offsets.size() > 0 ? range{offsets[b], offsets[b + 1]} : range{};
      if (mine.empty()) continue;
      CAPTURE(b);
      const index_array one(lengths + b, 1);
      const auto table = attention::page_table(k.entries.view().slice(0, {b, b + 1}), one),
                 v_table = attention::page_table(v.entries.view().slice(0, {b, b + 1}), one);
      const auto alone_rows = in_rows(op, starts_of(op, mine.size(), lengths[b], one));
      const tensor_view<const T, 4> queries = tensor_view<const T, 4>(q.view()).slice(2, mine);
      const problem alone_problem{1, heads, kv_heads, mine.size(), lengths[b], dim, dim, op.order, {}};
      const cache alone_k{k.view(), table}, alone_v{v.view(), v_table};
      const auto alone = mine.size() * 3 <= 16
                             ? decode<Narrow, Policy>(alone_rows, alone_problem, queries, alone_k, alone_v)
                             : decode<Wide, Policy>(alone_rows, alone_problem, queries, alone_k, alone_v);
      for (index_t h = 0; h < heads; ++h)
        for (index_t i = 0; i < mine.size(); ++i) {
          REQUIRE(lse(0, h, mine.begin + i) == alone.lse(0, h, i));
          for (index_t d = 0; d < dim; ++d) REQUIRE(out(0, h, mine.begin + i, d).bits == alone.out(0, h, i, d).bits);
        }
    }
  };
  check(attention::softmax{mask::causal{}}.with_sink(0.5f));
  check(attention::softmax{mask::sliding_window{.left = 30}, score::alibi{.heads = heads}}.tiled_heads());
}

TEST_CASE("decode block: each tile of ragged queries has one owner, however rows are distributed",
          "[attention][cuda]") {
  using namespace attention::detail;
  using Shape = small<float16>;  // 32 rows
  random_numbers random(752);
  for (int trial = 0; trial < 50; ++trial) {
    const index_t batch = random.integer(1, 12), group = random.integer(1, 9), kv_heads = random.integer(1, 3);
    std::vector<index_t> offsets{0};
    for (index_t b = 0; b < batch; ++b)
      offsets.push_back(offsets.back() + (random.integer(0, 2) == 0 ? 0 : random.integer(1, 40)));
    const problem p{batch, group * kv_heads, kv_heads, offsets.back(), 100, 64, 64, attention::head_order::grouped, {}};
    const ragged_queries queries{offsets, 1, most_decode_items};
    std::vector<int> owners(static_cast<std::size_t>(batch * kv_heads * 1000 * 2));
    for (index_t block = 0; block < decode_blocks<Shape>(p, 2, queries); ++block) {
      const decode_task task = queries.task_of<Shape>(p, 2, static_cast<std::uint32_t>(block));
      if (task.split == ragged_queries::idle) continue;
      REQUIRE((task.split < 2 && task.kv_head < kv_heads && task.first_row % 32 == 0));
      ++owners[static_cast<std::size_t>(((task.batch * kv_heads + task.kv_head) * 1000 + task.first_row / 32) * 2 +
                                        task.split)];
    }
    for (index_t b = 0; b < batch; ++b)
      for (index_t n = 0; n < kv_heads * 2000; ++n) {
        const index_t tile = n / 2 % 1000, rows = group * queries.of(p, static_cast<std::uint32_t>(b)).count;
        REQUIRE(owners[static_cast<std::size_t>(b * kv_heads * 2000 + n)] == (tile * 32 < rows ? 1 : 0));
      }
    for (index_t row = 0; row < p.heads * p.q_len; ++row) {
      const query_row at = queries.row_of(p, static_cast<std::uint32_t>(row));
      const query_rows own = queries.of(p, at.sequence);
      REQUIRE((at.batch == 0 && at.head * p.q_len + at.row == row));
      REQUIRE((own.first <= at.row && at.row < own.first + own.count));
    }
  }
}

TEST_CASE("decode merge: any number of parts, empty ones unread, a NaN kept", "[attention][cuda]") {
  using namespace attention::detail;
  using cache = cache_of_rows<tensor_view<const float16, 4>>;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  random_numbers random(735);
  const index_t splits = GENERATE(as<index_t>{}, 2, 31, 1024, 1025, 2100);
  const index_t value_dim = GENERATE(as<index_t>{}, 0, 5, 130);
  CAPTURE(splits, value_dim);
  constexpr index_t heads = 3;
  tensor<float, 3> parts(heads, splits, value_dim), lse(1, heads, 1);
  tensor<float, 2> lses(heads, splits);
  random.fill(parts);
  random.fill(lses, 4.0f);
  for (index_t s = 1; s < splits; s += 3) {
    lses(0, s) = -infinity;
    for (index_t d = 0; d < value_dim; ++d) parts(0, s, d) = std::nanf("");
  }
  for (index_t s = 0; s < splits; ++s) lses(1, s) = -infinity;
  if (value_dim > 0) parts(2, splits - 1, 0) = std::nanf("");
  tensor<float, 4> out(1, heads, 1, value_dim);
  tensor<float16, 4> none(1, 1, 0, value_dim);
  tensor_view<const float16, 4> keys = none.view();
  keys.extents[2] = splits * 16;  // only counted
  const auto op = attention::softmax{}.with_sink(0.5f);
  const auto rows = in_rows(op, {});
  const decode_call<std::remove_const_t<decltype(rows)>, float16, float, cache, cache> call{
      rows,
      {1, heads, 1, 1, splits * 16, 64, value_dim, op.order, {}},
      1.0f,
      {},
      {keys},
      {keys},
      out.view(),
      lse.view(),
      parts.data(),
      lses.data(),
      static_cast<std::uint32_t>(splits),
      true,
      true,
      true,
      true};
  for (index_t row = 0; row < heads; ++row) {
    run_merge<splits_of<16>>(call, row);
    double total = std::exp(0.5);
    for (index_t s = 0; s < splits; ++s) total += std::exp(static_cast<double>(lses(row, s)));
    REQUIRE(std::abs(lse(0, row, 0) - std::log(total)) <= 1e-5);
    for (index_t d = 0; d < value_dim; ++d) {
      double sum = 0;
      for (index_t s = 0; s < splits; ++s)
        if (lses(row, s) != -infinity)
          sum += std::exp(static_cast<double>(lses(row, s))) * static_cast<double>(parts(row, s, d));
      const float x = out(0, row, 0, d);
      if (row == 2 && d == 0) {
        REQUIRE(std::isnan(x));
      } else {
        REQUIRE(std::abs(static_cast<double>(x) - sum / total) <= 1e-5);
      }
    }
  }
}

TEST_CASE("decode: rows, keys and blocks beyond 32 bits are refused", "[attention][cuda][error]") {
  using namespace attention::detail;
  problem p{1, 4, 2, 1, 1000, 64, 64, attention::head_order::grouped, {}};
  REQUIRE_NOTHROW(expect_decode_counts(p));
  p.q_len = index_t{1} << 30;
  REQUIRE_THROWS_WITH(expect_decode_counts(p), Catch::Matchers::ContainsSubstring("exceed 2^31 - 1 rows"));
  p.q_len = (index_t{1} << 30) - 1;
  REQUIRE_NOTHROW(expect_decode_counts(p));
  p.k_len = index_t{1} << 31;
  REQUIRE_THROWS_WITH(expect_decode_counts(p), Catch::Matchers::ContainsSubstring("k_len (2147483648)"));
  p.q_len = 100;
  using Shape = small<float16>;  // 32 rows: 200 are seven tiles
  REQUIRE(decode_blocks<Shape>(p, 1000) == 14000);
  p.batch = 153391689;
  REQUIRE_NOTHROW(decode_blocks<Shape>(p, 1));
  REQUIRE_THROWS_WITH(decode_blocks<Shape>(p, 2), Catch::Matchers::ContainsSubstring("exceed 2^31 - 1 blocks"));
  p.batch = index_t{1} << 62;
  REQUIRE_THROWS_AS(decode_blocks<Shape>(p, 1), precondition_error);
  p.batch = 0;
  REQUIRE(decode_blocks<Shape>(p, 1000) == 0);
}
