// SPDX-License-Identifier: Apache-2.0
// Decode on CUDA, contiguous and in pages, and merge, against the definition in double and the CPU, with poisoned outputs and workspace.
#include <seqprim/attention/decode.cuh>
#include <seqprim/attention/forward.hpp>
#include <seqprim/attention/merge.cuh>
#include <seqprim/attention/ragged.cuh>
#include <seqprim/attention/reference.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/position/rotary.hpp>
#include <seqprim/score/score.hpp>

#include <cuda/expect.cuh>
#include <cuda/kernels.cuh>

#include <attention/problem.hpp>
#include <cmath>
#include <cstring>
#include <support/device.cuh>
#include <vector>

namespace seqprim::test {

namespace {

template <int Dims> constexpr int shared_bytes() {
  using shapes = attention::detail::decode_shapes<arch::cuda::mma_sync, attention::default_block_policy, bfloat16,
                                                  attention::detail::dims_constant<Dims>>;
  return max(shapes::narrow::paged_bytes, shapes::wide::paged_bytes);
}
static_assert(shared_bytes<0>() <= least_shared_memory && shared_bytes<1>() <= least_shared_memory &&
              shared_bytes<2>() <= least_shared_memory && shared_bytes<3>() <= least_shared_memory &&
              shared_bytes<4>() <= least_shared_memory);

template <class T> struct results {
  tensor<T, 4> out;
  tensor<float, 3> lse;
};

template <int Dim, class T, class Op> results<T> run(const Op& op, const attention_problem<T>& p) {
  results<T> r{tensor<T, 4>(p.batch, p.heads, p.q_len, p.value_dim), tensor<float, 3>(p.batch, p.heads, p.q_len)};
  r.out.fill(T(std::nanf("")));
  r.lse.fill(std::nanf(""));
  const device_tensor<T, 4> q(p.q), k(p.k), v(p.v), out(r.out);
  const device_tensor<float, 3> lse(r.lse);
  const auto keys = with_last<Dim>(k.view()), values = with_last<Dim>(v.view());
  const gpu executor;
  // example-begin workspace
  const index_t floats = attention::decode_workspace(q.view(), keys, values);
  // example-end workspace
  tensor<float, 1> memory(floats);
  memory.fill(std::nanf(""));
  const device_tensor<float, 1> workspace(memory);
  // example-begin decode
  attention::decode(executor, op, q.view(), keys, values, out.view(), lse.view(), workspace.view());
  // example-end decode
  out.read(r.out);
  lse.read(r.lse);
  return r;
}

template <class T> bool same_bits(const results<T>& a, const results<T>& b) {
  return std::memcmp(a.out.data(), b.out.data(), static_cast<std::size_t>(a.out.size()) * sizeof(T)) == 0 &&
         std::memcmp(a.lse.data(), b.lse.data(), static_cast<std::size_t>(a.lse.size()) * 4) == 0;
}

template <int Dim, class T, class Op> void check(const Op& op, const Op& device_op, const attention_problem<T>& p) {
  const results<T> r = run<Dim>(device_op, p);
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
  tensor<T, 4> host(p.batch, p.heads, p.q_len, p.value_dim);
  attention::forward(cpu{}, op, p.q, p.k, p.v, host);
  SEQPRIM_EXPECT_AT_MOST(distance(r.out, host), 2 * budget);
  SEQPRIM_EXPECT(same_bits(r, run<Dim>(device_op, p)));
}

template <int Dim, class T> void check_dense(std::uint64_t seed) {
  random_numbers random(seed);
  const index_t lengths[] = {1, 15, 64, 65, 511, 512, 513, 1500};
  for (int trial = 0; trial < trials(16); ++trial) {
    const index_t kv_heads = random.integer(1, 2), group = random.integer(1, 9), q_len = random.integer(1, 20);
    attention_problem<T> p(random.integer(1, 2), group * kv_heads, kv_heads, q_len, lengths[trial % 8], Dim, Dim);
    p.fill(random);
    begin_trial("seed ", seed, ", trial ", trial, ": ", sizes_of(p));
    const auto op = attention::softmax{mask::causal{}}.starting_at(p.k_len - q_len);
    check<Dim>(trial % 2 == 0 ? op : op.tiled_heads().with_sink(0.5f),
               trial % 2 == 0 ? op : op.tiled_heads().with_sink(0.5f), p);
  }
}

/// Masks and scores that differ between sequences and heads.
void check_bound() {
  random_numbers random(521);
  attention_problem<float16> p(2, 6, 2, 3, 1100, 64, 64);
  p.fill(random);
  begin_trial("seed 521: ", sizes_of(p), ", lengths 1030, 0");
  const index_t lengths[] = {1030, 0};
  const device_buffer<index_t> device_lengths(lengths, 2);
  const auto make = [&](const index_array& array) {
    return attention::softmax{mask::key_padding{.lengths = array, .k_len = 1100}, score::alibi{.heads = 6}}.starting_at(
        1097);
  };
  check<64>(make({lengths, 2}), make(index_array(device_lengths.data(), 2).on_device()), p);
}

/// One query and few heads: only the kernel for few rows is compiled.
struct few_rows_policy : attention::default_block_policy {
  template <class Engine, class T, int HeadDim, int ValueDim>
  static constexpr attention::block_policy decode_rows() noexcept {
    return decode<Engine, T, HeadDim, ValueDim>();
  }
};

/// Pages in any order and of any size hold the bits of the contiguous cache of each sequence.
void check_pages() {
  random_numbers random(531);
  constexpr index_t most = 1100;
  const index_t lengths[] = {1100, 0, 513};
  attention_problem<bfloat16> p(3, 4, 2, 1, most, 128, 128);
  p.fill(random);
  const device_buffer<index_t> device_lengths(lengths, 3);
  const index_array on_device = index_array(device_lengths.data(), 3).on_device();
  results<bfloat16> dense{tensor<bfloat16, 4>(3, 4, 1, 128), tensor<float, 3>(3, 4, 1)};
  for (index_t b = 0; b < 3; ++b) {
    attention_problem<bfloat16> alone(1, 4, 2, 1, lengths[b], 128, 128);
    for (index_t h = 0; h < 4; ++h)
      for (index_t d = 0; d < 128; ++d) {
        alone.q(0, h, 0, d) = p.q(b, h, 0, d);
        for (index_t j = 0; j < lengths[b] && h < 2; ++j) {
          alone.k(0, h, j, d) = p.k(b, h, j, d);
          alone.v(0, h, j, d) = p.v(b, h, j, d);
        }
      }
    const auto r = run<128>(attention::softmax{mask::causal{}}, alone);
    for (index_t h = 0; h < 4; ++h) {
      dense.lse(b, h, 0) = r.lse(0, h, 0);
      for (index_t d = 0; d < 128; ++d) dense.out(b, h, 0, d) = r.out(0, h, 0, d);
    }
  }
  const index_t page_sizes[] = {16, 1, 48, 256};
  for (int n = 0; n < trials(4); ++n) {
    const index_t page_size = page_sizes[n];
    begin_trial("seed 531, lengths 1100, 0, 513, pages of ", page_size);
    const index_t max_pages = ceil_div(most, page_size) + 1, pages = 3 * max_pages;
    tensor<bfloat16, 4> k_pages(pages, 2, page_size, 128), v_pages(pages, 2, page_size, 128);
    k_pages.fill(bfloat16(std::nanf("")));
    v_pages.fill(bfloat16(std::nanf("")));
    tensor<std::int32_t, 2> entries(3, max_pages);
    entries.fill(-1);
    for (index_t b = 0; b < 3; ++b)
      for (index_t j = 0; j < lengths[b]; ++j) {
        const index_t page = pages - 1 - (b * max_pages + j / page_size);
        entries(b, j / page_size) = static_cast<std::int32_t>(page);
        for (index_t h = 0; h < 2; ++h)
          for (index_t d = 0; d < 128; ++d) {
            k_pages(page, h, j % page_size, d) = p.k(b, h, j, d);
            v_pages(page, h, j % page_size, d) = p.v(b, h, j, d);
          }
      }
    results<bfloat16> r{tensor<bfloat16, 4>(3, 4, 1, 128), tensor<float, 3>(3, 4, 1)};
    r.out.fill(bfloat16(std::nanf("")));
    const device_tensor<bfloat16, 4> q(p.q), k(k_pages), v(v_pages), out(r.out);
    const device_tensor<float, 3> lse(r.lse);
    const device_tensor<std::int32_t, 2> device_entries(entries);
    const auto table = attention::page_table(device_entries.view(), on_device).on_device();
    attention::decode<arch::cuda::mma_sync, few_rows_policy>(
        gpu{}, attention::softmax{}, q.view(), attention::paged(with_last<128>(k.view()), table),
        attention::paged(with_last<128>(v.view()), table), out.view(), lse.view());
    out.read(r.out);
    lse.read(r.lse);
    SEQPRIM_EXPECT(same_bits(r, dense));
  }
}

/// Int8 values in pages hold the bits of a contiguous cache of the same values.
void check_codes() {
  random_numbers random(533);
  begin_trial("seed 533: int8 values in pages of 16");
  constexpr index_t most = 700, page_size = 16, max_pages = ceil_div(most, page_size), pages = 2 * max_pages;
  const index_t lengths[] = {700, 130};
  attention_problem<bfloat16> p(2, 4, 2, 1, most, 128, 128);
  p.fill(random);
  tensor<std::int8_t, 4> k_codes(pages, 2, page_size, 128), v_codes(pages, 2, page_size, 128);
  tensor<float, 4> k_scales(pages, 2, page_size, 4), v_scales(pages, 2, page_size, 1);
  for (auto* codes : {&k_codes, &v_codes})
    for (std::int8_t& code : *codes) code = static_cast<std::int8_t>(random.integer(-128, 127));
  for (auto* scales : {&k_scales, &v_scales})
    for (float& scale : *scales) scale = 0.001f * static_cast<float>(random.integer(1, 20));
  tensor<std::int32_t, 2> entries(2, max_pages);
  for (index_t n = 0; n < pages; ++n) entries.data()[n] = static_cast<std::int32_t>(pages - 1 - n);
  const attention::quantized k_values(k_codes, k_scales), v_values(v_codes, v_scales);
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t j = 0; j < most; ++j)
        for (index_t d = 0; d < 128; ++d) {
          p.k(b, h, j, d) = bfloat16(k_values(entries(b, j / page_size), h, j % page_size, d));
          p.v(b, h, j, d) = bfloat16(v_values(entries(b, j / page_size), h, j % page_size, d));
        }
  const device_buffer<index_t> device_lengths(lengths, 2);
  const index_array on_device = index_array(device_lengths.data(), 2).on_device();
  const auto dense = run<128>(attention::softmax{mask::key_padding{.lengths = on_device, .k_len = most}}, p);
  results<bfloat16> r{tensor<bfloat16, 4>(2, 4, 1, 128), tensor<float, 3>(2, 4, 1)};
  r.out.fill(bfloat16(std::nanf("")));
  const device_tensor<bfloat16, 4> q(p.q), out(r.out);
  const device_tensor<std::int8_t, 4> device_k(k_codes), device_v(v_codes);
  const device_tensor<float, 4> device_k_scales(k_scales), device_v_scales(v_scales);
  const device_tensor<float, 3> lse(r.lse);
  const device_tensor<std::int32_t, 2> device_entries(entries);
  const auto table = attention::page_table(device_entries.view(), on_device).on_device();
  // The queries fix the size of heads that is compiled.
  attention::decode(gpu{}, attention::softmax{}, with_last<128>(q.view()),
                    attention::paged(attention::quantized(device_k.view(), device_k_scales.view()), table),
                    attention::paged(attention::quantized(device_v.view(), device_v_scales.view()), table),
                    with_last<128>(out.view()), lse.view());
  out.read(r.out);
  lse.read(r.lse);
  SEQPRIM_EXPECT(same_bits(r, dense));
}

/// A ragged batch has the bits of each sequence alone, and idle slots write nothing.
void check_ragged() {
  random_numbers random(534);
  begin_trial("seed 534: ragged queries, 0, 1, 20 and 3 of 300, 700, 500 and 64 keys");
  constexpr index_t batch = 4, page_size = 16, max_pages = 44, tokens = 24;
  const index_t offsets[] = {0, 0, 1, 21, 24}, lengths[] = {300, 700, 500, 64};
  tensor<float16, 4> q(1, 4, tokens, 64), k(batch * max_pages, 2, page_size, 64),
      v(batch * max_pages, 2, page_size, 64);
  random.fill(q);
  random.fill(k);
  random.fill(v);
  tensor<std::int32_t, 2> entries(batch, max_pages);
  for (index_t n = 0; n < entries.size(); ++n) entries.data()[n] = static_cast<std::int32_t>(entries.size() - 1 - n);
  results<float16> r{tensor<float16, 4>(1, 4, tokens, 64), tensor<float, 3>(1, 4, tokens)};
  r.out.fill(float16(std::nanf("")));
  const device_tensor<float16, 4> device_q(q), device_k(k), device_v(v), out(r.out);
  const device_tensor<float, 3> lse(r.lse);
  const device_tensor<std::int32_t, 2> device_entries(entries);
  const device_buffer<index_t> device_lengths(lengths, batch), device_offsets(offsets, batch + 1);
  const attention::softmax op{mask::causal{}, score::identity{}, position::rotary<position::half_split>{}};
  const auto keys = with_last<64>(device_k.view()), values = with_last<64>(device_v.view());
  const auto table =
      attention::page_table(device_entries.view(), index_array(device_lengths.data(), batch)).on_device();
  const index_array begins = index_array(device_offsets.data(), batch + 1).on_device();
  // example-begin ragged
  attention::decode(gpu{}, op, attention::ragged(device_q.view(), begins), attention::paged(keys, table),
                    attention::paged(values, table), out.view(), lse.view());
  // example-end ragged
  out.read(r.out);
  lse.read(r.lse);
  for (index_t b = 0; b < batch; ++b) {
    const range own{offsets[b], offsets[b + 1]};
    if (own.empty()) continue;
    attention_problem<float16> p(1, 4, 2, own.size(), lengths[b], 64, 64);
    for (index_t h = 0; h < 4; ++h)
      for (index_t d = 0; d < 64; ++d) {
        for (index_t i = 0; i < own.size(); ++i) p.q(0, h, i, d) = q(0, h, own.begin + i, d);
        for (index_t j = 0; h < 2 && j < lengths[b]; ++j) {
          const index_t page = entries(b, j / page_size);
          p.k(0, h, j, d) = k(page, h, j % page_size, d);
          p.v(0, h, j, d) = v(page, h, j % page_size, d);
        }
      }
    const auto alone = run<64>(op, p);
    bool same = true;
    for (index_t h = 0; h < 4; ++h)
      for (index_t i = 0; i < own.size(); ++i) {
        same = same && r.lse(0, h, own.begin + i) == alone.lse(0, h, i);
        for (index_t d = 0; d < 64; ++d)
          same = same && r.out(0, h, own.begin + i, d).bits == alone.out(0, h, i, d).bits;
      }
    SEQPRIM_EXPECT(same);
  }
}

void check_merge() {
  random_numbers random(541);
  begin_trial("seed 541: merge of [2, 3, 5, 40]");
  tensor<float, 4> a(2, 3, 5, 40), b(2, 3, 5, 40);
  tensor<float, 3> lse_a(2, 3, 5), lse_b(2, 3, 5);
  random.fill(a);
  random.fill(b);
  random.fill(lse_a, 3.0f);
  random.fill(lse_b, 3.0f);
  const float infinity = std::numeric_limits<float>::infinity();
  lse_a(0, 1, 2) = lse_b(1, 2, 3) = lse_a(1, 0, 0) = lse_b(1, 0, 0) = -infinity;
  for (index_t d = 0; d < 40; ++d) a(0, 1, 2, d) = std::nanf("");
  const device_tensor<float, 4> device_a(a), device_b(b);
  const device_tensor<float, 3> device_lse_a(lse_a), device_lse_b(lse_b);
  attention::merge(gpu{}, device_a.view(), device_lse_a.view(), device_b.view(), device_lse_b.view());
  tensor<float, 4> out(2, 3, 5, 40);
  tensor<float, 3> lse(2, 3, 5);
  device_a.read(out);
  device_lse_a.read(lse);
  attention::merge(cpu{}, a, lse_a, b, lse_b);
  // Exponentials of device and host differ in the last bits.
  SEQPRIM_EXPECT_AT_MOST(distance(out, a), 8 * rounding<float> * std::max(1.0, largest(a)));
  SEQPRIM_EXPECT_AT_MOST(distance(lse, lse_a), 8 * rounding<float> * std::max(1.0, largest(lse_a)));
}

void check_errors() {
  begin_trial("a workspace that is too small");
  attention_problem<float16> p(1, 2, 1, 1, 2000, 64, 64);
  tensor<float16, 4> out(1, 2, 1, 64);
  tensor<float, 3> lse(1, 2, 1);
  tensor<float, 1> workspace(attention::decode_workspace(p.q, p.k, p.v) - 1);
  bool refused = false;
  try {
    attention::decode(gpu{}, attention::softmax{mask::causal{}}.starting_at(1999), p.q, with_last<64>(p.k.view()),
                      with_last<64>(p.v.view()), out, lse, workspace.view());
  } catch (const precondition_error&) {
    refused = true;
  }
  SEQPRIM_EXPECT(refused);
}

const test_group registered{"decode", [] {
                              check_dense<64, float16>(511);
                              check_dense<128, bfloat16>(512);
                              check_dense<256, bfloat16>(513);
                              check_bound();
                              check_pages();
                              check_codes();
                              check_ragged();
                              check_merge();
                              check_errors();
                            }};

}  // namespace

index_t causal_decode_workspace(const kernel_rows<const bfloat16>& q, const kernel_rows<const bfloat16>& k,
                                const kernel_rows<const bfloat16>& v) {
  return attention::decode_workspace(q, k, v);
}

void causal_decode(const gpu& executor, index_t start, const kernel_rows<const bfloat16>& q,
                   const kernel_rows<const bfloat16>& k, const kernel_rows<const bfloat16>& v,
                   const kernel_rows<bfloat16>& out, const tensor_view<float, 3>& lse,
                   const tensor_view<float, 1>& workspace) {
  const auto op = attention::softmax{mask::causal{}}.starting_at(start);
  if (workspace.data == nullptr) {
    attention::decode(executor, op, q, k, v, out, lse);
  } else {
    attention::decode(executor, op, q, k, v, out, lse, workspace);
  }
}

}  // namespace seqprim::test
