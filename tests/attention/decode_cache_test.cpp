// SPDX-License-Identifier: Apache-2.0
// Decode and append on caches in pages and in 8 bits, and query heads that go through their keys together.
#include <seqprim/attention/decode.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/position/position.hpp>
#include <seqprim/score/score.hpp>

#include <algorithm>
#include <attention/kernels.hpp>
#include <attention/problem.hpp>
#include <limits>
#include <support/catch.hpp>
#include <vector>

using namespace seqprim;
namespace kernels = test::kernels;
using test::attention_problem;
using test::random_numbers;

namespace {

/// Pages in random places of a pool, with the rows of a contiguous cache in them; everything else holds `rest`.
template <class T> struct paged_copy {
  tensor<T, 4> pages;
  tensor<std::int32_t, 2> entries;
  std::vector<index_t> lengths;

  paged_copy(random_numbers& random, const tensor<T, 4>& rows, const std::vector<index_t>& lengths_, index_t page_size,
             T rest)
      : entries(rows.extent(0), max<index_t>(1, ceil_div(rows.extent(2), page_size)) + 1), lengths(lengths_) {
    const index_t batch = rows.extent(0), count = batch * entries.extent(1) + 3;
    pages = tensor<T, 4>(count, rows.extent(1), page_size, rows.extent(3));
    pages.fill(rest);
    std::vector<std::int32_t> free(static_cast<std::size_t>(count));
    for (std::size_t n = 0; n < free.size(); ++n) free[n] = static_cast<std::int32_t>(n);
    for (std::size_t n = free.size(); n > 1; --n)
      std::swap(free[n - 1], free[static_cast<std::size_t>(random.integer(0, static_cast<index_t>(n) - 1))]);
    for (std::int32_t& entry : entries) entry = -1;
    for (index_t b = 0; b < batch; ++b)
      for (index_t j = 0; j < lengths[static_cast<std::size_t>(b)]; ++j) {
        std::int32_t& page = entries(b, j / page_size);
        if (page < 0) {
          page = free.back();
          free.pop_back();
        }
        for (index_t h = 0; h < rows.extent(1); ++h)
          for (index_t d = 0; d < rows.extent(3); ++d) pages(page, h, j % page_size, d) = rows(b, h, j, d);
      }
  }

  [[nodiscard]] attention::page_table table() const { return {entries, index_array(lengths)}; }
  [[nodiscard]] auto cache() const { return attention::paged{pages, table()}; }
};

template <class A, class B> bool same_bits(const A& a, const B& b) {
  return __builtin_memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(*a.data())) == 0;
}

/// Outputs of one decode, filled with something that no result leaves behind.
template <class T> struct results {
  tensor<T, 4> out;
  tensor<float, 3> lse;

  explicit results(const attention_problem<T>& p)
      : out(p.batch, p.heads, p.q_len, p.value_dim), lse(p.batch, p.heads, p.q_len) {
    out.fill(T(44.0f));
    lse.fill(44.0f);
  }
};
template <class T> bool same_bits(const results<T>& a, const results<T>& b) {
  return same_bits(a.out, b.out) && same_bits(a.lse, b.lse);
}

