// SPDX-License-Identifier: Apache-2.0
// The CUDA attention kernels on an emulated block of lanes: the same loop nest, index arithmetic, barriers and copies as on the
// device, against the definition in double.
#include <seqprim/attention/detail/forward_block.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/score/score.hpp>

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
  launch<Shape>(op, problem, view(p.q.view()), view(p.k.view()), view(p.v.view()), r.out.view(), r.lse.view());
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
    const index_t offset = random.integer(0, 2) == 0 ? random.integer(-20, 20) : mask::bottom_right(p.q_len, p.k_len);
    CAPTURE(seed, trial, offset);
    switch (trial % 6) {
      case 0: require_close<Shape>(attention::softmax{}, p); break;
      case 1: require_close<Shape>(attention::softmax{mask::causal{offset}}.scaled(-0.2f), p); break;
      case 2:
        require_close<Shape>(attention::softmax{mask::sliding_window{.left = random.integer(0, 60), .offset = offset}}
                                 .with_sink(0.5f)
                                 .tiled_heads(),
                             p);
        break;
      case 3:
        require_close<Shape>(attention::softmax{mask::attention_sinks{.sinks = 3, .window = 20, .offset = offset}}, p);
        break;
      case 4:
        require_close<Shape>(attention::softmax{mask::causal{offset} & ~mask::key_range{random.integer(0, 9), 30},
                                                score::soft_cap{.cap = 2.0f}},
                             p);
        break;
      default:
        require_close<Shape>(attention::softmax{mask::prefix{.length = random.integer(0, p.k_len), .offset = offset},
                                                score::alibi{.heads = p.heads, .offset = offset}}
                                 .scaled(-0.37f),
                             p);
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("attention block: agrees with the definition for random shapes and masks",
                   "[attention][cuda][property]", half, bfloat16) {
  check_random<small<TestType>>(701, 24);
  check_random<deep<TestType>>(702, 12);
  check_random<shared_keys<TestType>>(703, 12);
  check_random<square<TestType>>(704, 12);
}
