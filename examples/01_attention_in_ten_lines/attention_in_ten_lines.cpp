// SPDX-License-Identifier: Apache-2.0
//
// Attention in ten lines: tensors, an operator made of parts, one call.
//
// Shapes   q, out [batch, heads, len, head_dim]; k, v [batch, kv_heads, len, head_dim]
//
// Only public headers; no data; under a second.
#include <seqprim/seqprim.hpp>

#include <cmath>
#include <cstdio>

using namespace seqprim;

namespace {

void fill(tensor<bfloat16, 4>& x, std::uint64_t seed) {
  const random_stream stream{.seed = seed};
  std::uint32_t n = 0;
  for (bfloat16& value : x) value = bfloat16(2.0f * uniform_open(stream.word(random_domain::caller, n++)) - 1.0f);
}

}  // namespace

int main() {
  // example-begin ten-lines
  const index_t len = 2048, window = 256;
  tensor<bfloat16, 4> q(1, 8, len, 64), k(1, 2, len, 64), v(1, 2, len, 64), out(1, 8, len, 64);
  fill(q, 1), fill(k, 2), fill(v, 3);

  const mask::causal causal;
  const mask::sliding_window local = mask::causal_window(window);
  const mask::key_range instructions{0, 16};  // the first 16 tokens stay visible
  const attention::softmax op{causal & (local | instructions), score::soft_cap{.cap = 30}};

  attention::forward(cpu{}, op, q, k, v, out);
  // example-end ten-lines

  // A row of the result is the weighted mean of its visible values. Compute one the slow way.
  const index_t row = 1000, head = 5;
  double sum = 0, expected = 0;
  for (index_t j = 0; j < len; ++j) {
    if (!(j <= row && (row - j < window || j < 16))) continue;
    double logit = 0;
    for (index_t d = 0; d < 64; ++d) logit += double{q(0, head, row, d)} * double{k(0, head / 4, j, d)} / 8;
    const double weight = std::exp(30 * std::tanh(logit / 30));
    sum += weight;
    expected += weight * double{v(0, head / 4, j, 7)};
  }
  expected /= sum;
  const auto tiles = mask::count_tiles(op.mask, len, len, 64, 96);
  std::printf("out[head %lld, row %lld, channel 7] = %.4f, by hand %.4f\n", static_cast<long long>(head),
              static_cast<long long>(row), static_cast<double>(out(0, head, row, 7)), expected);
  std::printf("tiles: %lld skipped, %lld without a test per pair, %lld mixed\n", static_cast<long long>(tiles.empty),
              static_cast<long long>(tiles.full), static_cast<long long>(tiles.partial));
  return std::abs(static_cast<double>(out(0, head, row, 7)) - expected) < 0.01 * std::abs(expected) + 1e-3 ? 0 : 1;
}