/// Compares with the definition, within twice the error of the naive loop on the same numbers.
template <class T, class Op> void require_close(const Op& op, const attention_problem<T>& p, const results<T>& r) {
  tensor<double, 4> exact(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<double, 3> exact_lse(p.batch, p.heads, p.q_len);
  attention::reference::forward(op, p.q, p.k, p.v, exact, exact_lse);
  tensor<float, 4> naive(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> naive_lse(p.batch, p.heads, p.q_len);
  kernels::naive_forward(op, p, naive, naive_lse);
  const double budget = 2 * test::distance(naive, exact) +
                        2 * (test::rounding<T> + 2 * test::rounding<float>)*std::max(1.0, test::largest(exact));
  CAPTURE(p.batch, p.heads, p.kv_heads, p.q_len, p.k_len, p.head_dim, p.value_dim, budget);
  REQUIRE(test::distance(r.out, exact) <= budget);
  REQUIRE(test::distance(r.lse, exact_lse) <= 2 * test::distance(naive_lse, exact_lse) +
                                                  8 * test::rounding<float> * std::max(1.0, test::largest(exact_lse)));
}

/// A cache in 8 bits, made by append.
struct codes {
  tensor<std::int8_t, 4> number;
  tensor<float, 4> scale;

  codes(index_t batch, index_t kv_heads, index_t len, index_t dim, index_t blocks)
      : number(batch, kv_heads, len, dim), scale(batch, kv_heads, len, blocks) {}
  [[nodiscard]] auto cache() { return attention::quantized{number, scale}; }
  [[nodiscard]] auto cache() const { return attention::quantized{number, scale}; }
};

/// Replaces the keys and values of a problem by what 8 bits keep of them, and returns the codes.
struct coded_problem {
  codes k, v;

  coded_problem(attention_problem<float>& p, index_t k_blocks, index_t v_blocks)
      : k(p.batch, p.kv_heads, p.k_len, p.head_dim, k_blocks), v(p.batch, p.kv_heads, p.k_len, p.value_dim, v_blocks) {
    attention::append(cpu{}, attention::softmax{}, p.k, p.v, 0, k.cache(), v.cache());
    const auto widen = [](const codes& from, tensor<float, 4>& to) {
      for (index_t b = 0; b < to.extent(0); ++b)
        for (index_t h = 0; h < to.extent(1); ++h)
          for (index_t j = 0; j < to.extent(2); ++j)
            for (index_t d = 0; d < to.extent(3); ++d) to(b, h, j, d) = from.cache()(b, h, j, d);
    };
    widen(k, p.k);
    widen(v, p.v);
  }
};

}  // namespace

TEMPLATE_TEST_CASE("decode: heads that share keys go through them together, for any number of rows",
                   "[attention][property]", float, bfloat16) {
  random_numbers random(311);
  for (const index_t group : {1, 2, 3, 4, 5, 8, 9, 16, 17, 24})
    for (const index_t q_len : {1, 3}) {
      const index_t k_len = random.integer(1, 150);
      attention_problem<TestType> p(2, 2 * group, 2, q_len, k_len, random.integer(1, 70), random.integer(1, 70));
      p.fill(random);
      const index_t offset = k_len - q_len;
      CAPTURE(group);
      const auto run = [&](const auto& op) {
        results<TestType> r(p);
        kernels::decode(cpu{}, op, p.q, p.k, p.v, r.out, r.lse);
        require_close(op, p, r);
      };
      run(attention::softmax{mask::causal{}}.starting_at(offset));
      run(attention::softmax{mask::sliding_window{.left = 20}, score::soft_cap{.cap = 2.0f}}
              .starting_at(offset)
              .tiled_heads());
      run(attention::softmax{mask::causal{}, score::alibi{.heads = p.heads}}.starting_at(offset));
    }
}

TEST_CASE("decode: lengths around a split and around a register of rows", "[attention][edge]") {
  random_numbers random(312);
  for (const index_t k_len : {0, 1, 15, 16, 17, 31, 32, 33, 64, 65})
    for (const index_t q_len : {1, 7, 8, 9, 15, 16, 17, 63, 64, 65}) {
      attention_problem<float> p(1, 2, 2, q_len, k_len, 24, 17);
      p.fill(random);
      // Negative offsets leave rows, and where q_len is large whole tiles, without keys.
      const auto op = attention::softmax{mask::causal{}}.starting_at(k_len - q_len);
      results<float> r(p);
      kernels::decode(cpu{}, op, p.q, p.k, p.v, r.out, r.lse);
      require_close(op, p, r);
      if (k_len == 0) REQUIRE((r.out(0, 1, 0, 0) == 0.0f && r.lse(0, 1, 0) == -HUGE_VALF));
    }
}

TEST_CASE("decode: equal scores, large logits and -inf", "[attention][edge]") {
  random_numbers random(313);
  for (const index_t heads : {1, 8, 40}) {
    attention_problem<float> p(1, heads, 1, 1, 70, 16, 16);
    p.fill(random);
    const auto run = [&](const auto& op) {
      results<float> r(p);
      kernels::decode(cpu{}, op, p.q, p.k, p.v, r.out, r.lse);
      require_close(op, p, r);
      return r;
    };
    p.q.fill(0.0f);
    REQUIRE(run(attention::softmax{}).lse(0, heads - 1, 0) == Approx(std::log(70.0f)).epsilon(1e-6));
    p.fill(random);
    // Logits of +-1e4: keys are the query times +-1e4 / |q|^2 or small.
    for (index_t j = 0; j < 70; ++j)
      for (index_t d = 0; d < 16; ++d) p.k(0, 0, j, d) = (j % 3 == 0 ? 1e4f : j % 3 == 1 ? -1e4f : 1.0f) * (d == 0);
    for (index_t h = 0; h < heads; ++h)
      for (index_t d = 0; d < 16; ++d) p.q(0, h, 0, d) = d == 0;
    run(attention::softmax{}.scaled(1.0f));
    run(attention::softmax{}.scaled(-1.0f));
    // A key whose logit is -inf counts for nothing.
    p.k(0, 0, 5, 0) = -HUGE_VALF;
    const attention::softmax op = attention::softmax{}.scaled(1.0f);
    const auto with = run(op);
    for (index_t j = 0; j < 70; ++j)
      if (j != 5) REQUIRE(std::isfinite(with.out(0, 0, 0, 0)));
    for (index_t j = 0; j < 70; ++j) p.k(0, 0, j, 0) = -HUGE_VALF;
    results<float> r(p);
    kernels::decode(cpu{}, op, p.q, p.k, p.v, r.out, r.lse);
    REQUIRE((r.lse(0, 0, 0) == -HUGE_VALF && r.out(0, 0, 0, 3) == 0.0f));
  }
}

TEST_CASE("decode: a NaN stays in the rows that see it", "[attention][edge]") {
  random_numbers random(314);
  for (const index_t group : {1, 2, 6}) {  // 4, 8 and 24 rows: one block and two
    attention_problem<float> p(1, group, 1, 4, 40, 20, 20);
    p.fill(random);
    const auto op = attention::softmax{mask::causal{}}.starting_at(36);
    results<float> clean(p);
    kernels::decode(cpu{}, op, p.q, p.k, p.v, clean.out, clean.lse);
    for (const bool in_value : {false, true})
      for (const float poison : {std::nanf(""), HUGE_VALF}) {
        auto k = p.k, v = p.v;
        (in_value ? v : k)(0, 0, 38, 3) = poison;  // seen by queries 2 and 3
        results<float> r(p);
        kernels::decode(cpu{}, op, p.q, k, v, r.out, r.lse);
        for (index_t h = 0; h < group; ++h)
          for (index_t d = 0; d < 20; ++d) {
            for (const index_t i : {0, 1}) {
              REQUIRE(r.out(0, h, i, d) == clean.out(0, h, i, d));
              REQUIRE(r.lse(0, h, i) == clean.lse(0, h, i));
            }
            if (in_value && d == 3) REQUIRE_FALSE(std::isfinite(r.out(0, h, 2, d)));
            if (in_value && d != 3) REQUIRE(std::isfinite(r.out(0, h, 2, d)));
            if (!in_value && std::isnan(poison)) REQUIRE(std::isnan(r.out(0, h, 3, d)));
          }
      }
  }
}

TEMPLATE_TEST_CASE("decode: pages of any size give the bits of a contiguous cache", "[attention][property]", float,
                   bfloat16) {
  random_numbers random(315);
  for (int trial = 0; trial < 24; ++trial) {
    const index_t group = trial % 3 == 0 ? 1 : trial % 3 == 1 ? 5 : 20, k_len = random.integer(1, 200);
    const index_t q_len = random.integer(1, 3);
    attention_problem<TestType> p(3, 2 * group, 2, q_len, k_len, random.integer(1, 40), random.integer(1, 40));
    p.fill(random);
    const std::vector<index_t> lengths{k_len, random.integer(0, k_len), random.integer(0, k_len)};
    const index_t page_size = trial % 4 == 0 ? 1 : random.integer(1, 70);
    const auto nothing = TestType(std::nanf(""));
    const paged_copy<TestType> k(random, p.k, lengths, page_size, nothing), v(random, p.v, lengths, page_size, nothing);
    const auto run = [&](const auto& contiguous_op, const auto& paged_op) {
      results<TestType> contiguous(p), pages(p);
      kernels::decode(cpu{}, contiguous_op, p.q, p.k, p.v, contiguous.out, contiguous.lse);
      kernels::decode(cpu{}, paged_op, p.q, k.cache(), v.cache(), pages.out, pages.lse);
      CAPTURE(trial, group, q_len, k_len, page_size, lengths);
      REQUIRE(same_bits(contiguous, pages));
      require_close(contiguous_op, p, pages);
    };
    const mask::key_padding padding{.lengths = lengths, .k_len = k_len};
    run(attention::softmax{padding}, attention::softmax{});
    const mask::sliding_window window{.left = 30};  // the padded rows end at k_len, whatever the lengths
    run(attention::softmax{padding & window, score::soft_cap{.cap = 3.0f}},
        attention::softmax{window, score::soft_cap{.cap = 3.0f}}.starting_at(k_len - q_len));
  }
}

TEST_CASE("decode: pages stored tokens first, and sequences that share a page", "[attention]") {
  random_numbers random(316);
  attention_problem<float> p(2, 4, 2, 1, 20, 16, 16);
  p.fill(random);
  tensor<float, 4> k_pages(5, 8, 2, 16), v_pages(5, 8, 2, 16);  // [pages, page_size, kv_heads, dim]
  random.fill(k_pages);
  random.fill(v_pages);
  tensor<std::int64_t, 2> entries(2, 3);
  const std::int64_t pages[2][3] = {{3, 1, 4}, {3, 0, -7}};
  const std::vector<std::int32_t> lengths{20, 13};
  for (index_t b = 0; b < 2; ++b)
    for (index_t n = 0; n < 3; ++n) entries(b, n) = pages[b][n];
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t j = 0; j < lengths[static_cast<std::size_t>(b)]; ++j)
        for (index_t d = 0; d < 16; ++d) {
          p.k(b, h, j, d) = k_pages(pages[b][j / 8], j % 8, h, d);
          p.v(b, h, j, d) = v_pages(pages[b][j / 8], j % 8, h, d);
        }
  const attention::page_table table(entries, lengths);
  results<float> contiguous(p), paged(p);
  kernels::decode(cpu{}, attention::softmax{mask::key_padding{.lengths = lengths, .k_len = 20}}, p.q, p.k, p.v,
                  contiguous.out, contiguous.lse);
  kernels::decode(cpu{}, attention::softmax{}, p.q, attention::paged{k_pages.view().transposed(1, 2), table},
                  attention::paged{v_pages.view().transposed(1, 2), table}, paged.out, paged.lse);
  REQUIRE(same_bits(contiguous, paged));
}

