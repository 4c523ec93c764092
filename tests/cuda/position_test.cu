// SPDX-License-Identifier: Apache-2.0
// Vectors encoded on CUDA against the CPU. The block algorithms run on the host (tests/position/encode_block_test.cpp) with every
// encoding and type; here is one of each, so that little is compiled.
#include <seqprim/core/bfloat16.hpp>
#include <seqprim/position/encode.cuh>
#include <seqprim/position/rotary.hpp>
#include <seqprim/position/token_ids.hpp>

#include <cuda/expect.cuh>

#include <attention/problem.hpp>
#include <cmath>
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

const test_group registered{"position", check_encode};

}  // namespace

}  // namespace seqprim::test
