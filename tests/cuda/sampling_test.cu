// SPDX-License-Identifier: Apache-2.0
// Deterministic mathematics, stages and terminal stages have the same bits on the device, from the same source.
#include <seqprim/core/gpu.cuh>
#include <seqprim/sampling/sampling.hpp>

#include <cuda/expect.cuh>

#include <support/curand.hpp>
#include <support/device.cuh>
#include <support/random.hpp>
#include <vector>

namespace seqprim::test {

namespace {

using namespace seqprim::sampling;

struct numbers {
  float log, exp, exponential, noise;
};

SEQPRIM_HD numbers numbers_of(std::uint32_t word) {
  const float positive = bit_cast<float>((word % 0x7f000000u) + 0x00800000u);
  const float exponent = uniform_half_open(word) * 170.0f - 86.0f;
  return {det_log(positive), det_exp(exponent), unit_exponential(word), gumbel(word)};
}

bool same(float a, float b) { return bit_cast<std::uint32_t>(a) == bit_cast<std::uint32_t>(b); }

__global__ void all_numbers(numbers* out, std::uint32_t count, std::uint32_t step) {  // [count]
  const std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) out[i] = numbers_of(i * step);
}

struct tokens {
  index_t greedy, drawn, gumbel;
  float scaled, cutoff;
};

SEQPRIM_HD tokens tokens_of(const candidates& row, std::uint32_t step) {
  const random_stream stream{.seed = 77, .request = 5, .step = step};
  return {greedy{}.choose(row, stream), draw{}.choose(row, stream), gumbel_max{}.choose(row, stream),
          temperature{0.7f}(row.logit(0), 0), min_p{0.1f}.cutoff(row.summary)};
}

__global__ void all_tokens(const float* logits, index_t vocab, const row_summary* summaries, tokens* out) {
  const index_t i = threadIdx.x;  // row
  out[i] =
      tokens_of({.logits = logits + i * vocab, .count = vocab, .summary = summaries[i]}, static_cast<std::uint32_t>(i));
}

void test_numbers() {
  const std::uint32_t count = short_run ? 1u << 14 : 1u << 20, step = 4093;
  std::vector<numbers> out(count);
  const device_buffer<numbers> device(out.data(), count);
  all_numbers<<<count / 256, 256>>>(device.data(), count, step);
  device.read(out.data());
  int wrong = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const numbers expected = numbers_of(i * step);
    wrong += !same(out[i].log, expected.log) || !same(out[i].exp, expected.exp) ||
             !same(out[i].exponential, expected.exponential) || !same(out[i].noise, expected.noise);
  }
  SEQPRIM_EXPECT(wrong == 0);
}

void test_tokens() {
  constexpr index_t rows = 64, vocab = 3001;
  random_numbers random(1);
  tensor<float, 2> logits(rows, vocab);
  random.fill(logits, 4.0f);
  std::vector<row_summary> summaries(rows);
  for (index_t i = 0; i < rows; ++i) {
    for (index_t v = 0; v < vocab; v += 3) logits(i, v) = i % 2 ? excluding_logit : logits(i, v);
    const index_t first = sampling::sample(cpu{}, greedy{}, logits.view()[i], {}).token;
    summaries[static_cast<std::size_t>(i)] = {logits(i, first), first, row_status::ok};
  }
  std::vector<tokens> out(rows);
  const device_buffer<float> device_logits(logits.data(), logits.size());
  const device_buffer<row_summary> device_summaries(summaries.data(), rows);
  const device_buffer<tokens> device_out(out.data(), rows);
  all_tokens<<<1, rows>>>(device_logits.data(), vocab, device_summaries.data(), device_out.data());
  device_out.read(out.data());
  for (index_t i = 0; i < rows; ++i) {
    begin_trial("seed 1: [64, 3001] logits, row ", i);
    const tokens expected =
        tokens_of({.logits = &logits(i, 0), .count = vocab, .summary = summaries[static_cast<std::size_t>(i)]},
                  static_cast<std::uint32_t>(i));
    const tokens& found = out[static_cast<std::size_t>(i)];
    SEQPRIM_EXPECT(found.greedy == expected.greedy);
    SEQPRIM_EXPECT(found.drawn == expected.drawn);
    SEQPRIM_EXPECT(found.gumbel == expected.gumbel);
    SEQPRIM_EXPECT(same(found.scaled, expected.scaled) && same(found.cutoff, expected.cutoff));
    const random_stream stream{.seed = 77, .request = 5, .step = static_cast<std::uint32_t>(i)};
    SEQPRIM_EXPECT(found.drawn == sampling::sample(cpu{}, draw{}, logits.view()[i], stream).token);
    SEQPRIM_EXPECT(found.gumbel == sampling::sample(cpu{}, gumbel_max{}, logits.view()[i], stream).token);
  }
}

const test_group registered{"sampling", [] {
                              begin_trial("2^20 words, step 4093");
                              test_numbers();
                              test_tokens();
                            }};

}  // namespace

}  // namespace seqprim::test