TEST_CASE("decode: more queries than fit one turn, against pages", "[attention][property]") {
  random_numbers random(317);
  const index_t len = 150;
  attention_problem<float> p(1, 4, 2, len, len, 24, 24);
  p.fill(random);
  const paged_copy<float> k(random, p.k, {len}, 16, std::nanf("")), v(random, p.v, {len}, 16, std::nanf(""));
  const attention::softmax op{mask::causal{}};
  results<float> r(p);
  kernels::decode(cpu{}, op, p.q, k.cache(), v.cache(), r.out, r.lse);
  require_close(op, p, r);
}

TEST_CASE("decode: token by token on pages of sequences of unequal length equals forward", "[attention][property]") {
  random_numbers random(318);
  const index_t len = 40;
  attention_problem<float> p(2, 4, 2, len, len, 16, 16);
  p.fill(random);
  const auto rope = position::rotary<position::half_split>{.rotary_dim = 16};
  tensor<float, 4> whole(2, 4, len, 16), out(2, 4, 1, 16), k_new(2, 2, 1, 16), v_new(2, 2, 1, 16), q_new(2, 4, 1, 16);
  kernels::forward(cpu{}, attention::softmax{mask::causal{}, score::identity{}, rope}, p.q, p.k, p.v, whole);
  tensor<float, 4> k_pages(14, 2, 8, 16), v_pages(14, 2, 8, 16);
  k_pages.fill(std::nanf(""));
  v_pages.fill(std::nanf(""));
  tensor<std::int32_t, 2> entries(2, 6);
  for (index_t n = 0; n < 6; ++n) {
    entries(0, n) = static_cast<std::int32_t>(13 - 2 * n);
    entries(1, n) = static_cast<std::int32_t>(2 * n);
  }
  const attention::softmax op{mask::full{}, score::identity{}, rope};
  // The second sequence is 3 tokens ahead: it starts with a prefill of 4.
  std::vector<index_t> lengths{1, 4};
  const attention::page_table table(entries, lengths);
  const attention::paged k_cache{k_pages, table}, v_cache{v_pages, table};
  {
    tensor<std::int32_t, 2> second(1, 6);
    for (index_t n = 0; n < 6; ++n) second(0, n) = entries(1, n);
    const index_t three[1] = {3};
    const attention::page_table prefix(second, {three, 1});
    const auto first_rows = [](const tensor<float, 4>& x) { return x.view().slice(0, {1, 2}).slice(2, {0, 3}); };
    attention::append(cpu{}, op, first_rows(p.k), first_rows(p.v), attention::paged{k_pages, prefix},
                      attention::paged{v_pages, prefix});
  }
  for (index_t n = 0; n + 3 < len; ++n) {
    lengths = {n + 1, n + 4};
    for (index_t b = 0; b < 2; ++b)
      for (index_t d = 0; d < 16; ++d) {
        for (index_t h = 0; h < 2; ++h) {
          k_new(b, h, 0, d) = p.k(b, h, n + 3 * b, d);
          v_new(b, h, 0, d) = p.v(b, h, n + 3 * b, d);
        }
        for (index_t h = 0; h < 4; ++h) q_new(b, h, 0, d) = p.q(b, h, n + 3 * b, d);
      }
    attention::append(cpu{}, op, k_new, v_new, k_cache, v_cache);
    kernels::decode(cpu{}, op, q_new, k_cache, v_cache, out);
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 4; ++h)
        for (index_t d = 0; d < 16; ++d) REQUIRE(out(b, h, 0, d) == Approx(whole(b, h, n + 3 * b, d)).margin(2e-6));
  }
}

