// SPDX-License-Identifier: Apache-2.0
// What only size shows: long sequences, offsets beyond 2^31 elements, more heads than a 16-bit count, many waves of blocks.
#include <seqprim/attention/reference.hpp>
#include <seqprim/mask/mask.hpp>

#include <cuda/expect.cuh>
#include <cuda/operands.cuh>

#include <algorithm>
#include <attention/problem.hpp>
#include <cmath>
#include <cstring>
#include <support/device.cuh>

namespace seqprim::test {

namespace {

/// Row by row, since means over many keys are small: weights and results are rounded to bfloat16, which is two roundings, and twice
/// that is the budget. Rows that cancel out (the first query's gradient) may keep two roundings of the largest number.
template <class T>
void expect_close_rows(const char* name, const tensor<bfloat16, 4>& found, const tensor<T, 4>& expected) {
  const std::string sizes = current_trial;
  const double least = rounding<bfloat16> * rounding<bfloat16> * largest(expected);
  for (index_t h = 0; h < found.extent(1); ++h)
    for (index_t i = 0; i < found.extent(2); ++i) {
      double error = 0, top = 0;
      for (index_t d = 0; d < kernel_dim && !std::isnan(error); ++d) {
        const double wanted = static_cast<double>(expected(0, h, i, d));
        const double difference = std::abs(static_cast<double>(found(0, h, i, d)) - wanted);
        if (!(difference <= error)) error = difference;
        top = std::max(top, std::abs(wanted));
      }
      begin_trial(sizes, ", ", name, ", head ", h, ", row ", i);
      SEQPRIM_EXPECT_AT_MOST(error, 4 * rounding<bfloat16> * top + least);
    }
  current_trial = sizes;
}

/// 8192 tokens: some rows of the simple kernel (one warp per row) against the definition in double, then all rows against it.
void check_long() {
  const index_t len = short_run ? 1024 : 8192, heads = 2, kv_heads = 1;
  random_numbers random(801);
  attention_problem<bfloat16> p(1, heads, kv_heads, len, len, kernel_dim, kernel_dim);
  p.fill(random);
  begin_trial("seed 801: ", sizes_of(p));

  tensor<bfloat16, 4> out(1, heads, len, kernel_dim), again(1, heads, len, kernel_dim);
  tensor<float, 4> by_rows(1, heads, len, kernel_dim), q(1, heads, len, kernel_dim), k(1, kv_heads, len, kernel_dim),
      v(1, kv_heads, len, kernel_dim);
  tensor<float, 3> lse(1, heads, len), lse_by_rows(1, heads, len);
  std::copy(p.q.begin(), p.q.end(), q.begin());
  std::copy(p.k.begin(), p.k.end(), k.begin());
  std::copy(p.v.begin(), p.v.end(), v.begin());
  const device_tensor<bfloat16, 4> device_q(p.q), device_k(p.k), device_v(p.v), device_out(out);
  const device_tensor<float, 4> float_q(q), float_k(k), float_v(v), device_by_rows(by_rows);
  const device_tensor<float, 3> device_lse(lse), device_lse_by_rows(lse_by_rows);
  const auto forward = [&](tensor<bfloat16, 4>& host) {
    causal_forward(gpu{}, 0, with_last<kernel_dim>(device_q.view()), with_last<kernel_dim>(device_k.view()),
                   with_last<kernel_dim>(device_v.view()), with_last<kernel_dim>(device_out.view()), device_lse.view());
    device_out.read(host);
  };
  forward(out);
  forward(again);
  SEQPRIM_EXPECT(std::memcmp(out.data(), again.data(), static_cast<std::size_t>(out.size()) * sizeof(bfloat16)) == 0);
  device_lse.read(lse);
  causal_forward_by_rows(gpu{}, 0, float_q.view(), float_k.view(), float_v.view(), device_by_rows.view(),
                         device_lse_by_rows.view());
  device_by_rows.read(by_rows);
  device_lse_by_rows.read(lse_by_rows);

  attention_problem<bfloat16> row(1, heads, kv_heads, 1, len, kernel_dim, kernel_dim);
  row.k = p.k;
  row.v = p.v;
  double lse_budget = 0;
  for (const index_t i : {index_t{0}, index_t{127}, index_t{128}, len / 2 - 1, len / 2, len - 129, len - 1}) {
    begin_trial("seed 801: ", sizes_of(p), ", row ", i);
    const auto op = attention::softmax{mask::causal{}}.starting_at(i);
    tensor<float, 4> row_by_rows(1, heads, 1, kernel_dim), naive(1, heads, 1, kernel_dim);
    tensor<float, 3> row_lse(1, heads, 1), row_lse_by_rows(1, heads, 1), naive_lse(1, heads, 1);
    tensor<double, 4> exact(1, heads, 1, kernel_dim);
    tensor<double, 3> exact_lse(1, heads, 1);
    for (index_t h = 0; h < heads; ++h) {
      row_lse(0, h, 0) = lse(0, h, i);
      row_lse_by_rows(0, h, 0) = lse_by_rows(0, h, i);
      for (index_t d = 0; d < kernel_dim; ++d) {
        row.q(0, h, 0, d) = p.q(0, h, i, d);
        row_by_rows(0, h, 0, d) = by_rows(0, h, i, d);
      }
    }
    attention::reference::forward(op, row.q, row.k, row.v, exact, exact_lse);
    naive_forward(op, row, naive, naive_lse);
    const double of_row = 2 * distance(naive_lse, exact_lse) + 16 * rounding<float> * std::max(1.0, largest(exact_lse));
    SEQPRIM_EXPECT_AT_MOST(distance(row_by_rows, exact),
                           2 * distance(naive, exact) + 6 * rounding<float> * std::max(1.0, largest(exact)));
    SEQPRIM_EXPECT_AT_MOST(distance(row_lse, exact_lse), of_row);
    SEQPRIM_EXPECT_AT_MOST(distance(row_lse_by_rows, exact_lse), of_row);
    lse_budget = std::max(lse_budget, 2 * of_row);
  }
  begin_trial("seed 801: ", sizes_of(p));
  expect_close_rows("out", out, by_rows);
  SEQPRIM_EXPECT_AT_MOST(distance(lse, lse_by_rows), lse_budget);
}

/// Gradients of 8192 tokens against those of the simple kernels.
void check_long_backward() {
  const index_t len = short_run ? 1024 : 8192;
  const causal_sizes sizes{1, 2, 1, len, len};
  begin_trial("seed 802: ", words_of(sizes));
  operand_memory inputs(causal_operands::bytes(sizes)), results(causal_operands::bytes(sizes)),
      workspace(causal_operands::workspace_bytes(sizes));
  const causal_operands at(sizes, inputs, results, workspace);
  at.fill(802);
  at.enqueue(gpu{});
  operand_memory others(causal_operands::bytes(sizes));
  backward_views views{at.q, at.k, at.v, at.out, at.dout, at.lse, {}, {}, {}, at.backward_space};
  views.dq = others.rows<bfloat16>(1, sizes.heads, len);
  views.dk = others.rows<bfloat16>(1, sizes.kv_heads, len);
  views.dv = others.rows<bfloat16>(1, sizes.kv_heads, len);
  causal_backward_by_rows(gpu{}, 0, views);
  check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  const auto read = [](const kernel_rows<bfloat16>& view) {
    tensor<bfloat16, 4> host(view.extents[0], view.extents[1], view.extents[2], kernel_dim);
    check_cuda(cudaMemcpy(host.data(), view.data, static_cast<std::size_t>(host.size()) * sizeof(bfloat16),
                          cudaMemcpyDeviceToHost),
               "cudaMemcpy");
    return host;
  };
  expect_close_rows("dq", read(at.dq), read(views.dq));
  expect_close_rows("dk", read(at.dk), read(views.dk));
  expect_close_rows("dv", read(at.dv), read(views.dv));
}

/// Whether the device has so many bytes left; what is left out is said.
bool fits(index_t bytes) {
  std::size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  if (static_cast<std::size_t>(bytes) <= free) return true;
  std::printf("large: left out, %lld MiB of device memory are not free: %s\n", static_cast<long long>(bytes >> 20),
              current_trial.c_str());
  return false;
}

/// Neighboring sequences, heads and tokens more than 2^31 elements apart: the bits of operands that lie close together.
void check_offsets() {
  constexpr index_t period = ((index_t{1} << 31) + 64) * sizeof(bfloat16);
  for (const int axis : {0, 1, 2}) {
    const causal_sizes sizes = axis == 2 ? causal_sizes{2, 2, 2, 2, 2} : causal_sizes{2, 2, 2, 150, 600};
    begin_trial("seed 803: ", words_of(sizes), ", axis ", axis, " with steps of 2^31 + 64 elements");
    const index_t window = 2 * causal_operands::bytes(sizes);
    if (!fits(period + 4 * window)) continue;
    const auto results_of = [&](operand_memory& inputs, operand_memory& results) {
      operand_memory workspace(causal_operands::workspace_bytes(sizes));
      const causal_operands at(sizes, inputs, results, workspace);
      at.fill(803);
      at.enqueue(gpu{});
      return at.results();
    };
    operand_memory inputs(window), results(window), apart(window, axis, period);
    SEQPRIM_EXPECT(results_of(inputs, results) == results_of(apart, apart));
  }
}

/// More heads than 16 bits count, each with other numbers: the bits of a seventh of them at a time.
void check_heads() {
  constexpr index_t parts = 7;
  const index_t heads = parts * (short_run ? 40 : 10000);
  const causal_sizes sizes{1, heads, heads, 2, 20};
  begin_trial("seed 804: ", words_of(sizes));
  if (!fits(5 * causal_operands::bytes(sizes))) return;
  operand_memory inputs(causal_operands::bytes(sizes)), inputs_again(inputs.size()), together(inputs.size()),
      apart(inputs.size()), workspace(2 * causal_operands::workspace_bytes(sizes));
  const causal_operands all(sizes, inputs, together, workspace), again(sizes, inputs_again, apart, workspace);
  all.fill(804);
  again.fill(804);
  all.enqueue(gpu{});
  for (index_t n = 0; n < parts; ++n) again.heads({n * heads / parts, (n + 1) * heads / parts}).enqueue(gpu{});
  const difference_counter differences;
  differences.add(together, apart, nullptr);
  SEQPRIM_EXPECT_AT_MOST(differences.read(), 0);
}

const test_group registered{"large", [] {
                              check_long();
                              check_long_backward();
                              check_offsets();
                              check_heads();
                            }};

}  // namespace

}  // namespace seqprim::test
