// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels of append on an emulated block of lanes: caches hold the same bytes as after append on the CPU, those that are not
// written included.
#include <seqprim/attention/append.hpp>
#include <seqprim/attention/detail/cuda/append_block.hpp>
#include <seqprim/attention/ragged.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/position/detail/cuda/encode_block.hpp>
#include <seqprim/position/position.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <position/encodings.hpp>
#include <support/catch.hpp>
#include <support/emulated_block.hpp>
#include <support/random.hpp>
#include <vector>

using namespace seqprim;
using attention::paged;
using attention::quantized;
using attention::ragged;
using test::random_numbers;

namespace {

using rotary = position::rotary<position::half_split>;

template <class E, class Map, class Tokens, class Starts, class X, class Cache>
void store_in_blocks(const E& encoding, const Map& map, const Tokens& tokens, const Starts& starts,
                     const tensor_view<const X, 4>& x, const Cache& cache) {
  using namespace position::detail;
  const auto call =
      make_encode_call(attention::detail::subject_of<attention::detail::entry::append>, encoding, position::side::key,
                       map, tokens, x.extent(3), x,
                       attention::detail::results_in(cache.store, attention::detail::places_of(cache, starts),
                                                     rows_at_16_bytes(attention::detail::rows_of(cache.store))));
  for (index_t block = 0; block < call.blocks(); ++block)
    test::emulated_block::run(
        encode_warps, call.tile.shared_bytes, static_cast<std::uint32_t>(block),
        [&](const auto& engine, std::byte* shared) { encode_block<direction::forward>(engine, call, shared); });
}

/// What the entry points on CUDA do after their checks, block by block.
template <class Op, class Tokens, class Starts, class K, class V, class Keys, class Values>
void append_in_blocks(const Op& op, const Tokens& tokens, const Starts& starts, const tensor_view<K, 4>& k,
                      const tensor_view<V, 4>& v, const Keys& k_cache, const Values& v_cache) {
  const tensor_view<const K, 4> keys(k);
  const tensor_view<const V, 4> values(v);
  store_in_blocks(position::none{}, position::sequential{}, tokens, starts, values, v_cache);
  if constexpr (attention::detail::encodes_positions<Op> && !attention::detail::encodes_on_read<Op>) {
    const auto at = position::place(op.position);
    store_in_blocks(position::for_head_dim(at.encoding, k.extent(3)), position::shifted_rows{at.keys, starts}, tokens,
                    starts, keys, k_cache);
  } else {
    store_in_blocks(position::none{}, position::sequential{}, tokens, starts, keys, k_cache);
  }
}
template <class Op, class K, class V, class Keys, class Values>
void append_in_blocks(const Op& op, const tensor<K, 4>& k, const tensor<V, 4>& v, index_t start, Keys&& k_cache,
                      Values&& v_cache) {
  const auto keys = attention::detail::writable(k_cache);
  const auto values = attention::detail::writable(v_cache);
  const auto starts = attention::detail::checked_starts(cpu{}, op, k.view(), v.view(), keys, values, start);
  append_in_blocks(op, position::detail::dense_tokens{k.extent(0), k.extent(2)}, starts, k.view(), v.view(), keys,
                   values);
}
template <class Op, class K, class V, class StoreK, class StoreV>
void append_in_blocks(const Op& op, const tensor<K, 4>& k, const tensor<V, 4>& v, const paged<StoreK>& k_cache,
                      const paged<StoreV>& v_cache) {
  const auto keys = attention::detail::writable(k_cache);
  const auto values = attention::detail::writable(v_cache);
  const auto starts = attention::detail::checked_starts(cpu{}, op, k.view(), v.view(), keys, values);
  append_in_blocks(op, position::detail::dense_tokens{k.extent(0), k.extent(2)}, starts, k.view(), v.view(), keys,
                   values);
}
template <class Op, class K, class V, class StoreK, class StoreV>
void append_in_blocks(const Op& op, const ragged<K>& k, const ragged<V>& v, const paged<StoreK>& k_cache,
                      const paged<StoreV>& v_cache) {
  const auto keys = attention::detail::writable(k_cache);
  const auto values = attention::detail::writable(v_cache);
  attention::detail::expect_ragged_append(cpu{}, op, k, v, keys, values);
  append_in_blocks(op, attention::detail::ragged_tokens{k.offsets, k.rows.extent(2)},
                   attention::detail::ragged_starts{keys.lengths(), k.offsets}, k.rows, v.rows, keys, values);
}

/// Memory that holds 7 everywhere: what is not written stays.
template <class T> tensor<T, 4> filled(index_t a, index_t b, index_t c, index_t d) {
  tensor<T, 4> x(a, b, c, d);
  x.fill(static_cast<T>(7));
  return x;
}
template <class T> bool same_bits(const tensor<T, 4>& a, const tensor<T, 4>& b) {
  return std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}

/// A cache twice: for the blocks and for the CPU.
template <class T> struct twins {
  tensor<T, 4> blocks, host;
  twins(index_t a, index_t b, index_t c, index_t d) : blocks(filled<T>(a, b, c, d)), host(blocks) {}
  [[nodiscard]] bool same() const { return same_bits(blocks, host); }
};
/// An int8 cache twice.
struct code_twins {
  twins<std::int8_t> codes;
  twins<float> scales;
  code_twins(index_t a, index_t b, index_t c, index_t d, index_t parts) : codes(a, b, c, d), scales(a, b, c, parts) {}
  [[nodiscard]] auto blocks() { return quantized(codes.blocks, scales.blocks); }
  [[nodiscard]] auto host() { return quantized(codes.host, scales.host); }
  [[nodiscard]] bool same() const { return codes.same() && scales.same(); }
};

template <class T> tensor<T, 4> random_tensor(std::uint64_t seed, index_t a, index_t b, index_t c, index_t d) {
  random_numbers random(seed);
  tensor<T, 4> x(a, b, c, d);
  random.fill(x);
  return x;
}

const attention::softmax rope{mask::causal{}, score::identity{}, rotary{}};
const attention::softmax plain{mask::causal{}};

}  // namespace