TEST_CASE("append: 8 bits keep each number to half a scale, ties to even", "[attention][property]") {
  random_numbers random(319);
  for (const index_t blocks : {1, 2, 4}) {
    tensor<float, 4> k(2, 2, 30, 64), v(2, 2, 30, 64);
    random.fill(k, 5.0f);
    random.fill(v, 1e-3f);
    codes k_codes(2, 2, 30, 64, blocks), v_codes(2, 2, 30, 64, blocks);
    attention::append(cpu{}, attention::softmax{}, k, v, 0, k_codes.cache(), v_codes.cache());
    for (const auto& [from, to] : {std::pair{&k, &k_codes}, std::pair{&v, &v_codes}})
      for (index_t b = 0; b < 2; ++b)
        for (index_t h = 0; h < 2; ++h)
          for (index_t j = 0; j < 30; ++j)
            for (index_t n = 0; n < blocks; ++n) {
              const double scale = static_cast<double>(to->scale(b, h, j, n));
              double largest = 0;
              int extreme = 0;
              for (index_t d = n * 64 / blocks; d < (n + 1) * 64 / blocks; ++d) {
                const double x = static_cast<double>((*from)(b, h, j, d));
                const int code = to->number(b, h, j, d);
                largest = std::max(largest, std::abs(x));
                extreme = std::max(extreme, std::abs(code));
                // Half a scale, and the rounding of x / scale in float.
                REQUIRE(std::abs(x - code * scale) <= scale * (0.5 + 128 * 0x1p-23));
              }
              REQUIRE(scale == Approx(largest / 127).epsilon(1e-7));
              REQUIRE(extreme == 127);
            }
  }
  tensor<float, 4> k(1, 1, 1, 16), v(1, 1, 1, 16);
  for (index_t d = 0; d < 16; ++d) k(0, 0, 0, d) = d == 0 ? 127.0f : static_cast<float>(d) - 8.5f;
  codes k_codes(1, 1, 1, 16, 1), v_codes(1, 1, 1, 16, 1);
  attention::append(cpu{}, attention::softmax{}, k, v, 0, k_codes.cache(), v_codes.cache());
  REQUIRE(k_codes.number(0, 0, 0, 1) == -8);                                        // -7.5
  REQUIRE(k_codes.number(0, 0, 0, 2) == -6);                                        // -6.5
  REQUIRE(k_codes.number(0, 0, 0, 11) == 2);                                        // 2.5
  REQUIRE((v_codes.scale(0, 0, 0, 0) == 0.0f && v_codes.number(0, 0, 0, 5) == 0));  // zeros
}

