// SPDX-License-Identifier: Apache-2.0
// Vectors encoded and appended on CUDA against the CPU; attention with a position. The block algorithms run on the host (tests/position/encode_block_test.cpp,
// tests/attention/append_block_test.cpp) with every encoding, type and cache; here is one of each, so that little is compiled.
#include <seqprim/attention/append.cuh>
#include <seqprim/attention/append.hpp>
#include <seqprim/attention/backward.cuh>
#include <seqprim/attention/decode.cuh>
#include <seqprim/attention/forward.cuh>
#include <seqprim/attention/forward.hpp>
#include <seqprim/core/bfloat16.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/position/encode.cuh>
#include <seqprim/position/rotary.hpp>
#include <seqprim/position/shifted.hpp>

#include <cuda/expect.cuh>
#include <cuda/kernels.cuh>

#include <attention/problem.hpp>
#include <cmath>
#include <cstring>
#include <support/device.cuh>
#include <support/random.hpp>
#include <vector>

namespace seqprim::test {

namespace {

using rotary = position::rotary<position::half_split>;

/// Compilers fuse products and sums differently, and a cosine may differ in the last place: vectors are not longer than `size`.
double rounding_budget(double size) { return (2 * rounding<bfloat16> + 8 * rounding<float>)*size; }

void check_encode() {
  random_numbers random(601);
  const rotary rope{};
  for (const index_t len : {0, 1, 33, 300}) {
    begin_trial("seed 601: [2, 9, ", len, ", 64]");
    tensor<bfloat16, 4> x(2, 9, len, 64), y(2, 9, len, 64), dx = y, expected = y;
    random.fill(x);
    y.fill(bfloat16(std::nanf("")));
    dx.fill(bfloat16(std::nanf("")));
    const position::sequential map{.start = 1000003};
    const device_tensor<bfloat16, 4> device_x(x), device_y(y), device_dx(dx);
    position::encode(gpu{}, rope, map, device_x.view(), device_y.view());
    position::encode_backward(gpu{}, rope, map, device_x.view(), device_dx.view());
    device_y.read(y);
    device_dx.read(dx);
    const double budget = rounding_budget(2 * std::max(1.0, largest(x)));
    position::encode(cpu{}, rope, map, x, expected);
    SEQPRIM_EXPECT_AT_MOST(distance(y, expected), budget);
    position::encode_backward(cpu{}, rope, map, x, expected);
    SEQPRIM_EXPECT_AT_MOST(distance(dx, expected), budget);
  }
}

/// Caches of bytes: what append on the CPU leaves, the bytes beside the new rows included. Values carry no position and are equal bit
/// by bit; keys as encode says.
void check_append() {
  begin_trial("seed 602");
  random_numbers random(602);
  const attention::softmax op{mask::causal{}, score::identity{}, rotary{}};
  tensor<bfloat16, 4> k(2, 3, 5, 64), v(2, 3, 5, 64);
  random.fill(k);
  random.fill(v);
  const device_tensor<bfloat16, 4> device_k(k), device_v(v);
  const auto check = [&](const tensor<bfloat16, 4>& keys, const tensor<bfloat16, 4>& host_keys, const auto& values,
                         const auto& host_values) {
    SEQPRIM_EXPECT_AT_MOST(distance(keys, host_keys), rounding_budget(2 * std::max(1.0, largest(k))));
    SEQPRIM_EXPECT(std::memcmp(values.data(), host_values.data(),
                               static_cast<std::size_t>(values.size()) * sizeof(*values.data())) == 0);
  };

  tensor<bfloat16, 4> keys(2, 3, 9, 64), values(2, 3, 9, 64);
  tensor<std::int8_t, 4> codes(2, 3, 9, 64);
  tensor<float, 4> scales(2, 3, 9, 2);
  tensor<bfloat16, 4> host_keys = keys;
  tensor<std::int8_t, 4> host_codes = codes;
  tensor<float, 4> host_scales = scales;
  const device_tensor<bfloat16, 4> device_keys(keys);
  const device_tensor<std::int8_t, 4> device_codes(codes);
  const device_tensor<float, 4> device_scales(scales);
  attention::append(gpu{}, op, device_k.view(), device_v.view(), 3, device_keys.view(),
                    attention::quantized(device_codes.view(), device_scales.view()));
  attention::append(cpu{}, op, k, v, 3, host_keys, attention::quantized(host_codes, host_scales));
  device_keys.read(keys);
  device_codes.read(codes);
  device_scales.read(scales);
  check(keys, host_keys, codes, host_codes);
  check(keys, host_keys, scales, host_scales);

  const std::vector<index_t> lengths{6, 5};
  const std::vector<index_t> entries{3, 0, 2, 1};  // pages of 4 tokens
  const device_buffer<index_t> device_lengths(lengths.data(), 2), device_entries(entries.data(), 4);
  const attention::page_table table{tensor_view<const index_t, 2>(entries.data(), 2, 2), lengths};
  const auto device_table = attention::page_table{tensor_view<const index_t, 2>(device_entries.data(), 2, 2),
                                                  index_array(device_lengths.data(), 2)}
                                .on_device();
  tensor<bfloat16, 4> k_pages(4, 3, 4, 64), v_pages(4, 3, 4, 64);
  tensor<bfloat16, 4> host_k_pages = k_pages, host_v_pages = v_pages;
  const device_tensor<bfloat16, 4> device_k_pages(k_pages), device_v_pages(v_pages);
  attention::append(gpu{}, op, device_k.view(), device_v.view(), attention::paged{device_k_pages.view(), device_table},
                    attention::paged{device_v_pages.view(), device_table});
  attention::append(cpu{}, op, k, v, attention::paged{host_k_pages, table}, attention::paged{host_v_pages, table});
  device_k_pages.read(k_pages);
  device_v_pages.read(v_pages);
  check(k_pages, host_k_pages, v_pages, host_v_pages);
}

template <class T, int Rank> bool same_bits(const tensor<T, Rank>& a, const tensor<T, Rank>& b) {
  return std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}

/// An operator with a position does what encoding before the call does, bit for bit, with workspace and without.
void check_attention() {
  constexpr index_t q_len = 70, k_len = 150;
  begin_trial("seed 603: q_len 70, k_len 150");
  random_numbers random(603);
  const rotary rope{};
  const attention::softmax plain{mask::causal{}};
  const attention::softmax op{mask::causal{}, score::identity{}, rope};
  attention_problem<bfloat16> p(2, 4, 2, q_len, k_len, 64, 64);
  p.fill(random);
  const device_tensor<bfloat16, 4> q(p.q), k(p.k), v(p.v), q_encoded(p.q), k_encoded(p.k);
  const position::shifted_rows queries{position::sequential{}, row_starts{.common = k_len - q_len}};
  position::encode(gpu{}, rope, queries, q.view(), q_encoded.view());
  position::encode(gpu{}, rope, position::sequential{}, k.view(), k_encoded.view());
  tensor<bfloat16, 4> out(2, 4, q_len, 64);
  tensor<float, 3> lse(2, 4, q_len);
  const auto run = [&](const auto& call) {
    out.fill(bfloat16(std::nanf("")));
    lse.fill(std::nanf(""));
    const device_tensor<bfloat16, 4> device_out(out);
    const device_tensor<float, 3> device_lse(lse);
    call(with_last<64>(device_out.view()), device_lse.view());
    device_out.read(out);
    device_lse.read(lse);
  };
  const auto expect_same = [&](const auto& expected, const auto& call) {
    run(expected);
    const tensor<bfloat16, 4> expected_out = out;
    const tensor<float, 3> expected_lse = lse;
    run(call);
    SEQPRIM_EXPECT(same_bits(out, expected_out));
    SEQPRIM_EXPECT(same_bits(lse, expected_lse));
  };
  const auto floats = [](index_t count) {
    tensor<float, 1> memory(count);
    memory.fill(std::nanf(""));
    return memory;
  };
  const auto q64 = with_last<64>(q.view()), k64 = with_last<64>(k.view()), v64 = with_last<64>(v.view()),
             k64_encoded = with_last<64>(k_encoded.view()), q64_encoded = with_last<64>(q_encoded.view());
  const auto forward_encoded = [&](const auto& to, const auto& sums) {
    attention::forward(gpu{}, plain, q64_encoded, k64_encoded, v64, to, sums);
  };
  expect_same(forward_encoded,
              [&](const auto& to, const auto& sums) { attention::forward(gpu{}, op, q64, k64, v64, to, sums); });
  expect_same(forward_encoded, [&](const auto& to, const auto& sums) {
    const device_tensor<float, 1> workspace(floats(attention::forward_workspace(op, q64, k64)));
    attention::forward(gpu{}, op, q64, k64, v64, to, sums, workspace.view());
  });
  tensor<bfloat16, 4> host(2, 4, q_len, 64);
  attention::forward(cpu{}, op, p.q, p.k, p.v, host);
  SEQPRIM_EXPECT_AT_MOST(distance(out, host), 16 * rounding<bfloat16> * std::max(1.0, largest(host)));

  const auto decode_encoded = [&](const auto& to, const auto& sums) {
    attention::decode(gpu{}, plain, q64_encoded, k64_encoded, v64, to, sums);
  };
  expect_same(decode_encoded,
              [&](const auto& to, const auto& sums) { attention::decode(gpu{}, op, q64, k64_encoded, v64, to, sums); });
  expect_same(decode_encoded, [&](const auto& to, const auto& sums) {
    const device_tensor<float, 1> workspace(floats(attention::decode_workspace(op, q64, k64_encoded, v64)));
    attention::decode(gpu{}, op, q64, k64_encoded, v64, to, sums, workspace.view());
  });
}

/// Backward with a position takes dq and dk back through the encoding.
void check_backward() {
  constexpr index_t q_len = 70, k_len = 150;
  begin_trial("seed 604: q_len 70, k_len 150");
  random_numbers random(604);
  const rotary rope{};
  const attention::softmax plain{mask::causal{}};
  const attention::softmax op{mask::causal{}, score::identity{}, rope};
  attention_problem<bfloat16> p(1, 4, 2, q_len, k_len, 64, 64);
  p.fill(random);
  tensor<bfloat16, 4> out(1, 4, q_len, 64), dout = out;
  tensor<float, 3> lse(1, 4, q_len);
  random.fill(dout);
  attention::forward(cpu{}, op, p.q, p.k, p.v, out, lse);
  const device_tensor<bfloat16, 4> q(p.q), k(p.k), v(p.v), q_encoded(p.q), k_encoded(p.k), outs(out), douts(dout);
  const device_tensor<float, 3> sums(lse);
  const position::shifted_rows queries{position::sequential{}, row_starts{.common = k_len - q_len}};
  position::encode(gpu{}, rope, queries, q.view(), q_encoded.view());
  position::encode(gpu{}, rope, position::sequential{}, k.view(), k_encoded.view());
  struct gradients {
    tensor<bfloat16, 4> dq, dk, dv;
  };
  const auto run = [&](const auto& op_, const auto& queries_, const auto& keys, bool encoded) {
    gradients host{p.q, p.k, p.v};
    for (auto* x : {&host.dq, &host.dk, &host.dv}) x->fill(bfloat16(std::nanf("")));
    const device_tensor<bfloat16, 4> dq(host.dq), dk(host.dk), dv(host.dv);
    const auto wanted = attention::gradients{}.dq(dq.view()).dk(dk.view()).dv(dv.view());
    tensor<float, 1> memory(attention::backward_workspace(op_, queries_, keys, wanted));
    memory.fill(std::nanf(""));
    const device_tensor<float, 1> workspace(memory);
    attention::backward(gpu{}, op_, with_last<64>(queries_), keys, with_last<64>(v.view()), outs.view(), sums.view(),
                        douts.view(), wanted, workspace.view());
    if (encoded) {
      position::encode_backward(gpu{}, rope, queries, dq.view(), dq.view());
      position::encode_backward(gpu{}, rope, position::sequential{}, dk.view(), dk.view());
    }
    dq.read(host.dq);
    dk.read(host.dk);
    dv.read(host.dv);
    return host;
  };
  const gradients expected = run(plain, q_encoded.view(), k_encoded.view(), true);
  const gradients with_position = run(op, q.view(), k.view(), false);
  SEQPRIM_EXPECT(same_bits(with_position.dq, expected.dq));
  SEQPRIM_EXPECT(same_bits(with_position.dk, expected.dk));
  SEQPRIM_EXPECT(same_bits(with_position.dv, expected.dv));
}

const test_group registered{"position", [] {
                              check_encode();
                              check_append();
                              check_attention();
                              check_backward();
                            }};

}  // namespace

}  // namespace seqprim::test