TEMPLATE_TEST_CASE("append block: a contiguous cache", "[attention][cuda][property]", float, float16, bfloat16) {
  const auto k = random_tensor<bfloat16>(81, 2, 3, 5, 32), v = random_tensor<bfloat16>(82, 2, 3, 5, 20);
  const auto check = [&](const auto& op) {
    twins<TestType> keys(2, 3, 40, 32), values(2, 3, 40, 20);
    for (const index_t start : {0, 5, 35}) {
      append_in_blocks(op, k, v, start, keys.blocks, values.blocks);
      attention::append(cpu{}, op, k, v, start, keys.host, values.host);
      REQUIRE(keys.same());
      REQUIRE(values.same());
    }
  };
  check(rope);
  check(plain);
  check(attention::softmax{mask::causal{}, score::identity{}, position::on_read{rotary{}}});
}

TEST_CASE("append block: keys that are encoded to twice their width", "[attention][cuda]") {
  const auto k = random_tensor<float>(83, 1, 3, 4, 12), v = random_tensor<float>(84, 1, 3, 4, 12);
  const auto theta = random_tensor<float>(85, 1, 1, 3, 12);
  const attention::softmax op{mask::causal{}, score::identity{}, test::cosine_lrpe<1>{.theta = theta.view()[0][0]}};
  twins<float> keys(1, 3, 9, 24), values(1, 3, 9, 12);
  append_in_blocks(op, k, v, 3, keys.blocks, values.blocks);
  attention::append(cpu{}, op, k, v, 3, keys.host, values.host);
  REQUIRE(keys.same());
  REQUIRE(values.same());
}