TEST_CASE("decode: agrees with the definition on the numbers that 8 bits keep", "[attention][property]") {
  random_numbers random(320);
  for (int trial = 0; trial < 24; ++trial) {
    const index_t group = trial % 3 == 0 ? 1 : trial % 3 == 1 ? 6 : 18, k_len = random.integer(1, 150);
    const bool blocks = trial % 2 == 1;
    const index_t dim = blocks ? 32 * random.integer(1, 3) : random.integer(1, 80);
    const index_t value_dim = blocks ? 64 : random.integer(1, 80);
    attention_problem<float> p(2, 2 * group, 2, 1 + trial % 2, k_len, dim, value_dim);
    p.fill(random);
    const coded_problem c(p, blocks ? dim / 32 : 1, blocks ? 4 : 1);
    const auto op = attention::softmax{mask::causal{}}.starting_at(k_len - p.q_len);
    results<float> r(p), pages(p);
    kernels::decode(cpu{}, op, p.q, c.k.cache(), c.v.cache(), r.out, r.lse);
    require_close(op, p, r);
    // bfloat16 queries are multiplied with codes in another way.
    const tensor<float, 4> plain = p.q;
    tensor<bfloat16, 4> narrow(p.batch, p.heads, p.q_len, dim);
    std::transform(p.q.begin(), p.q.end(), narrow.begin(), [](float x) { return bfloat16(x); });
    std::copy(narrow.begin(), narrow.end(), p.q.begin());
    kernels::decode(cpu{}, op, narrow, c.k.cache(), c.v.cache(), pages.out, pages.lse);
    require_close(op, p, pages);
    p.q = plain;
    // The same in pages: equal bits.
    const index_t page_size = random.integer(1, 40);
    const std::vector<index_t> lengths{k_len, k_len};
    const auto paged_like = [&](const codes& from, paged_copy<float>& scales) {
      tensor<std::int8_t, 4> number(scales.pages.extent(0), 2, page_size, from.number.extent(3));
      for (index_t b = 0; b < 2; ++b)
        for (index_t h = 0; h < 2; ++h)
          for (index_t j = 0; j < k_len; ++j)
            for (index_t d = 0; d < from.number.extent(3); ++d)
              number(scales.entries(b, j / page_size), h, j % page_size, d) = from.number(b, h, j, d);
      return number;
    };
    paged_copy<float> k_scales(random, c.k.scale, lengths, page_size, std::nanf(""));
    paged_copy<float> v_scales(random, c.v.scale, lengths, page_size, std::nanf(""));
    const auto k_number = paged_like(c.k, k_scales), v_number = paged_like(c.v, v_scales);
    kernels::decode(cpu{}, op, p.q, attention::paged{attention::quantized{k_number, k_scales.pages}, k_scales.table()},
                    attention::paged{attention::quantized{v_number, v_scales.pages}, v_scales.table()}, pages.out,
                    pages.lse);
    CAPTURE(trial, page_size);
    REQUIRE(same_bits(r, pages));
  }
}

TEST_CASE("append: pages and contiguous caches receive the same codes, positions included", "[attention][property]") {
  random_numbers random(321);
  tensor<float, 4> k(2, 2, 5, 32), v(2, 2, 5, 32);
  random.fill(k);
  random.fill(v);
  codes whole_k(2, 2, 24, 32, 2), whole_v(2, 2, 24, 32, 2), paged_k(6, 2, 8, 32, 2), paged_v(6, 2, 8, 32, 2);
  const auto rope = position::rotary<position::half_split>{.rotary_dim = 32};
  const attention::softmax op{mask::full{}, score::identity{}, rope};
  attention::append(cpu{}, op, k, v, 6, whole_k.cache(), whole_v.cache());
  tensor<std::int32_t, 2> entries(2, 3);
  for (index_t n = 0; n < 6; ++n) entries(n % 2, n / 2) = static_cast<std::int32_t>(5 - n);
  const std::vector<std::int32_t> lengths{11, 11};
  const attention::page_table table(entries, lengths);
  attention::append(cpu{}, op, k, v, attention::paged{paged_k.cache(), table},
                    attention::paged{paged_v.cache(), table});
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t j = 6; j < 11; ++j)
        for (index_t d = 0; d < 32; ++d) {
          REQUIRE(paged_k.number(entries(b, j / 8), h, j % 8, d) == whole_k.number(b, h, j, d));
          REQUIRE(paged_v.cache()(entries(b, j / 8), h, j % 8, d) == whole_v.cache()(b, h, j, d));
        }
}

