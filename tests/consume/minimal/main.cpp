// SPDX-License-Identifier: Apache-2.0
// The program that README.md shows.
#include <seqprim/seqprim.hpp>

#include <cmath>
#include <cstdio>

using namespace seqprim;

int main() {
  const index_t len = 512, dim = 64;  // axes: [batch, heads, len, dim]; 8 query heads share 2 key heads
  tensor<float, 4> q(1, 8, len, dim), k(1, 2, len, dim), v(1, 2, len, dim), out(1, 8, len, dim);
  tensor<float, 3> lse(1, 8, len);
  for (index_t i = 0; i < q.size(); ++i) q.data()[i] = std::sin(0.37f * static_cast<float>(i));
  for (index_t i = 0; i < k.size(); ++i) k.data()[i] = std::cos(0.11f * static_cast<float>(i));
  v.fill(2);

  // Every query attends to the 64 newest keys and to the first 16, never to the future; logits stay below 30.
  const auto mask = mask::causal{} & (mask::causal_window(64) | mask::key_range{0, 16});
  const attention::softmax op{mask, score::soft_cap{.cap = 30}};
  attention::forward(cpu{}, op, q, k, v, out, lse);

  tensor<float, 4> dout(1, 8, len, dim), dq(1, 8, len, dim), dk(1, 2, len, dim), dv(1, 2, len, dim);
  dout.fill(1);
  attention::backward(cpu{}, op, q, k, v, out, lse, dout, attention::gradients{}.dq(dq).dk(dk).dv(dv));

  const auto tiles = mask::count_tiles(mask, len, len, 64, 64);
  std::printf("a mean of twos: %.3f; %d of %d tiles skipped\n", out(0, 7, len - 1, 0), static_cast<int>(tiles.empty),
              static_cast<int>(tiles.total()));
  return std::abs(out(0, 7, len - 1, 0) - 2) < 1e-5f ? 0 : 1;
}
