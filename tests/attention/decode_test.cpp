// SPDX-License-Identifier: Apache-2.0
#include <seqprim/attention/decode.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/attention/merge.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/position/position.hpp>
#include <seqprim/score/score.hpp>

#include <attention/kernels.hpp>
#include <attention/problem.hpp>
#include <attention/tables.hpp>
#include <support/catch.hpp>

using namespace seqprim;
namespace kernels = test::kernels;
using test::attention_problem;
using test::random_numbers;

namespace {

template <class T, class Op> void require_close(const Op& op, const attention_problem<T>& p) {
  tensor<T, 4> out(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> lse(p.batch, p.heads, p.q_len);
  out.fill(T(44.0f));
  kernels::decode(cpu{}, op, p.q, p.k, p.v, out, lse);
  tensor<double, 4> exact(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<double, 3> exact_lse(p.batch, p.heads, p.q_len);
  attention::reference::forward(op, p.q, p.k, p.v, exact, exact_lse);
  tensor<float, 4> naive(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> naive_lse(p.batch, p.heads, p.q_len);
  kernels::naive_forward(op, p, naive, naive_lse);
  const double budget = 2 * test::distance(naive, exact) +
                        2 * (test::rounding<T> + 2 * test::rounding<float>)*std::max(1.0, test::largest(exact));
  CAPTURE(p.batch, p.heads, p.kv_heads, p.q_len, p.k_len, p.head_dim, p.value_dim, budget);
  REQUIRE(test::distance(out, exact) <= budget);
  REQUIRE(test::distance(lse, exact_lse) <= 2 * test::distance(naive_lse, exact_lse) +
                                                8 * test::rounding<float> * std::max(1.0, test::largest(exact_lse)));
}

}  // namespace

TEMPLATE_TEST_CASE("decode: agrees with the definition for random shapes and masks", "[attention][property]", float,
                   float16, bfloat16) {
  random_numbers random(301);
  for (int trial = 0; trial < 40; ++trial) {
    const index_t kv_heads = random.integer(1, 2), group = random.integer(1, 4), k_len = random.integer(0, 300);
    const index_t q_len = random.integer(1, 3);
    attention_problem<TestType> p(random.integer(1, 3), kv_heads * group, kv_heads, q_len, k_len, random.integer(1, 80),
                                  random.integer(1, 80));
    p.fill(random);
    const index_t offset = k_len - q_len;
    CAPTURE(trial);
    switch (trial % 4) {
      case 0: require_close(attention::softmax{mask::causal{}}.starting_at(offset), p); break;
      case 1: {
        tensor<float, 1> sinks(p.heads);
        random.fill(sinks);
        require_close(attention::softmax{mask::sliding_window{.left = 40}}.starting_at(offset).tiled_heads().with_sinks(
                          sinks.view()),
                      p);
        break;
      }
      case 2:
        require_close(attention::softmax{mask::causal{}, score::alibi{.heads = p.heads}}.starting_at(offset), p);
        break;
      default: {
        index_t lengths[3] = {random.integer(0, k_len), random.integer(0, k_len), k_len};
        require_close(attention::softmax{mask::key_padding{.lengths = {lengths, p.batch}, .k_len = k_len},
                                         score::soft_cap{.cap = 3.0f}},
                      p);
      }
    }
  }
}

TEMPLATE_TEST_CASE("decode: scores that read tables agree with the definition", "[attention][property]", float, float16,
                   bfloat16) {
  random_numbers random(313);
  for (int trial = 0; trial < 15; ++trial) {
    attention_problem<TestType> p(random.integer(1, 3), 4, random.integer(1, 2), random.integer(1, 3),
                                  random.integer(3, 300), random.integer(1, 80), random.integer(1, 80));
    p.fill(random);
    const test::score_tables tables(random, p, p.k_len - p.q_len);
    CAPTURE(trial);
    test::with_table_score(tables, trial, [&](const auto& score) {
      require_close(attention::softmax{mask::causal{}, score}, p);
    });
  }
}

TEST_CASE("decode: token by token from a cache equals forward over everything", "[attention][property]") {
  random_numbers random(302);
  const index_t len = 70;
  attention_problem<float> p(2, 4, 2, len, len, 16, 16);
  p.fill(random);
  const auto rope = position::rotary<position::half_split>{.rotary_dim = 16};
  const auto op = [&](index_t offset) {
    return attention::softmax{mask::causal{}, score::identity{}, rope}.starting_at(offset);
  };
  tensor<float, 4> whole(2, 4, len, 16), out(2, 4, 1, 16);
  kernels::forward(cpu{}, op(0), p.q, p.k, p.v, whole);
  tensor<float, 4> k_cache(2, 2, 128, 16), v_cache(2, 2, 128, 16);
  k_cache.fill(std::nanf(""));
  v_cache.fill(std::nanf(""));
  for (index_t n = 0; n < len; ++n) {
    const auto token = [&](const tensor<float, 4>& x) { return x.view().slice(2, {n, n + 1}); };
    attention::append(cpu{}, op(n), token(p.k), token(p.v), n, k_cache, v_cache);
    kernels::decode(cpu{}, op(n), token(p.q), k_cache.view().slice(2, {0, n + 1}), v_cache.view().slice(2, {0, n + 1}),
                    out);
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 4; ++h)
        for (index_t d = 0; d < 16; ++d) REQUIRE(out(b, h, 0, d) == Approx(whole(b, h, n, d)).margin(2e-6));
  }
}

TEST_CASE("decode: what no query sees is never read", "[attention][edge]") {
  random_numbers random(303);
  attention_problem<float> p(1, 2, 1, 1, 600, 16, 16);
  p.fill(random);
  tensor<float, 4> clean(1, 2, 1, 16), out(1, 2, 1, 16);
  const attention::softmax op{mask::key_range{0, 530}};
  kernels::decode(cpu{}, op, p.q, p.k, p.v, clean);
  for (index_t j = 530; j < 600; ++j)
    for (index_t d = 0; d < 16; ++d) p.k(0, 0, j, d) = p.v(0, 0, j, d) = std::nanf("");
  kernels::decode(cpu{}, op, p.q, p.k, p.v, out);
  REQUIRE(std::equal(clean.begin(), clean.end(), out.begin()));
  p.k(0, 0, 3, 3) = std::nanf("");
  kernels::decode(cpu{}, op, p.q, p.k, p.v, out);
  REQUIRE(std::isnan(out(0, 0, 0, 0)));
}

TEST_CASE("decode: the number of threads and the batch do not change a bit", "[attention][property]") {
  random_numbers random(304);
  attention_problem<float> p(3, 4, 2, 2, 1500, 32, 32);
  p.fill(random);
  const auto op = attention::softmax{mask::causal{}}.starting_at(1498);
  tensor<float, 4> one(3, 4, 2, 32), many(3, 4, 2, 32), alone(1, 4, 2, 32);
  kernels::decode(cpu{.threads = 1}, op, p.q, p.k, p.v, one);
  kernels::decode(cpu{.threads = 4}, op, p.q, p.k, p.v, many);
  REQUIRE(std::equal(one.begin(), one.end(), many.begin()));
  const auto second = [](const tensor<float, 4>& x) { return x.view().slice(0, {1, 2}); };
  kernels::decode(cpu{}, op, second(p.q), second(p.k), second(p.v), alone);
  REQUIRE(std::equal(alone.begin(), alone.end(), &one(1, 0, 0, 0)));
}

TEST_CASE("append: rows that do not fit are refused and nothing is written", "[attention][errors]") {
  tensor<float, 4> k(1, 2, 3, 8), v(1, 2, 3, 8), k_cache(1, 2, 10, 8), v_cache(1, 2, 10, 8), other(1, 3, 10, 8);
  k.fill(1.0f);
  v.fill(1.0f);
  const attention::softmax op{};
  REQUIRE_THROWS_WITH(attention::append(cpu{}, op, k, v, 8, k_cache, v_cache),
                      "attention::append: 3 rows from row 8 on do not fit a cache of 10. See "
                      "docs/reference/attention/append.md");
  REQUIRE_THROWS_AS(attention::append(cpu{}, op, k, v, -1, k_cache, v_cache), precondition_error);
  REQUIRE_THROWS_AS(attention::append(cpu{}, op, k, v, std::numeric_limits<index_t>::max(), k_cache, v_cache),
                    precondition_error);
  REQUIRE_THROWS_WITH(attention::append(cpu{}, op, k, v, 0, k_cache, k_cache.view()),
                      ContainsSubstring("k_cache overlaps v_cache"));
  REQUIRE_THROWS_WITH(attention::append(cpu{}, op, k, v, 0, other, v_cache),
                      "attention::append: k_cache has kv_heads 3 (axis 1), but k_new has kv_heads 2. See "
                      "docs/reference/attention/append.md");
  REQUIRE_THROWS_WITH(
      attention::append(cpu{}, op, k.view().slice(2, {2, 1}), v.view().slice(2, {2, 1}), 0, k_cache, v_cache),
      ContainsSubstring("axis 2 of k_new has the negative length -1"));
  const tensor_view<float, 4> shared(k_cache.data(), {1, 2, 10, 8}, {80, 0, 8, 1});  // both heads in one place
  REQUIRE_THROWS_WITH(attention::append(cpu{}, op, k, v, 0, shared, v_cache),
                      ContainsSubstring("attention::append: elements of k_cache share memory"));
  for (const float x : k_cache) REQUIRE(x == 0.0f);
}

TEST_CASE("merge: parts over disjoint keys give the whole, in any grouping, with empty parts neutral",
          "[attention][property]") {
  random_numbers random(305);
  for (int trial = 0; trial < 20; ++trial) {
    attention_problem<float> p(1, 2, 2, 9, 120, 16, 16);
    p.fill(random);
    tensor<float, 4> whole(1, 2, 9, 16);
    tensor<float, 3> whole_lse(1, 2, 9);
    kernels::forward(cpu{}, attention::softmax{mask::causal{}}.starting_at(60), p.q, p.k, p.v, whole, whole_lse);
    index_t cuts[5] = {0, random.integer(0, 120), random.integer(0, 120), random.integer(0, 120), 120};
    std::sort(cuts, cuts + 5);
    tensor<float, 4> out[4];
    tensor<float, 3> lse[4];
    for (int n = 0; n < 4; ++n) {
      out[n] = tensor<float, 4>(1, 2, 9, 16);
      lse[n] = tensor<float, 3>(1, 2, 9);
      const auto op = attention::softmax{mask::causal{} & mask::key_range{cuts[n], cuts[n + 1]}}.starting_at(60);
      kernels::forward(cpu{}, op, p.q, p.k, p.v, out[n], lse[n]);
    }
    auto left = out[0];
    auto left_lse = lse[0];
    for (int n = 1; n < 4; ++n) attention::merge(cpu{}, left, left_lse, out[n], lse[n]);  // ((0 1) 2) 3
    attention::merge(cpu{}, out[2], lse[2], out[3], lse[3]);
    attention::merge(cpu{}, out[0], lse[0], out[1], lse[1]);
    attention::merge(cpu{}, out[0], lse[0], out[2], lse[2]);  // (0 1) (2 3)
    // Three merges, each a rounding of two weights and a sum.
    REQUIRE(test::distance(left, whole) <= 32 * 0x1p-24 * std::max(1.0, test::largest(whole)));
    REQUIRE(test::distance(out[0], left) <= 32 * 0x1p-24 * std::max(1.0, test::largest(whole)));
    REQUIRE(test::distance(left_lse, whole_lse) <= 16 * 0x1p-24 * std::max(1.0, test::largest(whole_lse)));
  }
}

TEST_CASE("merge: an empty part may hold NaN, two empty parts stay empty", "[attention][edge]") {
  tensor<float, 4> out(1, 1, 1, 2), part(1, 1, 1, 2);
  tensor<float, 3> lse(1, 1, 1), part_lse(1, 1, 1);
  const float infinity = std::numeric_limits<float>::infinity();
  out.fill(3.0f);
  lse.fill(1.0f);
  part.fill(std::nanf(""));
  part_lse.fill(-infinity);
  attention::merge(cpu{}, out, lse, part, part_lse);
  REQUIRE(out(0, 0, 0, 1) == 3.0f);
  REQUIRE(lse(0, 0, 0) == 1.0f);
  lse.fill(-infinity);
  attention::merge(cpu{}, out, lse, part, part_lse);
  REQUIRE(out(0, 0, 0, 1) == 0.0f);
  REQUIRE(lse(0, 0, 0) == -infinity);
  tensor<float, 4> wrong(1, 1, 2, 2);
  REQUIRE_THROWS_WITH(attention::merge(cpu{}, out, lse, wrong, part_lse),
                      ContainsSubstring("attention::merge: part_out has q_len 2 (axis 2), but out has q_len 1"));
  tensor<float, 4> two(1, 2, 1, 2);
  tensor<float, 3> two_lse(1, 2, 1);
  const tensor_view<float, 4> shared(out.data(), {1, 2, 1, 2}, {2, 0, 2, 1});
  REQUIRE_THROWS_WITH(attention::merge(cpu{}, shared, two_lse, two, two_lse),
                      ContainsSubstring("attention::merge: elements of out share memory"));
}
