// SPDX-License-Identifier: Apache-2.0
// The CUDA forward against the definition in double and the CPU, with poisoned outputs, odd lengths, empty rows and every element type. Each
// composition of types is compiled for one or two sizes of heads only: a kernel costs the compiler a second.
#include <seqprim/attention/forward.cuh>
#include <seqprim/attention/forward.hpp>
#include <seqprim/attention/reference.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/score/score.hpp>

#include <cuda/expect.cuh>
#include <cuda/kernels.cuh>

#include <attention/problem.hpp>
#include <cmath>
#include <cstring>
#include <support/device.cuh>

namespace seqprim::test {

namespace {

template <int Dims> constexpr int shared_bytes() {
  using dims = attention::detail::dims_constant<Dims>;
  constexpr auto policy =
      attention::default_block_policy::forward<arch::cuda::mma_sync, bfloat16, dims::head, dims::value>();
  return attention::detail::block_shape<bfloat16, dims::head, dims::value, policy.q_tile, policy.k_tile, policy.warps,
                                        policy.stages>::shared_bytes;
}
static_assert(shared_bytes<0>() <= least_shared_memory && shared_bytes<1>() <= least_shared_memory &&
              shared_bytes<2>() <= least_shared_memory && shared_bytes<3>() <= least_shared_memory &&
              shared_bytes<4>() <= least_shared_memory);

template <class T> struct results {
  tensor<T, 4> out;
  tensor<float, 3> lse;
};

/// The public entry; its choice of kernel.
struct entry_point {
  template <class... Arguments> static void run(const Arguments&... arguments) {
    attention::forward(gpu{}, arguments...);
  }
};
/// The tensor-core kernel of one size of heads, so that no other one is compiled.
template <int Dims> struct one_size {
  template <class Op, class T>
  static void run(const Op& op, const tensor_view<T, 4>& q, const tensor_view<T, 4>& k, const tensor_view<T, 4>& v,
                  const tensor_view<T, 4>& out, const tensor_view<float, 3>& lse) {
    using namespace attention::detail;
    const tensor_view<const T, 4> queries(q), keys(k), values(v);
    const problem p = validate_inputs<entry::forward>(cpu{}, op, queries, keys, values);
    launch_forward_block<arch::cuda::mma_sync, attention::default_block_policy, dims_constant<Dims>>(
        gpu{}, in_rows(op, p.starts), p, queries, keys, values, out, lse);
  }
};

template <class Kernel, class T, class Op> results<T> run(const Op& op, const attention_problem<T>& p) {
  results<T> r{tensor<T, 4>(p.batch, p.heads, p.q_len, p.value_dim), tensor<float, 3>(p.batch, p.heads, p.q_len)};
  r.out.fill(T(std::nanf("")));
  r.lse.fill(std::nanf(""));
  const device_tensor<T, 4> q(p.q), k(p.k), v(p.v), device_out(r.out);
  const device_tensor<float, 3> device_lse(r.lse);
  Kernel::run(op, q.view(), k.view(), v.view(), device_out.view(), device_lse.view());
  device_out.read(r.out);
  device_lse.read(r.lse);
  return r;
}

template <class Kernel, class T, class Op> void check(const Op& op, const attention_problem<T>& p) {
  const results<T> r = run<Kernel>(op, p);
  tensor<double, 4> exact(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<double, 3> exact_lse(p.batch, p.heads, p.q_len);
  attention::reference::forward(op, p.q, p.k, p.v, exact, exact_lse);
  tensor<float, 4> naive(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> naive_lse(p.batch, p.heads, p.q_len);
  naive_forward(op, p, naive, naive_lse);
  const double size = std::max(1.0, largest(exact)), lse_size = std::max(1.0, largest(exact_lse));
  const double budget = 2 * distance(naive, exact) + 2 * (rounding<T> + 2 * rounding<float>)*size;
  SEQPRIM_EXPECT_AT_MOST(distance(r.out, exact), budget);
  // Tensor cores truncate where they add, and exp2 has two roundings: 16 of them, not 2.
  SEQPRIM_EXPECT_AT_MOST(distance(r.lse, exact_lse),
                         2 * distance(naive_lse, exact_lse) + 16 * rounding<float> * lse_size);

  // The CPU result of the same operator is as close to the definition, so the two are at most two budgets apart.
  tensor<T, 4> host(p.batch, p.heads, p.q_len, p.value_dim);
  attention::forward(cpu{}, op, p.q, p.k, p.v, host);
  SEQPRIM_EXPECT_AT_MOST(distance(r.out, host), 2 * budget);

  const results<T> again = run<Kernel>(op, p);
  SEQPRIM_EXPECT(std::memcmp(r.out.data(), again.out.data(), static_cast<std::size_t>(r.out.size()) * sizeof(T)) == 0);
  SEQPRIM_EXPECT(std::memcmp(r.lse.data(), again.lse.data(), static_cast<std::size_t>(r.lse.size()) * 4) == 0);
}

/// Lengths around the tiles of 16, 32, 64 and 128; dims up to the kernel's, float16 of them its own.
template <class T> attention_problem<T> tile_problem(random_numbers& random, index_t head_dims, index_t value_dims) {
  const index_t edges[] = {0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 191, 257, 300};
  const index_t group = random.integer(1, 3), kv_heads = random.integer(1, 2);
  const auto dim = [&](index_t most) {
    return random.integer(0, 1) == 0   ? most
           : random.integer(0, 1) == 0 ? random.integer(1, most / 8) * 8
                                       : random.integer(1, most);
  };
  attention_problem<T> p(random.integer(1, 2), group * kv_heads, kv_heads, edges[random.integer(0, 13)],
                         edges[random.integer(0, 13)], dim(head_dims), dim(value_dims));
  p.fill(random);
  return p;
}

template <int Dims, class T, class Make> void check_tiles(std::uint64_t seed, const Make& make_op) {
  using dims = attention::detail::dims_constant<Dims>;
  random_numbers random(seed);
  for (int trial = 0; trial < trials(12); ++trial) {
    const auto p = tile_problem<T>(random, dims::head, dims::value);
    const index_t offset = trial % 2 == 0 ? p.k_len - p.q_len : random.integer(-20, 40);
    begin_trial("seed ", seed, ", trial ", trial, ": ", sizes_of(p), ", offset ", offset);
    check<one_size<Dims>>(make_op(p, offset), p);
  }
}

void check_tensor_cores() {
  const auto causal = [](const auto&, index_t offset) {
    return attention::softmax{mask::causal{}}.starting_at(offset);
  };
  check_tiles<0, bfloat16>(411, causal);
  check_tiles<1, bfloat16>(412, causal);
  check_tiles<2, bfloat16>(413, causal);
  check_tiles<3, bfloat16>(414, causal);
  check_tiles<4, bfloat16>(415, causal);
  check_tiles<0, float16>(416, causal);
  check_tiles<0, float16>(418, [](const auto& p, index_t offset) {
    return attention::softmax{mask::sliding_window{.left = 30} & ~mask::key_range{3, 9},
                              score::soft_cap{.cap = 5.0f} | score::alibi{.heads = p.heads}}
        .starting_at(offset)
        .with_sink(0.3f)
        .tiled_heads()
        .scaled(-0.21f);
  });
}

/// What no row sees is never used; a NaN that some rows see stays in them.
void check_confinement() {
  random_numbers random(431);
  attention_problem<bfloat16> p(1, 2, 1, 150, 150, 64, 64);
  p.fill(random);
  const attention::softmax op{mask::causal{}};
  const auto clean = run<one_size<0>>(op, p);
  const auto not_a_number = bfloat16(std::nanf(""));
  for (const int where : {0, 1, 2}) {
    begin_trial("seed 431, a NaN in operand ", where);
    attention_problem<bfloat16> dirty = p;
    (where == 0 ? dirty.q : where == 1 ? dirty.k : dirty.v)(0, 0, 77, 5) = not_a_number;
    const auto r = run<one_size<0>>(op, dirty);
    bool confined = true, reached = true;
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 150; ++i) {
        const bool sees = where == 0 ? h == 0 && i == 77 : i >= 77;
        if (sees) reached = reached && std::isnan(static_cast<float>(r.out(0, h, i, 5)));
        if (!sees)
          for (index_t d = 0; d < 64; ++d) confined = confined && r.out(0, h, i, d).bits == clean.out(0, h, i, d).bits;
      }
    SEQPRIM_EXPECT(confined);
    SEQPRIM_EXPECT(reached);
  }
}

/// The simple kernel. Its masks and scores are compiled for one type and few compositions: the functors are tested by themselves.
void check_float() {
  random_numbers random(401);
  for (int trial = 0; trial < trials(24); ++trial) {
    const auto p = random_problem<float>(random);
    const index_t offset = random.integer(-20, 40);
    begin_trial("seed 401, trial ", trial, ": ", sizes_of(p), ", offset ", offset);
    if (trial % 3 == 0) {
      check<entry_point>(attention::softmax{mask::causal{}}.starting_at(p.k_len).with_sink(-1.0f), p);
    } else {
      check<entry_point>(attention::softmax{mask::sliding_window{.left = 30} & ~mask::key_range{3, 9},
                                            score::soft_cap{.cap = 5.0f} | score::alibi{.heads = p.heads}}
                             .starting_at(offset),
                         p);
    }
  }
  attention_problem<float> wide(1, 2, 1, 37, 41, 200, 300);
  wide.fill(random);
  begin_trial("seed 401: ", sizes_of(wide));
  check<entry_point>(attention::softmax{mask::causal{}}.starting_at(4), wide);
}

/// Slices of a fused projection: rows at odd multiples of two bytes go through the copies number by number.
void check_layouts() {
  random_numbers random(441);
  begin_trial("seed 441: slices of [2, 3, 70, 121], dims 40");
  tensor<float16, 4> fused(2, 3, 70, 3 * 40 + 1);  // [batch, heads, len, q | k | v], an odd step
  random.fill(fused);
  const auto part = [](const auto& view, index_t n) { return view.slice(3, {n * 40, n * 40 + 40}); };
  tensor<float16, 4> out(2, 3, 70, 40), expected(2, 3, 70, 40);
  out.fill(float16(std::nanf("")));
  const device_tensor<float16, 4> device(fused), device_out(out);
  const attention::softmax op{mask::causal{}};
  const auto known = [&](index_t n) { return with_last<40>(part(device.view(), n)); };
  attention::forward(gpu{}, op, known(0), known(1), known(2), device_out.view());
  device_out.read(out);
  attention::forward(cpu{}, op, part(fused.view(), 0), part(fused.view(), 1), part(fused.view(), 2), expected);
  SEQPRIM_EXPECT_AT_MOST(distance(out, expected), 4 * rounding<float16> * std::max(1.0, largest(expected)));
}

void check_errors() {
  begin_trial("value_dim 600");
  attention_problem<float> too_wide(1, 1, 1, 2, 2, 8, 600);
  tensor<float, 4> out(1, 1, 2, 600);
  bool refused = false;
  try {
    attention::forward(gpu{}, attention::softmax{mask::causal{}}, too_wide.q, too_wide.k, too_wide.v, out);
  } catch (const precondition_error&) {
    refused = true;
  }
  SEQPRIM_EXPECT(refused);
}

const test_group registered{"forward", [] {
                              check_float();
                              check_tensor_cores();
                              check_confinement();
                              check_layouts();
                              check_errors();
                            }};

}  // namespace

void causal_forward(const gpu& executor, index_t start, const kernel_rows<const bfloat16>& q,
                    const kernel_rows<const bfloat16>& k, const kernel_rows<const bfloat16>& v,
                    const kernel_rows<bfloat16>& out, const tensor_view<float, 3>& lse) {
  attention::forward(executor, attention::softmax{mask::causal{}}.starting_at(start), q, k, v, out, lse);
}

void causal_forward_by_rows(const gpu& executor, index_t start, const tensor_view<const float, 4>& q,
                            const tensor_view<const float, 4>& k, const tensor_view<const float, 4>& v,
                            const tensor_view<float, 4>& out, const tensor_view<float, 3>& lse) {
  attention::forward(executor, attention::softmax{mask::causal{}}.starting_at(start), q, k, v, out, lse);
}

}  // namespace seqprim::test