TEST_CASE("append block: int8 values and scales", "[attention][cuda][edge]") {
  auto k = random_tensor<bfloat16>(86, 2, 3, 37, 64), v = random_tensor<bfloat16>(87, 2, 3, 37, 48);
  k(0, 1, 2, 3) = bfloat16(std::nanf(""));
  v(0, 1, 2, 3) = bfloat16(std::nanf(""));
  v(1, 2, 3, 47) = bfloat16(-std::numeric_limits<float>::infinity());
  for (index_t d = 0; d < 48; ++d) v(1, 0, 7, d) = bfloat16(0.0f);
  for (const index_t parts : {1, 2, 4}) {
    CAPTURE(parts);
    const index_t value_parts = parts == 1 ? 1 : 3;
    code_twins keys(2, 3, 50, 64, parts), values(2, 3, 50, 48, value_parts);
    append_in_blocks(rope, k, v, 11, keys.blocks(), values.blocks());
    attention::append(cpu{}, rope, k, v, 11, keys.host(), values.host());
    REQUIRE(keys.same());
    REQUIRE(values.same());
  }
}

TEST_CASE("append block: pages in any order, of any size, with idle slots", "[attention][cuda][property]") {
  constexpr index_t batch = 4, heads = 2, dim = 32, count = 3;
  const std::vector<index_t> lengths{19, 0, 3, 8};
  const auto k = random_tensor<bfloat16>(88, batch, heads, count, dim),
             v = random_tensor<bfloat16>(89, batch, heads, count, dim);
  for (const index_t page_size : {1, 3, 16}) {
    CAPTURE(page_size);
    const index_t most = ceil_div(19, page_size), pages = batch * most;
    tensor<std::int32_t, 2> entries(batch, most);
    for (index_t n = 0; n < entries.size(); ++n) entries.data()[n] = static_cast<std::int32_t>(n * 7 % pages);
    if (pages % 7 == 0)  // 7 is no unit then
      for (index_t n = 0; n < entries.size(); ++n) entries.data()[n] = static_cast<std::int32_t>(pages - 1 - n);
    const attention::page_table table{entries, lengths};
    // [pages, page_size, heads, dim] for the keys
    twins<bfloat16> keys(pages, page_size, heads, dim);
    twins<float> values(pages, heads, page_size, dim);
    append_in_blocks(rope, k, v, paged{keys.blocks.view().transposed(1, 2), table}, paged{values.blocks, table});
    attention::append(cpu{}, rope, k, v, paged{keys.host.view().transposed(1, 2), table}, paged{values.host, table});
    REQUIRE(keys.same());
    REQUIRE(values.same());
    code_twins key_codes(pages, heads, page_size, dim, 2), value_codes(pages, heads, page_size, dim, 1);
    append_in_blocks(rope, k, v, paged{key_codes.blocks(), table}, paged{value_codes.blocks(), table});
    attention::append(cpu{}, rope, k, v, paged{key_codes.host(), table}, paged{value_codes.host(), table});
    REQUIRE(key_codes.same());
    REQUIRE(value_codes.same());
  }
}

TEST_CASE("append block: ragged rows become the last tokens of their sequences", "[attention][cuda][property]") {
  constexpr index_t heads = 3, dim = 16, page_size = 4, pages = 40;
  const std::vector<index_t> lengths{40, 9, 6, 13, 33};
  const std::vector<std::int32_t> offsets{0, 1, 1, 7, 20, 53};
  const auto k = random_tensor<bfloat16>(90, 1, heads, 53, dim), v = random_tensor<bfloat16>(91, 1, heads, 53, dim);
  tensor<std::int32_t, 2> entries(5, 10);
  std::int32_t next = 0;
  for (index_t b = 0; b < 5; ++b)
    for (index_t n = 0; n < ceil_div(lengths[static_cast<std::size_t>(b)], page_size); ++n)
      entries(b, n) = next++ * 3 % pages;
  const attention::page_table table{entries, lengths};
  tensor<index_t, 2> ids(5, 40);
  for (index_t i = 0; i < ids.size(); ++i) ids.data()[i] = i * 5 % 97;
  const auto check = [&](const auto& op) {
    twins<bfloat16> keys(pages, heads, page_size, dim), values(pages, heads, page_size, dim);
    append_in_blocks(op, ragged{k, offsets}, ragged{v, offsets}, paged{keys.blocks, table},
                     paged{values.blocks, table});
    attention::append(cpu{}, op, ragged{k, offsets}, ragged{v, offsets}, paged{keys.host, table},
                      paged{values.host, table});
    REQUIRE(keys.same());
    REQUIRE(values.same());
  };
  check(rope);
  const position::token_ids_per_batch by_sequence{.ids = ids.view()};
  check(attention::softmax{mask::causal{}, score::identity{}, position::placed{rotary{}, by_sequence, by_sequence}});
}