TEST_CASE("decode: scales of 0, infinity, NaN and close to infinity stay with the rows that see them",
          "[attention][edge]") {
  random_numbers random(322);
  for (const index_t group : {1, 2, 6})
    for (const index_t blocks : {1, 2}) {
      attention_problem<float> p(1, group, 1, 4, 40, 32, 32);
      p.fill(random);
      coded_problem c(p, blocks, blocks);
      const auto op = attention::softmax{mask::causal{}}.starting_at(36);
      results<float> clean(p);
      kernels::decode(cpu{}, op, p.q, c.k.cache(), c.v.cache(), clean.out, clean.lse);
      for (const bool in_value : {false, true})
        for (const float poison : {std::nanf(""), HUGE_VALF, 3e38f}) {  // 2 * 3e38 is no float
          codes& at = in_value ? c.v : c.k;
          const float kept = at.scale(0, 0, 38, blocks - 1);
          at.scale(0, 0, 38, blocks - 1) = poison;
          results<float> r(p);
          kernels::decode(cpu{}, op, p.q, c.k.cache(), c.v.cache(), r.out, r.lse);
          at.scale(0, 0, 38, blocks - 1) = kept;
          CAPTURE(group, blocks, in_value, poison);
          for (index_t h = 0; h < group; ++h)
            for (index_t d = 0; d < 32; ++d) {
              for (const index_t i : {0, 1}) {
                REQUIRE(r.out(0, h, i, d) == clean.out(0, h, i, d));
                REQUIRE(r.lse(0, h, i) == clean.lse(0, h, i));
              }
              if (in_value && d >= 32 - 32 / blocks && !std::isfinite(poison))
                REQUIRE_FALSE(std::isfinite(r.out(0, h, 3, d)));
              if (in_value && d < 32 - 32 / blocks) REQUIRE(std::isfinite(r.out(0, h, 3, d)));
              if (!in_value && std::isnan(poison)) REQUIRE(std::isnan(r.out(0, h, 3, d)));
            }
        }
      // A scale of 0 makes a row of zeros.
      c.k.scale(0, 0, 7, 0) = c.v.scale(0, 0, 7, 0) = 0;
      for (index_t d = 0; d < 32 / blocks; ++d) p.k(0, 0, 7, d) = p.v(0, 0, 7, d) = 0;
      results<float> r(p);
      kernels::decode(cpu{}, op, p.q, c.k.cache(), c.v.cache(), r.out, r.lse);
      require_close(op, p, r);
    }
}

TEST_CASE("append: NaN and infinity become a scale of NaN, and queries that see it get NaN", "[attention][edge]") {
  random_numbers random(323);
  for (const float poison : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    attention_problem<float> p(1, 1, 1, 1, 10, 32, 32);
    p.fill(random);
    p.v(0, 0, 4, 20) = poison;
    const coded_problem c(p, 1, 2);
    REQUIRE(std::isnan(c.v.scale(0, 0, 4, 1)));
    REQUIRE(std::isfinite(c.v.scale(0, 0, 4, 0)));
    results<float> r(p);
    kernels::decode(cpu{}, attention::softmax{}, p.q, c.k.cache(), c.v.cache(), r.out, r.lse);
    REQUIRE((std::isfinite(r.out(0, 0, 0, 15)) && std::isnan(r.out(0, 0, 0, 16)) && std::isfinite(r.lse(0, 0, 0))));
    kernels::decode(cpu{}, attention::softmax{mask::key_range{5, 10}}, p.q, c.k.cache(), c.v.cache(), r.out, r.lse);
    REQUIRE(std::isfinite(r.out(0, 0, 0, 16)));
  }
}

