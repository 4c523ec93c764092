// SPDX-License-Identifier: Apache-2.0
// Vectors encoded and appended on CUDA against the CPU. The block algorithms run on the host (tests/position/encode_block_test.cpp,
// tests/attention/append_block_test.cpp) with every encoding, type and cache; here is one of each, so that little is compiled.
#include <seqprim/attention/append.cuh>
#include <seqprim/attention/append.hpp>
#include <seqprim/core/bfloat16.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/position/encode.cuh>
#include <seqprim/position/rotary.hpp>
#include <seqprim/position/token_ids.hpp>

#include <cuda/expect.cuh>

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
    std::vector<index_t> ids(static_cast<std::size_t>(len));
    for (index_t i = 0; i < len; ++i) ids[static_cast<std::size_t>(i)] = i * i % 1009;
    const device_tensor<bfloat16, 4> device_x(x), device_y(y), device_dx(dx);
    const device_buffer<index_t> device_ids(ids.data(), len);
    const position::token_ids map{.ids = index_array(device_ids.data(), len).on_device()};
    position::encode(gpu{}, rope, map, device_x.view(), device_y.view());
    position::encode_backward(gpu{}, rope, map, device_x.view(), device_dx.view());
    device_y.read(y);
    device_dx.read(dx);
    const double budget = rounding_budget(2 * std::max(1.0, largest(x)));
    position::encode(cpu{}, rope, position::token_ids{.ids = ids}, x, expected);
    SEQPRIM_EXPECT_AT_MOST(distance(y, expected), budget);
    position::encode_backward(cpu{}, rope, position::token_ids{.ids = ids}, x, expected);
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

const test_group registered{"position", [] {
                              check_encode();
                              check_append();
                            }};

}  // namespace

}  // namespace seqprim::test
