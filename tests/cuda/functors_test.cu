// SPDX-License-Identifier: Apache-2.0
// Masks, scores, Philox and number conversions on the device: the same checks, from the same source, as on the host.
#include <seqprim/core/bfloat16.hpp>
#include <seqprim/core/float16.hpp>
#include <seqprim/core/gpu.cuh>
#include <seqprim/core/philox.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/block_map.cuh>
#include <seqprim/mask/dense.hpp>
#include <seqprim/position/rotary.hpp>
#include <seqprim/sampling/gumbel_max.hpp>

#include <cuda/expect.cuh>

#include <cmath>
#include <mask/functor_checks.hpp>
#include <score/functor_checks.hpp>
#include <support/device.cuh>
#include <vector>

namespace seqprim::test {

namespace {

__global__ void count_faults(int* faults) {
  const index_t q_tile = 1 + threadIdx.x, k_tile = 1 + blockIdx.x;
  atomicAdd(faults, all_mask_faults(q_tile, k_tile) + all_score_faults());
}

__global__ void rotate_rows(const position::rotary<position::half_split> rope, float* rows) {  // [gridDim.x, 16]
  float table[16];
  float* const row = rows + blockIdx.x * 16;
  rope.table(static_cast<double>(blockIdx.x * index_t{100003}), table);
  rope.apply(row, row, table, 16);
}

__global__ void random_words(std::uint32_t* words, index_t count) {  // [count]
  const index_t i = blockIdx.x * index_t{blockDim.x} + threadIdx.x;
  if (i >= count) return;
  const random_stream stream{.seed = 0x0123456789abcdefull, .request = 7, .step = 11};
  words[i] = stream.word(sampling::token_noise, static_cast<std::uint32_t>(i));
}

constexpr index_t tile_edge = 24;  // tiles cut the blocks of 16

template <class M>
__global__ void classify_tiles(const M m, mask::limits ends, mask::tile_kind* kinds) {  // [gridDim.x, blockDim.x]
  const index_t q = blockIdx.x * tile_edge, k = threadIdx.x * tile_edge;
  kinds[blockIdx.x * blockDim.x + threadIdx.x] =
      m.classify(intersect(range{q, q + tile_edge}, ends.queries), intersect(range{k, k + tile_edge}, ends.keys));
}

// Classes looked up on the device are those of the host; a matrix alone is partial everywhere, and a sound mask.
void check_matrix_masks() {
  constexpr index_t q_len = 100, k_len = 70, q_tiles = ceil_div(q_len, tile_edge), k_tiles = ceil_div(k_len, tile_edge);
  constexpr auto tiles = static_cast<std::size_t>(q_tiles * k_tiles);
  tensor<bool, 2> matrix(q_len, k_len);
  for (index_t q = 0; q < q_len; ++q)
    for (index_t k = 0; k < k_len; ++k) matrix(q, k) = k < 40 && (q < 48 || k < 16 || q % 7 == 3);
  const mask::dense host{.visible = matrix.view()};
  const mask::block_grid grid(cpu{}, host, q_len, k_len, 16, 16);
  const auto host_map = grid.over(host);

  const device_tensor<bool, 2> device_matrix(matrix);
  const mask::dense device{.visible = device_matrix.view()};
  const mask::device_block_grid device_grid(gpu{}, grid);
  std::vector<mask::tile_kind> looked_up(tiles), read(tiles);
  const device_buffer<mask::tile_kind> kinds(looked_up.data(), tiles), more_kinds(read.data(), tiles);
  classify_tiles<<<q_tiles, k_tiles>>>(device_grid.over(device), device.table_limits(), kinds.data());
  classify_tiles<<<q_tiles, k_tiles>>>(device, device.table_limits(), more_kinds.data());
  kinds.read(looked_up.data());
  more_kinds.read(read.data());
  for (index_t i = 0; i < q_tiles; ++i)
    for (index_t j = 0; j < k_tiles; ++j) {
      const range q{i * tile_edge, min((i + 1) * tile_edge, q_len)}, k{j * tile_edge, min((j + 1) * tile_edge, k_len)};
      const auto at = static_cast<std::size_t>(i * k_tiles + j);
      SEQPRIM_EXPECT(looked_up[at] == host_map.classify(q, k));
      SEQPRIM_EXPECT(read[at] == mask::tile_kind::partial);
    }
}

template <class T>
__global__ void round_trip(std::uint16_t* bits) {  // [65536]: narrow(widen(bits) nudged by the block index)
  const index_t i = blockIdx.x * index_t{blockDim.x} + threadIdx.x;
  const float x = T::from_bits(bits[i]);
  bits[i] = T(bit_cast<float>(bit_cast<std::uint32_t>(x) + 0x0fffu)).bits;
}

template <class T> void check_round_trip() {
  std::vector<std::uint16_t> bits(65536), expected(65536);
  for (std::uint32_t i = 0; i < 65536; ++i) {
    bits[i] = static_cast<std::uint16_t>(i);
    const float x = T::from_bits(bits[i]);
    expected[i] = T(bit_cast<float>(bit_cast<std::uint32_t>(x) + 0x0fffu)).bits;
  }
  const device_buffer<std::uint16_t> device(bits.data(), 65536);
  round_trip<T><<<256, 256>>>(device.data());
  device.read(bits.data());
  SEQPRIM_EXPECT(bits == expected);
}

void check_functors() {
  begin_trial("masks and scores");
  int faults = 0;
  const device_buffer<int> device_faults(&faults, 1);
  count_faults<<<trials(24), 20>>>(device_faults.data());
  device_faults.read(&faults);
  SEQPRIM_EXPECT(faults == 0);

  begin_trial("rotary: 20 rows of 16 channels");
  constexpr int positions = 20;
  const position::rotary<position::half_split> rope{.rotary_dim = 16};
  std::vector<float> rows(positions * 16), rotated(positions * 16);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = rotated[i] = static_cast<float>(i % 7) - 3.0f;
  const device_buffer<float> device_rows(rows.data(), positions * 16);
  rotate_rows<<<positions, 1>>>(rope, device_rows.data());
  device_rows.read(rows.data());
  for (int n = 0; n < positions; ++n) {
    float table[16];
    float* const vector = &rotated[static_cast<std::size_t>(n) * 16];
    rope.table(n * 100003.0, table);
    rope.apply(vector, vector, table, 16);
  }
  // Cosines of device and host may differ in the last bit; vectors are not longer than 5.
  for (std::size_t i = 0; i < rows.size(); ++i) SEQPRIM_EXPECT_AT_MOST(std::abs(rows[i] - rotated[i]), 4e-6f);

  begin_trial("Philox: 1000 words");
  constexpr index_t count = 1000;
  std::vector<std::uint32_t> words(count);
  const device_buffer<std::uint32_t> device_words(words.data(), count);
  random_words<<<4, 256>>>(device_words.data(), count);
  device_words.read(words.data());
  const random_stream stream{.seed = 0x0123456789abcdefull, .request = 7, .step = 11};
  bool same = true;
  for (index_t i = 0; i < count; ++i)
    same =
        same && words[static_cast<std::size_t>(i)] == stream.word(sampling::token_noise, static_cast<std::uint32_t>(i));
  SEQPRIM_EXPECT(same);

  begin_trial("a matrix of 100 x 70 and its blocks of 16");
  check_matrix_masks();
  begin_trial("every 16-bit pattern");
  check_round_trip<float16>();
  check_round_trip<bfloat16>();
}

const test_group registered{"functors", check_functors};

}  // namespace

}  // namespace seqprim::test