TEST_CASE("decode: any mask on pages, rows that see nothing in common, and NaN in what some rows do not see",
          "[attention][property]") {
  random_numbers random(327);
  for (int trial = 0; trial < 60; ++trial) {
    const index_t kv_heads = random.integer(1, 2), heads = kv_heads * random.integer(1, 9);
    attention_problem<float> p(2, heads, kv_heads, random.integer(1, 7), random.integer(1, 70), random.integer(0, 40),
                               random.integer(1, 40));
    p.fill(random);
    // Each row sees what it happens to see of a run of its own.
    tensor<bool, 4> seen(2, heads, p.q_len, p.k_len);
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < heads; ++h)
        for (index_t i = 0; i < p.q_len; ++i) {
          const index_t begin = random.integer(0, p.k_len), end = begin + random.integer(0, 25);
          for (index_t j = begin; j < min(end, p.k_len); ++j) seen(b, h, i, j) = random.integer(0, 3) != 0;
        }
    const index_t bad = random.integer(0, p.k_len - 1), g = random.integer(0, kv_heads - 1);
    auto op = attention::softmax{mask::dense_per_head{seen.view()}};
    if (trial % 2 == 0) op = op.with_sink(0.3f);
    if (trial % 3 == 0) op = op.tiled_heads();
    const index_t page_size = trial % 4 == 0 ? 1 : random.integer(1, 20);
    const std::vector<index_t> lengths{p.k_len, p.k_len};
    const auto run = [&] {
      const paged_copy<float> k(random, p.k, lengths, page_size, std::nanf("")),
          v(random, p.v, lengths, page_size, std::nanf(""));
      results<float> r(p);
      kernels::decode(cpu{}, op, p.q, k.cache(), v.cache(), r.out, r.lse);
      return r;
    };
    CAPTURE(trial, page_size, bad);
    const results<float> clean = run();
    require_close(op, p, clean);
    p.v(1, g, bad, 0) = std::nanf("");
    if (p.head_dim > 0) p.k(1, g, bad, p.head_dim - 1) = std::nanf("");
    const results<float> r = run();
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < heads; ++h) {
        const bool shares = b == 1 && (trial % 3 == 0 ? h % kv_heads : h / (heads / kv_heads)) == g;
        for (index_t i = 0; i < p.q_len; ++i) {
          const bool hit = shares && seen(b, h, i, bad);
          REQUIRE(std::isnan(r.out(b, h, i, 0)) == hit);
          if (!hit) REQUIRE(r.lse(b, h, i) == clean.lse(b, h, i));
          for (index_t d = 0; d < p.value_dim && !hit; ++d) REQUIRE(r.out(b, h, i, d) == clean.out(b, h, i, d));
        }
      }
  }
}

TEST_CASE("decode: rows without channels need no memory", "[attention][edge]") {
  tensor<float, 4> rows(1, 2, 9, 16), out(1, 2, 1, 16);
  tensor<float, 3> lse(1, 2, 1);
  rows.fill(3.0f);
  const tensor_view<float, 4> none(nullptr, {1, 2, 9, 0}, {99, 40, 3, 1});
  const attention::softmax op{mask::key_range{0, 5}};
  kernels::decode(cpu{}, op, none.slice(2, {0, 1}), none, rows, out, lse);
  REQUIRE((out(0, 1, 0, 15) == Approx(3.0f) && lse(0, 1, 0) == Approx(std::log(5.0f))));
  kernels::decode(cpu{}, op, rows.view().slice(2, {0, 1}), rows, none, none.slice(2, {0, 1}), lse);
  REQUIRE(lse(0, 1, 0) == Approx(36.0f + std::log(5.0f)));
}

TEMPLATE_TEST_CASE("decode: a row has the same bits, however many others share its keys", "[attention][property]",
                   float, bfloat16) {
  random_numbers random(326);
  for (const index_t dim : {64, 128, 40}) {  // multiplied as pairs or widened woven, and in order
    attention_problem<TestType> p(1, 21, 1, 3, 200, dim, dim);
    p.fill(random);
    const auto op = attention::softmax{mask::causal{}}.starting_at(197);
    results<TestType> together(p);
    kernels::decode(cpu{}, op, p.q, p.k, p.v, together.out, together.lse);
    for (const index_t heads : {1, 2, 4, 7, 11})
      for (const index_t first : {0, 5, 10}) {
        const range part{first, first + heads};
        tensor<TestType, 4> out(1, heads, 3, dim);
        tensor<float, 3> lse(1, heads, 3);
        kernels::decode(cpu{}, op, p.q.view().slice(1, part), p.k, p.v, out, lse);
        CAPTURE(dim, heads, first);
        REQUIRE(__builtin_memcmp(out.data(), &together.out(0, first, 0, 0),
                                 static_cast<std::size_t>(out.size()) * sizeof(TestType)) == 0);
        REQUIRE(std::equal(lse.begin(), lse.end(), &together.lse(0, first, 0)));
      }
  }
}

TEST_CASE("decode: threads, batch and place in the batch do not change a bit, on any cache", "[attention][property]") {
  random_numbers random(324);
  for (const index_t group : {1, 8, 24}) {
    attention_problem<float> p(3, 2 * group, 2, 1, 1300, 32, 32);
    p.fill(random);
    const auto op = attention::softmax{mask::causal{}}.starting_at(1299);
    coded_problem c(p, 1, 1);
    results<float> one(p), many(p);
    const auto second = [](const auto& x) { return x.slice(0, {1, 2}); };
    tensor<float, 4> alone(1, 2 * group, 1, 32);
    const auto check = [&](const auto& k, const auto& v) {
      kernels::decode(cpu{.threads = 1}, op, p.q, k, v, one.out, one.lse);
      kernels::decode(cpu{.threads = 5}, op, p.q, k, v, many.out, many.lse);
      REQUIRE(same_bits(one, many));
      kernels::decode(cpu{}, op, second(p.q.view()), second(k), second(v), alone);
      REQUIRE(std::equal(alone.begin(), alone.end(), &one.out(1, 0, 0, 0)));
    };
    check(p.k.view(), p.v.view());
    check(c.k.cache(), c.v.cache());
  }
}

