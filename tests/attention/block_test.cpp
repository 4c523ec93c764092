// SPDX-License-Identifier: Apache-2.0
// The CUDA attention kernels on an emulated block of lanes: the same loop nest, index arithmetic, barriers and copies as on the
// device, against the definition in double.
#include <seqprim/attention/detail/cuda/forward_block.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/score/score.hpp>

#include <algorithm>
#include <attention/problem.hpp>
#include <support/catch.hpp>
#include <support/emulated_block.hpp>

using namespace seqprim;
using attention::detail::block_shape;
using test::attention_problem;
using test::random_numbers;

namespace {

template <class T> struct results {
  tensor<T, 4> out;
  tensor<float, 3> lse;
};

template <class Shape, class Op, class T, class Out>
void launch(const Op& op, const attention::detail::problem& p, const tensor_view<const T, 4>& q,
            const tensor_view<const T, 4>& k, const tensor_view<const T, 4>& v, const tensor_view<Out, 4>& out,
            const tensor_view<float, 3>& lse) {
  const auto call = attention::detail::make_forward_call(op, p, q, k, v, out, lse);
  for (index_t block = 0; block < attention::detail::forward_blocks<Shape>(p); ++block)
    test::emulated_block::run(
        Shape::warps, Shape::shared_bytes, static_cast<std::uint32_t>(block),
        [&](const auto& engine, std::byte* shared) { attention::detail::forward_block<Shape>(engine, call, shared); });
}

template <class Shape, class T, class Op> results<T> run(const Op& op, const attention_problem<T>& p) {
  results<T> r{tensor<T, 4>(p.batch, p.heads, p.q_len, p.value_dim), tensor<float, 3>(p.batch, p.heads, p.q_len)};
  r.out.fill(T(77.0f));
  r.lse.fill(77.0f);
  using view = tensor_view<const T, 4>;
  const auto problem = attention::detail::validate_inputs<attention::detail::entry::forward>(
      cpu{}, op, view(p.q.view()), view(p.k.view()), view(p.v.view()));
  launch<Shape>(attention::detail::in_rows(op, problem.starts), problem, view(p.q.view()), view(p.k.view()),
                view(p.v.view()), r.out.view(), r.lse.view());
  return r;
}

/// Against the definition within the error budget: twice what the naive loop loses, plus two roundings of out. The weights are
/// rounded to T before they meet the values: one of the two.
template <class Shape, class T, class Op> void require_close(const Op& op, const attention_problem<T>& p) {
  const results<T> r = run<Shape>(op, p);
  tensor<double, 4> exact(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<double, 3> exact_lse(p.batch, p.heads, p.q_len);
  attention::reference::forward(op, p.q, p.k, p.v, exact, exact_lse);
  tensor<float, 4> naive(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> naive_lse(p.batch, p.heads, p.q_len);
  test::naive_forward(op, p, naive, naive_lse);
  const double size = std::max(1.0, test::largest(exact)), lse_size = std::max(1.0, test::largest(exact_lse));
  const double budget = 2 * test::distance(naive, exact) + 2 * (test::rounding<T> + test::rounding<float>)*size;
  const double lse_budget = 2 * test::distance(naive_lse, exact_lse) + 4 * test::rounding<float> * lse_size;
  CAPTURE(p.batch, p.heads, p.kv_heads, p.q_len, p.k_len, p.head_dim, p.value_dim, budget, lse_budget);
  REQUIRE(test::distance(r.out, exact) <= budget);
  REQUIRE(test::distance(r.lse, exact_lse) <= lse_budget);
}

template <class T> using small = block_shape<T, 64, 64, 32, 32, 2, 2>;
template <class T> using deep = block_shape<T, 64, 64, 16, 16, 1, 3>;         // three stages
template <class T> using shared_keys = block_shape<T, 64, 64, 16, 64, 4, 2>;  // four warps share the keys
template <class T> using square = block_shape<T, 64, 96, 32, 32, 4, 2>;       // two by two

/// Lengths around the tiles, dims that are padded and dims that are not.
template <class T> attention_problem<T> small_problem(random_numbers& random, index_t head_dims, index_t value_dims) {
  const index_t edges[] = {1, 2, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65};
  const index_t group = random.integer(1, 2), kv_heads = random.integer(1, 2);
  const auto dim = [&](index_t most) {
    return random.integer(0, 2) == 0   ? most
           : random.integer(0, 1) == 0 ? random.integer(1, most / 8) * 8
                                       : random.integer(1, most);
  };
  const index_t q_len = edges[random.integer(0, 11)], k_len = edges[random.integer(0, 11)] + random.integer(0, 1) * 50;
  attention_problem<T> p(1, group * kv_heads, kv_heads, q_len, k_len, dim(head_dims), dim(value_dims));
  p.fill(random);
  return p;
}

template <class Shape> void check_random(std::uint64_t seed, int trials) {
  using T = typename Shape::element;
  random_numbers random(seed);
  for (int trial = 0; trial < trials; ++trial) {
    const auto p = small_problem<T>(random, Shape::head_dim, Shape::value_dim);
    const index_t offset = random.integer(0, 2) == 0 ? random.integer(-20, 20) : p.k_len - p.q_len;
    CAPTURE(seed, trial, offset);
    switch (trial % 6) {
      case 0: require_close<Shape>(attention::softmax{}, p); break;
      case 1: require_close<Shape>(attention::softmax{mask::causal{}}.starting_at(offset).scaled(-0.2f), p); break;
      case 2:
        require_close<Shape>(attention::softmax{mask::sliding_window{.left = random.integer(0, 60)}}
                                 .starting_at(offset)
                                 .with_sink(0.5f)
                                 .tiled_heads(),
                             p);
        break;
      case 3:
        require_close<Shape>(attention::softmax{mask::attention_sinks{.sinks = 3, .window = 20}}.starting_at(offset),
                             p);
        break;
      case 4:
        require_close<Shape>(attention::softmax{mask::causal{} & ~mask::key_range{random.integer(0, 9), 30},
                                                score::soft_cap{.cap = 2.0f}}
                                 .starting_at(offset),
                             p);
        break;
      default:
        require_close<Shape>(
            attention::softmax{mask::prefix{.length = random.integer(0, p.k_len)}, score::alibi{.heads = p.heads}}
                .starting_at(offset)
                .scaled(-0.37f),
            p);
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("attention block: agrees with the definition for random shapes and masks",
                   "[attention][cuda][property]", float16, bfloat16) {
  check_random<small<TestType>>(701, 24);
  check_random<deep<TestType>>(702, 12);
  check_random<shared_keys<TestType>>(703, 12);
  check_random<square<TestType>>(704, 12);
}

TEST_CASE("attention block: dims of the kernel, whole tiles and every real shape once", "[attention][cuda][property]") {
  random_numbers random(711);
  const auto check = [&](auto shape, index_t q_len, index_t k_len) {
    using Shape = decltype(shape);
    using T = typename Shape::element;
    attention_problem<T> p(1, 1, 1, q_len, k_len, Shape::head_dim, Shape::value_dim);
    p.fill(random);
    require_close<Shape>(attention::softmax{mask::causal{}}.starting_at(k_len - q_len), p);
  };
  check(block_shape<bfloat16, 64, 64, 128, 64, 8, 2>{}, 130, 129);
  check(block_shape<bfloat16, 96, 96, 128, 64, 8, 2>{}, 33, 128);
  check(block_shape<float16, 128, 128, 128, 64, 8, 2>{}, 65, 190);
  check(block_shape<bfloat16, 192, 128, 128, 32, 8, 2>{}, 47, 97);
  check(block_shape<float16, 256, 256, 64, 32, 8, 2>{}, 64, 96);
}

TEST_CASE(
    "attention block: few keys of 256 channels, where tensor cores cut off most, within the budget of the GPU tests",
    "[attention][cuda][property]") {
  using Shape = block_shape<float16, 256, 256, 64, 32, 8, 2>;
  random_numbers random(716);
  for (int trial = 0; trial < 24; ++trial) {
    attention_problem<float16> p(1, 1, 1, 16, 1 + trial % 4, 256, 256);
    p.fill(random);
    const auto op = attention::softmax{mask::causal{}}.starting_at(p.k_len);  // which hides nothing
    const auto r = run<Shape>(op, p);
    tensor<double, 4> exact(1, 1, p.q_len, 256);
    tensor<double, 3> exact_lse(1, 1, p.q_len);
    attention::reference::forward(op, p.q, p.k, p.v, exact, exact_lse);
    tensor<float, 4> naive(1, 1, p.q_len, 256);
    tensor<float, 3> naive_lse(1, 1, p.q_len);
    test::naive_forward(op, p, naive, naive_lse);
    CAPTURE(trial);
    const double size = std::max(1.0, test::largest(exact_lse));
    // ex2.approx of the device may add 4 of the 16 roundings, the emulated one is exact.
    REQUIRE(test::distance(r.lse, exact_lse) <=
            2 * test::distance(naive_lse, exact_lse) + 12 * test::rounding<float> * size);
  }
}

TEST_CASE("attention block: no keys, no queries, rows that see nothing", "[attention][cuda][edge]") {
  random_numbers random(712);
  attention_problem<float16> no_keys(1, 2, 1, 20, 0, 24, 40);
  no_keys.fill(random);
  const auto empty = run<small<float16>>(attention::softmax{}, no_keys);
  for (const float16 x : empty.out) REQUIRE(x.bits == 0);
  for (const float x : empty.lse) REQUIRE(x == -std::numeric_limits<float>::infinity());

  attention_problem<float16> p(1, 2, 1, 70, 40, 16, 8);
  p.fill(random);
  const auto r = run<small<float16>>(attention::softmax{mask::causal{}}.starting_at(-30), p);
  const auto with_sink =
      run<shared_keys<float16>>(attention::softmax{mask::causal{}}.starting_at(-30).with_sink(1.5f), p);
  for (index_t i = 0; i < 70; ++i) {
    REQUIRE(std::isinf(r.lse(0, 1, i)) == (i < 30));
    if (i < 30) REQUIRE(with_sink.lse(0, 1, i) == 1.5f);
    for (index_t d = 0; d < 8; ++d) {
      REQUIRE(std::isfinite(static_cast<float>(r.out(0, 1, i, d))));
      if (i < 30) REQUIRE((r.out(0, 1, i, d).bits == 0 && with_sink.out(0, 1, i, d).bits == 0));
    }
  }
  attention_problem<float16> no_queries(1, 2, 1, 0, 40, 16, 8);
  REQUIRE(run<small<float16>>(attention::softmax{}, no_queries).out.size() == 0);
}

TEMPLATE_TEST_CASE("attention block: keys and values nobody sees are never used, even NaN and infinity",
                   "[attention][cuda][edge]", float16, bfloat16) {
  random_numbers random(713);
  attention_problem<TestType> p(2, 2, 2, 37, 90, 16, 24);
  p.fill(random);
  const attention_problem<TestType> clean = p;
  const index_t lengths[] = {33, 70};
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t j = lengths[b]; j < 90; ++j)
        for (index_t d = 0; d < 24; ++d) {
          p.v(b, h, j, d) = TestType(j % 2 == 0 ? std::nanf("") : std::numeric_limits<float>::infinity());
          if (d < 16) p.k(b, h, j, d) = TestType(std::nanf(""));
        }
  const attention::softmax op{mask::key_padding{.lengths = {lengths, 2}, .k_len = 90}};
  const auto check = [&](auto shape) {
    const auto dirty = run<decltype(shape)>(op, p), expected = run<decltype(shape)>(op, clean);
    for (index_t n = 0; n < dirty.out.size(); ++n) REQUIRE(dirty.out.data()[n].bits == expected.out.data()[n].bits);
    REQUIRE(std::equal(dirty.lse.begin(), dirty.lse.end(), expected.lse.begin()));
  };
  check(small<TestType>{});
  check(shared_keys<TestType>{});
}

TEST_CASE("attention block: a NaN or an infinity stays in the rows that see it", "[attention][cuda][edge]") {
  random_numbers random(714);
  attention_problem<bfloat16> p(1, 1, 1, 70, 70, 16, 16);
  p.fill(random);
  const attention::softmax op{mask::causal{}};
  const auto check = [&](auto shape) {
    using Shape = decltype(shape);
    const auto clean = run<Shape>(op, p);
    for (const int where : {0, 1, 2, 3}) {
      attention_problem<bfloat16> dirty = p;
      const float bad = where == 3 ? -std::numeric_limits<float>::infinity() : std::nanf("");
      (where == 0 ? dirty.q : where == 1 ? dirty.k : dirty.v)(0, 0, 42, 3) = bfloat16(bad);
      const auto r = run<Shape>(op, dirty);
      CAPTURE(where);
      for (index_t i = 0; i < 70; ++i) {
        const bool sees = where == 0 ? i == 42 : i >= 42;
        for (index_t d = 0; d < 16; ++d) {
          const auto x = static_cast<float>(r.out(0, 0, i, d));
          if (!sees || (where >= 2 && d != 3)) {
            REQUIRE(x == static_cast<float>(clean.out(0, 0, i, d)));
          } else if (where == 3) {
            REQUIRE(x == bad);
          } else {
            REQUIRE(std::isnan(x));
          }
        }
        REQUIRE(std::isnan(r.lse(0, 0, i)) == (sees && where < 2));
      }
    }
  };
  check(small<bfloat16>{});
  check(shared_keys<bfloat16>{});
}

TEST_CASE("attention block: equal scores average, huge logits select", "[attention][cuda][edge]") {
  attention_problem<float16> p(1, 1, 1, 3, 90, 8, 1);
  for (float16& x : p.q) x = float16(0.0f);
  for (float16& x : p.k) x = float16(0.0f);
  for (index_t j = 0; j < 90; ++j) p.v(0, 0, j, 0) = float16(static_cast<float>(j));
  p.q(0, 0, 1, 0) = float16(100.0f);
  p.q(0, 0, 2, 0) = float16(-100.0f);
  for (index_t j = 0; j < 90; ++j) p.k(0, 0, j, 0) = float16(j == 60 ? 1000.0f : j == 20 ? -1000.0f : 0.0f);
  const auto r = run<small<float16>>(attention::softmax{}.scaled(1.0f), p);
  REQUIRE(std::abs(static_cast<float>(r.out(0, 0, 0, 0)) - 44.5f) <= 0.05f);
  // At 1e5 the maximum itself is rounded, so its weight is not exactly 1 before it is rounded to float16.
  REQUIRE(std::abs(static_cast<float>(r.out(0, 0, 1, 0)) - 60.0f) <= 60.0f * 0x1p-10f);
  REQUIRE(std::abs(static_cast<float>(r.out(0, 0, 2, 0)) - 20.0f) <= 20.0f * 0x1p-10f);
  REQUIRE(r.lse(0, 0, 1) == 1e5f);
}

TEST_CASE("attention block: rows at odd multiples of two bytes, and strides of a fused projection",
          "[attention][cuda]") {
  random_numbers random(715);
  tensor<float16, 4> fused(1, 2, 50, 3 * 40 + 1);
  random.fill(fused);
  attention_problem<float16> p(1, 2, 2, 50, 50, 40, 40);
  tensor<float16, 4>* const parts[] = {&p.q, &p.k, &p.v};
  for (index_t n = 0; n < 3; ++n)
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 50; ++i)
        for (index_t d = 0; d < 40; ++d) (*parts[n])(0, h, i, d) = fused(0, h, i, n * 40 + d);
  const attention::softmax op{mask::causal{}};
  const auto expected = run<small<float16>>(op, p);
  const auto part = [&](index_t n) {
    return tensor_view<const float16, 4>(fused.view().slice(3, {n * 40, n * 40 + 40}));
  };
  tensor<float16, 4> wide(1, 2, 50, 43);  // results at odd places too
  wide.fill(float16(3.0f));
  tensor<float, 3> lse(1, 2, 50);
  const auto problem =
      attention::detail::validate_inputs<attention::detail::entry::forward>(cpu{}, op, part(0), part(1), part(2));
  launch<small<float16>>(attention::detail::in_rows(op, problem.starts), problem, part(0), part(1), part(2),
                         wide.view().slice(3, {1, 41}), lse.view());
  for (index_t h = 0; h < 2; ++h)
    for (index_t i = 0; i < 50; ++i) {
      for (index_t d = 0; d < 40; ++d) REQUIRE(wide(0, h, i, d + 1).bits == expected.out(0, h, i, d).bits);
      REQUIRE((static_cast<float>(wide(0, h, i, 0)) == 3.0f && static_cast<float>(wide(0, h, i, 41)) == 3.0f));
    }
}