TEST_CASE("append block: rows behind the last offset are not written", "[attention][cuda][edge]") {
  const std::vector<std::int32_t> offsets{0, 2, 3}, lengths{6, 5};
  tensor<std::int32_t, 2> page_of(2, 2);
  page_of.fill(99);  // names no page: who reads it writes far away
  page_of(0, 0) = 1;
  page_of(0, 1) = 0;
  page_of(1, 0) = 2;
  page_of(1, 1) = 3;
  const attention::page_table table(page_of, lengths);
  const auto k = random_tensor<bfloat16>(95, 1, 2, 9, 32);  // six rows more than the offsets name
  twins<bfloat16> keys(4, 2, 4, 32), values(4, 2, 4, 32);
  const auto cache = attention::detail::writable(paged{keys.blocks, table}),
             other = attention::detail::writable(paged{values.blocks, table});
  append_in_blocks(rope, attention::detail::ragged_tokens{offsets, 9},
                   attention::detail::ragged_starts{lengths, offsets}, k.view(), k.view(), cache, other);
  const auto named = k.view().slice(2, {0, 3});
  attention::append(cpu{}, rope, ragged{named, offsets}, ragged{named, offsets}, paged{keys.host, table},
                    paged{values.host, table});
  REQUIRE(keys.same());
  REQUIRE(values.same());
}

TEST_CASE("append block: ragged queries get the positions that they have alone", "[attention][cuda][property]") {
  namespace detail = attention::detail;
  const std::vector<std::int32_t> offsets{0, 0, 3, 4, 9}, lengths{5, 9, 1, 70}, first{0, 2, 40, 7};
  const auto q = random_tensor<bfloat16>(91, 1, 3, 9, 32);
  const auto check = [&](const auto& op, const auto& start_of) {
    tensor<bfloat16, 4> blocks(1, 3, 9, 32), host = blocks;
    const auto at = position::place(op.position);
    const auto encoding = position::for_head_dim(at.encoding, 32);
    const auto starts = detail::ragged_starts_of(op, lengths, offsets);
    const auto call = position::detail::make_encode_call(
        subject{"test", "none"}, encoding, position::side::query, position::shifted_rows{at.queries, starts},
        detail::ragged_tokens{offsets, 9}, 32, tensor_view<const bfloat16, 4>(q.view()),
        detail::ragged_results<bfloat16>{blocks.view(), true, offsets});
    for (index_t block = 0; block < call.blocks(); ++block)
      test::emulated_block::run(position::detail::encode_warps, call.tile.shared_bytes,
                                static_cast<std::uint32_t>(block), [&](const auto& engine, std::byte* shared) {
                                  position::detail::encode_block<position::detail::direction::forward>(engine, call,
                                                                                                       shared);
                                });
    for (index_t b = 0; b < 4; ++b) {
      const range rows{offsets[static_cast<std::size_t>(b)], offsets[static_cast<std::size_t>(b) + 1]};
      if (rows.empty()) continue;
      position::encode(cpu{}, encoding,
                       position::shifted_rows{at.queries, row_starts{.common = start_of(b, rows.size())}},
                       q.view().slice(2, rows), host.view().slice(2, rows));
    }
    REQUIRE(same_bits(blocks, host));
  };
  check(rope, [&](index_t b, index_t count) { return lengths[static_cast<std::size_t>(b)] - count; });
  check(rope.starting_at(17), [](index_t, index_t) { return 17; });
  check(rope.starting_at(first), [&](index_t b, index_t) { return first[static_cast<std::size_t>(b)]; });
}