TEST_CASE("decode and append: what does not fit is refused and nothing is written", "[attention][errors]") {
  random_numbers random(325);
  attention_problem<float> p(2, 4, 2, 1, 20, 16, 16);
  p.fill(random);
  paged_copy<float> k(random, p.k, {20, 13}, 8, 0.0f), v(random, p.v, {20, 13}, 8, 0.0f);
  results<float> r(p);
  const attention::softmax op{};
  const auto decode = [&] { kernels::decode(cpu{}, op, p.q, k.cache(), v.cache(), r.out, r.lse); };
  decode();
  r = results<float>(p);
  const auto page = k.entries(1, 1);
  k.entries(1, 1) = static_cast<std::int32_t>(k.pages.extent(0));
  REQUIRE_THROWS_WITH(decode(), ContainsSubstring("attention::page_table: entry (1, 1) is "));
  k.entries(1, 1) = -1;
  REQUIRE_THROWS_AS(decode(), precondition_error);
  k.entries(1, 1) = page;
  v.lengths[1] = 12;
  REQUIRE_THROWS_WITH(decode(),
                      "attention::decode: sequence 1 has 13 keys and 12 values. See "
                      "docs/reference/attention/decode.md");
  v.lengths[1] = 13;
  REQUIRE_THROWS_AS(
      kernels::decode(cpu{}, op, p.q, attention::paged{k.pages, k.table().on_device()}, v.cache(), r.out, r.lse),
      precondition_error);
  // Heads, dims and strides of pages.
  REQUIRE_THROWS_AS(kernels::decode(cpu{}, op, p.q, attention::paged{k.pages.view().slice(1, {0, 1}), k.table()},
                                    v.cache(), r.out, r.lse),
                    precondition_error);
  REQUIRE_THROWS_AS(kernels::decode(cpu{}, op, p.q, attention::paged{k.pages.view().slice(3, {0, 8}), k.table()},
                                    v.cache(), r.out, r.lse),
                    precondition_error);
  tensor<float, 4> spread(k.pages.extent(0), 2, 16, 8);
  REQUIRE_THROWS_WITH(kernels::decode(cpu{}, op, p.q, attention::paged{spread.view().transposed(2, 3), k.table()},
                                      v.cache(), r.out, r.lse),
                      ContainsSubstring("the last axis of k must be contiguous"));
  // Results over the cache, also over its scales.
  codes c(2, 2, 20, 16, 1);
  const tensor_view<float, 4> over_pages(k.pages.data(), 2, 4, 1, 16), over_scales(c.scale.data(), 2, 4, 1, 16);
  REQUIRE_THROWS_WITH(kernels::decode(cpu{}, op, p.q, k.cache(), v.cache(), over_pages, r.lse),
                      ContainsSubstring("out overlaps k"));
  tensor<std::int8_t, 4> number(2, 2, 20, 16);
  tensor<float, 4> scale(2, 2, 20, 2);
  REQUIRE_THROWS_WITH(kernels::decode(cpu{}, op, p.q, attention::quantized{number, scale.view().slice(3, {0, 1})},
                                      attention::quantized{number, scale.view().slice(3, {1, 2})},
                                      tensor_view<float, 4>(scale.data(), {2, 4, 1, 16}, {64, 16, 16, 1}), r.lse),
                      ContainsSubstring("out overlaps the scales of k"));
  REQUIRE_THROWS_AS(kernels::decode(cpu{}, op, p.q, attention::quantized{number, scale},
                                    attention::quantized{number, scale}, r.out, r.lse),
                    precondition_error);  // blocks of 8
  for (const float x : r.out) REQUIRE(x == 44.0f);
  for (const float x : r.lse) REQUIRE(x == 44.0f);

  // append to pages
  tensor<float, 4> k_new(2, 2, 3, 16), v_new(2, 2, 3, 16);
  k_new.fill(7.0f);
  v_new.fill(7.0f);
  const auto before = k.pages;
  const auto mutable_cache = [](paged_copy<float>& x) { return attention::paged{x.pages, x.table()}; };
  const auto append_now = [&] { attention::append(cpu{}, op, k_new, v_new, mutable_cache(k), mutable_cache(v)); };
  k.lengths[1] = v.lengths[1] = 2;
  REQUIRE_THROWS_WITH(append_now(),
                      "attention::append: 3 rows do not fit sequence 1, whose length with them is 2. See "
                      "docs/reference/attention/append.md");
  k.lengths[1] = 13;
  REQUIRE_THROWS_AS(append_now(), precondition_error);
  v.lengths[1] = 13;
  const auto shared = k.entries(0, 2);
  k.entries(0, 2) = k.entries(1, 1);
  REQUIRE_THROWS_WITH(append_now(), ContainsSubstring("would be written for two places"));
  k.entries(0, 2) = -3;
  REQUIRE_THROWS_AS(append_now(), precondition_error);
  k.entries(0, 2) = shared;
  REQUIRE_THROWS_AS(attention::append(cpu{}, op, k_new, v_new, mutable_cache(k), mutable_cache(k)), precondition_error);
  REQUIRE(same_bits(k.pages, before));
  append_now();
  REQUIRE(k.pages(k.entries(1, 1), 1, 4, 3) == 7.0f);
  REQUIRE(k.pages(k.entries(1, 1), 1, 1, 3) == p.k(1, 1, 9, 3));
}
