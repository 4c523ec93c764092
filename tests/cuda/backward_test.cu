// SPDX-License-Identifier: Apache-2.0
// The CUDA backward against the definition in double and the CPU, with poisoned outputs, odd lengths, empty rows and every element
// type.
#include <seqprim/attention/backward.cuh>
#include <seqprim/attention/backward.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/attention/sink_gradient.cuh>
#include <seqprim/mask/mask.hpp>
#include <seqprim/score/score.hpp>

#include <cuda/expect.cuh>
#include <cuda/kernels.cuh>

#include <attention/naive_backward.hpp>
#include <attention/problem.hpp>
#include <cstring>
#include <limits>
#include <optional>
#include <support/device.cuh>

namespace seqprim::test {

namespace {

template <int Dims> constexpr int shared_bytes() {
  using dims = attention::detail::dims_constant<Dims>;
  using shape = attention::detail::backward_shape<dims::head, dims::value, arch::cuda::mma_sync>;
  return max(shape::key_shared, shape::tabulating_query_shared);
}
static_assert(shared_bytes<0>() <= least_shared_memory && shared_bytes<1>() <= least_shared_memory &&
              shared_bytes<2>() <= least_shared_memory && shared_bytes<3>() <= least_shared_memory &&
              shared_bytes<4>() <= least_shared_memory);

template <class T> struct gradients {
  tensor<T, 4> dq, dk, dv;

  explicit gradients(const attention_problem<T>& p)
      : dq(p.batch, p.heads, p.q_len, p.head_dim),
        dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
        dv(p.batch, p.kv_heads, p.k_len, p.value_dim) {
    for (auto* x : {&dq, &dk, &dv}) x->fill(T(std::numeric_limits<float>::quiet_NaN()));
  }
};

template <class T> bool same_bits(const tensor<T, 4>& a, const tensor<T, 4>& b) {
  return std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}
template <class T> bool same_bits(const gradients<T>& a, const gradients<T>& b) {
  return same_bits(a.dq, b.dq) && same_bits(a.dk, b.dk) && same_bits(a.dv, b.dv);
}

/// A copy on the device whose rows begin `shift` numbers after a multiple of 16 bytes.
template <class T> class shifted_tensor {
 public:
  shifted_tensor(const tensor<T, 4>& host, index_t shift)
      : padded_(host.extent(0), host.extent(1), host.extent(2), round_up(host.extent(3), 8) + 8),
        shape_(host.view()),
        shift_(shift) {
    padded_.fill(T(std::numeric_limits<float>::quiet_NaN()));
    for (index_t b = 0; b < host.extent(0); ++b)
      for (index_t h = 0; h < host.extent(1); ++h)
        for (index_t i = 0; i < host.extent(2); ++i)
          for (index_t d = 0; d < host.extent(3); ++d) padded_(b, h, i, d + shift) = host(b, h, i, d);
    device_.emplace(padded_);
  }
  [[nodiscard]] tensor_view<const T, 4> view() const {
    return device_->view().slice(3, {shift_, shift_ + shape_.extent(3)});
  }

 private:
  tensor<T, 4> padded_;
  tensor_view<const T, 4> shape_;
  index_t shift_;
  std::optional<device_tensor<T, 4>> device_;
};

/// Runs forward on the CPU and backward on the device. HeadDim, ValueDim: what the views know, or dynamic_extent.
template <index_t HeadDim = dynamic_extent, index_t ValueDim = dynamic_extent, class T, class Op>
gradients<T> run(const Op& op, const attention_problem<T>& p, const tensor<T, 4>& out, const tensor<float, 3>& lse,
                 const tensor<T, 4>& dout, index_t shift = 0) {
  gradients<T> result(p);
  tensor<float, 1> workspace(max<index_t>(attention::backward_workspace(p.q), 1));
  workspace.fill(std::numeric_limits<float>::quiet_NaN());
  const shifted_tensor<T> q(p.q, shift), k(p.k, shift), v(p.v, shift), device_dout(dout, shift);
  const device_tensor<T, 4> device_out(out), dq(result.dq), dk(result.dk), dv(result.dv);
  const device_tensor<float, 3> device_lse(lse);
  const device_tensor<float, 1> device_workspace(workspace);
  attention::backward(gpu{}, op, with_last<HeadDim>(q.view()), with_last<HeadDim>(k.view()),
                      with_last<ValueDim>(v.view()), device_out.view(), device_lse.view(), device_dout.view(),
                      attention::gradients{}.dq(dq.view()).dk(dk.view()).dv(dv.view()), device_workspace.view());
  dq.read(result.dq);
  dk.read(result.dk);
  dv.read(result.dv);
  return result;
}

template <index_t HeadDim = dynamic_extent, index_t ValueDim = dynamic_extent, class T, class Op>
void check(const Op& op, const attention_problem<T>& p, random_numbers& random) {
  tensor<T, 4> out(p.batch, p.heads, p.q_len, p.value_dim), dout(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> lse(p.batch, p.heads, p.q_len);
  random.fill(dout);
  attention::forward(cpu{}, op, p.q, p.k, p.v, out, lse);
  const gradients<T> mine = run<HeadDim, ValueDim>(op, p, out, lse, dout);
  SEQPRIM_EXPECT(same_bits(mine, run<HeadDim, ValueDim>(op, p, out, lse, dout)));
  SEQPRIM_EXPECT(same_bits(mine, run<HeadDim, ValueDim>(op, p, out, lse, dout, 1)));  // rows that are not aligned

  tensor<double, 4> dq(p.batch, p.heads, p.q_len, p.head_dim), dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
      dv(p.batch, p.kv_heads, p.k_len, p.value_dim);
  attention::reference::backward(op, p.q, p.k, p.v, dout, dq, dk, dv);
  tensor<float, 4> naive_dq(p.batch, p.heads, p.q_len, p.head_dim), naive_dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
      naive_dv(p.batch, p.kv_heads, p.k_len, p.value_dim);
  naive_backward(op, p, out, lse, dout, naive_dq, naive_dk, naive_dv);
  gradients<T> host(p);
  attention::backward(cpu{}, op, p.q, p.k, p.v, out, lse, dout,
                      attention::gradients{}.dq(host.dq).dk(host.dk).dv(host.dv));
  const auto compare = [](const auto& device, const auto& naive, const auto& exact, const auto& of_cpu) {
    const double size = std::max(1.0, largest(exact));
    const double budget = 2 * distance(naive, exact) + 2 * (rounding<T> + 0x1p-22) * size;
    SEQPRIM_EXPECT_AT_MOST(distance(device, exact), budget);
    SEQPRIM_EXPECT_AT_MOST(distance(device, of_cpu), budget + distance(of_cpu, exact));
  };
  compare(mine.dq, naive_dq, dq, host.dq);
  compare(mine.dk, naive_dk, dk, host.dk);
  compare(mine.dv, naive_dv, dv, host.dv);
}

/// Lengths around the tiles, heads that share keys.
template <class T>
attention_problem<T> problem_of(random_numbers& random, index_t head_dim, index_t value_dim, index_t longest = 260) {
  const index_t edges[] = {0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 193};
  const auto length = [&] {
    return random.integer(0, 1) == 0 ? edges[random.integer(0, 14)] : random.integer(0, longest);
  };
  const index_t group = random.integer(1, 3), kv_heads = random.integer(1, 2), q_len = length(), k_len = length();
  attention_problem<T> p(random.integer(1, 2), group * kv_heads, kv_heads, q_len, k_len, head_dim, value_dim);
  p.fill(random);
  return p;
}

/// The call of the documents.
void check_example() {
  random_numbers random(604);
  begin_trial("seed 604: the example");
  const index_t len = 20;
  attention_problem<bfloat16> p(2, 4, 2, len, len, 16, 16);
  p.fill(random);
  tensor<bfloat16, 4> host_out(2, 4, len, 16), host_dout(2, 4, len, 16);
  tensor<float, 3> host_lse(2, 4, len);
  random.fill(host_dout);
  const attention::softmax op{mask::causal{}};
  attention::forward(cpu{}, op, p.q, p.k, p.v, host_out, host_lse);
  gradients<bfloat16> host(p);
  const device_tensor<bfloat16, 4> device_q(p.q), device_k(p.k), device_v(p.v), device_out(host_out),
      device_dout(host_dout), device_dq(host.dq), device_dk(host.dk), device_dv(host.dv);
  const device_tensor<float, 3> device_lse(host_lse);
  const device_tensor<float, 1> device_workspace(tensor<float, 1>(attention::backward_workspace(p.q)));
  const auto q = device_q.view(), k = device_k.view(), v = device_v.view(), out = device_out.view(),
             dout = device_dout.view(), dq = device_dq.view(), dk = device_dk.view(), dv = device_dv.view();
  const auto lse = device_lse.view();
  const auto workspace = device_workspace.view();
  cudaStream_t stream = nullptr;
  // example-begin cuda-backward
  // q, k, ...: views of device memory; workspace: attention::backward_workspace(q) floats
  attention::backward(gpu{.stream = stream}, op, q, k, v, out, lse, dout, attention::gradients{}.dq(dq).dk(dk).dv(dv),
                      workspace);
  // example-end cuda-backward
  device_dq.read(host.dq);
  device_dk.read(host.dk);
  device_dv.read(host.dv);
  SEQPRIM_EXPECT(same_bits(host, run(op, p, host_out, host_lse, host_dout)));
}

/// Everything at once; compiled for float16 at dims 64.
template <class T> auto windowed(const attention_problem<T>& p, mask::sliding_window window, mask::key_range hidden) {
  return attention::softmax{window & ~hidden, score::soft_cap{.cap = 5.0f} | score::alibi{.heads = p.heads}};
}

void check_not_finite() {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  random_numbers random(603);
  begin_trial("seed 603: hidden NaN");
  attention_problem<float16> p(1, 2, 1, 150, 140, 64, 64);
  p.fill(random);
  // Rows 0 and 1 see nothing.
  const auto op = windowed(p, {.left = 100}, {5, 90}).starting_at(-2);
  tensor<float16, 4> out(1, 2, 150, 64), dout(1, 2, 150, 64);
  tensor<float, 3> lse(1, 2, 150);
  random.fill(dout);
  attention::forward(cpu{}, op, p.q, p.k, p.v, out, lse);
  const auto clean = run<64, 64>(op, p, out, lse, dout);
  for (index_t j = 5; j < 90; ++j) p.k(0, 0, j, j % 64) = p.v(0, 0, j, 3) = float16(nan);
  p.q(0, 1, 1, 2) = dout(0, 0, 0, 7) = float16(nan);
  SEQPRIM_EXPECT(same_bits(clean, run<64, 64>(op, p, out, lse, dout)));
}

/// Gradients of parameters, table, rows and sinks of one operator against the CPU, which tests hold against the definition.
void check_learned() {
  using T = float16;
  random_numbers random(605);
  for (int trial = 0; trial < trials(6); ++trial) {
    const auto p = problem_of<T>(random, 64, 64);
    begin_trial("seed 605, gradients of the score, trial ", trial, ": ", sizes_of(p));
    tensor<float, 3> factors(1, p.heads, p.q_len);
    tensor<float, 2> table(p.heads, 50);
    tensor<float, 1> sinks(p.heads);
    random.fill(factors);
    random.fill(table);
    random.fill(sinks);
    const device_tensor<float, 3> device_factors(factors);
    const device_tensor<float, 2> device_table(table);
    const device_tensor<float, 1> device_sinks(sinks);
    const auto op_of = [](const auto& of_query, const auto& of_distance, const auto& of_head) {
      return attention::softmax{mask::causal{}, score::query_scale{of_query} | score::relative_bias{of_distance, -40} |
                                                    score::soft_cap{.cap = 3.0f}}
          .starting_at(0)
          .with_sinks(of_head);
    };
    const auto host_op = op_of(factors.view(), table.view(), sinks.view());
    const auto op = op_of(device_factors.view(), device_table.view(), device_sinks.view());
    tensor<T, 4> out(p.batch, p.heads, p.q_len, 64), dout(p.batch, p.heads, p.q_len, 64);
    tensor<float, 3> lse(p.batch, p.heads, p.q_len), drow(p.batch, p.heads, p.q_len);
    tensor<float, 2> dscore(p.heads, 1), dtable(p.heads, 50);
    tensor<float, 1> dsinks(p.heads);
    gradients<T> host(p);
    random.fill(dout);
    attention::forward(cpu{}, host_op, p.q, p.k, p.v, out, lse);
    attention::backward(
        cpu{}, host_op, p.q, p.k, p.v, out, lse, dout,
        attention::gradients{}.dq(host.dq).dk(host.dk).dv(host.dv).dscore(dscore).dtable(dtable).drow(drow));
    attention::sink_gradient(cpu{}, host_op, out, lse, dout, dsinks);

    const device_tensor<T, 4> q(p.q), k(p.k), v(p.v), device_out(out), device_dout(dout), dq(host.dq), dk(host.dk),
        dv(host.dv);
    const device_tensor<float, 3> device_lse(lse);
    tensor<float, 2> first_score, first_table;
    tensor<float, 3> first_row;
    for (int time = 0; time < 2; ++time) {
      tensor<float, 2> found_score(p.heads, 1), found_table(p.heads, 50);
      tensor<float, 3> found_row(p.batch, p.heads, p.q_len);
      tensor<float, 1> found_sinks(p.heads);
      found_score.fill(std::nanf(""));
      found_table.fill(std::nanf(""));
      found_row.fill(std::nanf(""));
      found_sinks.fill(std::nanf(""));
      const device_tensor<float, 2> device_dscore(found_score), device_dtable(found_table);
      const device_tensor<float, 3> device_drow(found_row);
      const device_tensor<float, 1> device_dsinks(found_sinks);
      const auto wanted = attention::gradients{}
                              .dq(dq.view())
                              .dk(dk.view())
                              .dv(dv.view())
                              .dscore(device_dscore.view())
                              .dtable(device_dtable.view())
                              .drow(device_drow.view());
      tensor<float, 1> workspace(attention::backward_workspace(p.q, wanted));
      workspace.fill(std::nanf(""));
      const device_tensor<float, 1> device_workspace(workspace);
      attention::backward(gpu{}, op, with_last<64>(q.view()), with_last<64>(k.view()), with_last<64>(v.view()),
                          device_out.view(), device_lse.view(), device_dout.view(), wanted, device_workspace.view());
      attention::sink_gradient(gpu{}, op, device_out.view(), device_lse.view(), device_dout.view(),
                               device_dsinks.view());
      device_dscore.read(found_score);
      device_dtable.read(found_table);
      device_drow.read(found_row);
      device_dsinks.read(found_sinks);
      // Sums of up to 260 terms for a row, of all pairs for the rest; half operands are exact, products and weights float.
      const auto compare = [](const auto& found, const auto& expected) {
        SEQPRIM_EXPECT_AT_MOST(distance(found, expected), 0x1p-16 * std::max(1.0, largest(expected)));
      };
      compare(found_score, dscore);
      compare(found_table, dtable);
      compare(found_row, drow);
      compare(found_sinks, dsinks);
      if (time == 0) {
        first_score = found_score;
        first_table = found_table;
        first_row = found_row;
      }
      SEQPRIM_EXPECT(distance(found_score, first_score) == 0 && distance(found_table, first_table) == 0 &&
                     distance(found_row, first_row) == 0);
    }
  }
}

void check_errors() {
  begin_trial("refusals");
  attention_problem<bfloat16> p(1, 1, 1, 4, 4, 8, 8);
  tensor<bfloat16, 4> out(1, 1, 4, 8), dq(1, 1, 4, 8), dk(1, 1, 4, 8), dv(1, 1, 4, 8);
  tensor<float, 3> lse(1, 1, 4);
  tensor<float, 1> enough(8), short_of_one(7);
  const auto refuses = [&](const auto& body) {
    try {
      body();
    } catch (const precondition_error&) {
      return true;
    }
    return false;
  };
  const attention::softmax<mask::causal> op;  // the host memory is never touched: every call below is refused
  SEQPRIM_EXPECT(refuses([&] {
    attention::backward(gpu{}, op, p.q, p.k, p.v, out, lse, out, attention::gradients{}.dq(dq).dk(dk).dv(dv),
                        short_of_one);
  }));
  SEQPRIM_EXPECT(refuses([&] {
    attention::backward(gpu{}, op, p.q, p.k, p.v, out, lse, out, attention::gradients{}.dq(dq).dk(dk).dv(dk), enough);
  }));
  SEQPRIM_EXPECT(refuses([&] {
    attention::backward(gpu{}, op, p.q, p.k, p.v, out, lse, out, attention::gradients{}.dq(p.q).dk(dk).dv(dv), enough);
  }));
  attention_problem<bfloat16> too_wide(1, 1, 1, 4, 4, 513, 8);
  tensor<bfloat16, 4> wide_dq(1, 1, 4, 513), wide_dk(1, 1, 4, 513);
  SEQPRIM_EXPECT(refuses([&] {
    attention::backward(gpu{}, op, too_wide.q, too_wide.k, too_wide.v, out, lse, out,
                        attention::gradients{}.dq(wide_dq).dk(wide_dk).dv(dv), enough);
  }));
}

void check_compositions() {
  random_numbers random(601);
  // Every padded size, and dims that have to be padded; 300 is beyond the tensor-core kernels.
  const index_t dims[][2] = {{64, 64}, {96, 96},   {128, 128}, {192, 128}, {256, 256},
                             {8, 40},  {113, 100}, {40, 129},  {33, 200},  {300, 64}};
  for (const auto& dim : dims)
    for (int trial = 0; trial < trials(6); ++trial) {
      const auto p = problem_of<bfloat16>(random, dim[0], dim[1]);
      const index_t offset = random.integer(-40, 40);
      begin_trial("seed 601, bfloat16, trial ", trial, ": ", sizes_of(p), ", offset ", offset);
      check(attention::softmax{mask::causal{}}.starting_at(offset), p, random);
    }
  for (int trial = 0; trial < trials(12); ++trial) {
    const index_t offset = random.integer(-20, 40);
    const auto p = problem_of<float16>(random, 64, 64);
    begin_trial("seed 601, float16, trial ", trial, ": ", sizes_of(p), ", offset ", offset);
    check<64, 64>(windowed(p, {.left = 30}, {3, 9}).starting_at(offset), p, random);
    const auto other = problem_of<bfloat16>(random, 128, 128);
    begin_trial("seed 601, every key, tiled heads and a sink, trial ", trial, ": ", sizes_of(other));
    check<128, 128>(
        attention::softmax{mask::causal{}}.starting_at(other.k_len).tiled_heads().with_sink(random.normal()), other,
        random);
    const auto slow = problem_of<float>(random, random.integer(1, 70), random.integer(1, 70), 100);
    begin_trial("seed 601, float, trial ", trial, ": ", sizes_of(slow), ", offset ", offset);
    check(attention::softmax{mask::causal{}, score::soft_cap{.cap = 3.0f}}.starting_at(offset), slow, random);
  }
}

const test_group registered{"backward", [] {
                              check_compositions();
                              check_example();
                              check_not_finite();
                              check_learned();
                              check_errors();
                            }};

}  // namespace

void causal_backward(const gpu& executor, index_t start, const backward_views& views) {
  attention::backward(executor, attention::softmax{mask::causal{}}.starting_at(start), views.q, views.k, views.v,
                      views.out, views.lse, views.dout, attention::gradients{}.dq(views.dq).dk(views.dk).dv(views.dv),
                      views.workspace);
}

void causal_backward_by_rows(const gpu& executor, index_t start, const backward_views& views) {
  using namespace attention::detail;
  const auto op = attention::softmax{mask::causal{}}.starting_at(start);
  const tensor_view<const bfloat16, 4> q(views.q), k(views.k), v(views.v), out(views.out), dout(views.dout);
  const problem p = validate_inputs<entry::backward>(executor, op, q, k, v);
  auto* const statistics = reinterpret_cast<row_statistics*>(views.workspace.data);
  const auto rows = in_rows(op, p.starts);
  using T = bfloat16;
  const backward_rows_operands<decltype(rows.mask), decltype(rows.score), T, T, T, T, T, T, T> in{
      rows.mask,
      rows.score,
      p,
      static_cast<float>(op.scale_for(p.head_dim)),
      q,
      k,
      v,
      dout,
      statistics,
      tensor_view<T, 4>(views.dq),
      tensor_view<T, 4>(views.dk),
      tensor_view<T, 4>(views.dv)};
  launch_backward_rows<arch::cuda::mma_sync>(executor, in, [&] {
    launch_row_statistics(executor, p, out, tensor_view<const float, 3>(views.lse), dout, statistics);
  });
}

}  // namespace seqprim::test
