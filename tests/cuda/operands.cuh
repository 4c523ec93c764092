// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/core/tensor_view.hpp>

#include <cuda/kernels.cuh>

#include <cstddef>
#include <string>
#include <support/device.cuh>
#include <support/random.hpp>
#include <vector>

/// Operands of forward, backward and decode at places of one's choice, for the groups that test where operands lie and what runs
/// beside them rather than what is computed.
namespace seqprim::test {

/// Device memory from which operands are cut, one behind the other. With an axis, of extent 2 in every operand, its second half
/// lies `period` bytes behind the first, and all operands interleave.
class operand_memory {
 public:
  explicit operand_memory(index_t bytes, int axis = -1, index_t period = 0)
      : bytes_(bytes), size_(bytes + period), axis_(axis), period_(period) {
    check_cuda(cudaMalloc(&data_, static_cast<std::size_t>(size_)), "cudaMalloc");
    poison(nullptr);
  }
  operand_memory(const operand_memory&) = delete;
  operand_memory& operator=(const operand_memory&) = delete;
  ~operand_memory() { cudaFree(data_); }

  template <class T> kernel_rows<T> rows(index_t batch, index_t heads, index_t len) {
    return take<T, 4, kernel_dim>({batch, heads, len, kernel_dim});
  }
  tensor_view<float, 3> row_numbers(index_t batch, index_t heads, index_t len) {
    return take<float, 3>({batch, heads, len});
  }
  tensor_view<float, 1> floats(index_t count) { return take<float, 1>({count}); }

  /// NaN everywhere.
  void poison(cudaStream_t stream) const {
    check_cuda(cudaMemsetAsync(data_, 0xff, static_cast<std::size_t>(size_), stream), "cudaMemsetAsync");
  }
  [[nodiscard]] void* data() const noexcept { return data_; }
  [[nodiscard]] index_t size() const noexcept { return size_; }

 private:
  template <class T, int Rank, index_t Last = dynamic_extent>
  tensor_view<T, Rank, Last> take(const index_t (&extents)[Rank]) {
    tensor_view<T, Rank, Last> view;
    view.data = reinterpret_cast<T*>(static_cast<std::byte*>(data_) + used_);
    index_t step = 1;
    for (int axis = Rank - 1; axis >= 0; --axis) {
      view.extents[axis] = extents[axis];
      view.strides[axis] = axis == axis_ ? period_ / static_cast<index_t>(sizeof(T)) : step;
      if (axis != axis_) step *= extents[axis];
    }
    used_ += round_up(step * static_cast<index_t>(sizeof(T)), 256);
    SEQPRIM_EXPECTS(used_ <= bytes_, "the operands need ", used_, " of ", bytes_, " bytes");
    return view;
  }

  void* data_ = nullptr;
  index_t bytes_, size_, used_ = 0;
  int axis_;
  index_t period_;
};

/// body(pointer, elements) for each piece of the view that is contiguous.
template <class T, int Rank, index_t Last, class Body>
void for_pieces(const tensor_view<T, Rank, Last>& view, const Body& body) {
  if (view.contiguous()) return body(view.data, view.size());
  if constexpr (Rank == 1) {
    for (index_t i = 0; i < view.extents[0]; ++i) body(view.data + i * view.strides[0], index_t{1});
  } else {
    for (index_t i = 0; i < view.extents[0]; ++i) for_pieces(view[i], body);
  }
}

struct causal_sizes {
  index_t batch, heads, kv_heads, q_len, k_len;
};

/// One problem: the last query sees all keys.
struct causal_operands {
  causal_sizes sizes;
  kernel_rows<bfloat16> q, k, v, dout, out, dq, dk, dv, decoded;
  tensor_view<float, 3> lse, decoded_lse;
  tensor_view<float, 1> backward_space, decode_space;

  causal_operands(const causal_sizes& s, operand_memory& inputs, operand_memory& results, operand_memory& workspace)
      : sizes(s),
        q(inputs.rows<bfloat16>(s.batch, s.heads, s.q_len)),
        k(inputs.rows<bfloat16>(s.batch, s.kv_heads, s.k_len)),
        v(inputs.rows<bfloat16>(s.batch, s.kv_heads, s.k_len)),
        dout(inputs.rows<bfloat16>(s.batch, s.heads, s.q_len)),
        out(results.rows<bfloat16>(s.batch, s.heads, s.q_len)),
        dq(results.rows<bfloat16>(s.batch, s.heads, s.q_len)),
        dk(results.rows<bfloat16>(s.batch, s.kv_heads, s.k_len)),
        dv(results.rows<bfloat16>(s.batch, s.kv_heads, s.k_len)),
        decoded(results.rows<bfloat16>(s.batch, s.heads, s.q_len)),
        lse(results.row_numbers(s.batch, s.heads, s.q_len)),
        decoded_lse(results.row_numbers(s.batch, s.heads, s.q_len)),
        backward_space(workspace.floats(2 * s.batch * s.heads * s.q_len)),
        decode_space(workspace.floats(max<index_t>(causal_decode_workspace(q, k, v), 1))) {}

  /// Bytes that are enough for the inputs or for the results, and for the workspace.
  static index_t bytes(const causal_sizes& s) {
    return s.batch * (3 * s.heads * s.q_len + 2 * s.kv_heads * s.k_len) * kernel_dim * 2 +
           s.batch * s.heads * s.q_len * 8 + 7 * 256;
  }
  static index_t workspace_bytes(const causal_sizes& s) {
    return s.batch * s.heads * s.q_len * 4 * (2 + (s.k_len / 64 + 1) * (kernel_dim + 1)) + 2 * 256;
  }

  /// Random numbers that repeat after a prime number of elements, so that no two heads hold the same.
  void fill(std::uint64_t seed) const {
    constexpr index_t repeat = 1000003;
    random_numbers random(seed);
    std::vector<bfloat16> host;
    for (const auto* operand : {&q, &k, &v, &dout})
      for_pieces(*operand, [&](bfloat16* piece, index_t count) {
        host.resize(static_cast<std::size_t>(min(count, repeat)));
        for (bfloat16& x : host) x = bfloat16(random.normal());
        check_cuda(cudaMemcpy(piece, host.data(), host.size() * sizeof(bfloat16), cudaMemcpyHostToDevice),
                   "cudaMemcpy");
        for (index_t done = repeat; done < count; done *= 2)
          check_cuda(
              cudaMemcpy(piece + done, piece, static_cast<std::size_t>(min(done, count - done)) * sizeof(bfloat16),
                         cudaMemcpyDeviceToDevice),
              "cudaMemcpy");
      });
  }

  /// The part of some heads; each has keys of its own.
  [[nodiscard]] causal_operands heads(range part) const {
    causal_operands result = *this;
    result.sizes.heads = result.sizes.kv_heads = part.end - part.begin;
    for (auto* x : {&result.q, &result.k, &result.v, &result.dout, &result.out, &result.dq, &result.dk, &result.dv,
                    &result.decoded})
      *x = with_last<kernel_dim>(x->slice(1, part));
    for (auto* x : {&result.lse, &result.decoded_lse}) *x = x->slice(1, part);
    return result;
  }

  /// Forward, backward and decode, in order on the stream.
  void enqueue(const gpu& executor, bool pooled = false) const {
    const index_t start = sizes.k_len - sizes.q_len;
    causal_forward(executor, start, q, k, v, out, lse);
    causal_backward(executor, start, {q, k, v, out, dout, lse, dq, dk, dv, backward_space});
    causal_decode(executor, start, q, k, v, decoded, decoded_lse, pooled ? tensor_view<float, 1>() : decode_space);
  }

  /// The bytes of all results, after everything before has ended.
  [[nodiscard]] std::vector<std::byte> results() const {
    check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    std::vector<std::byte> host;
    const auto append = [&](const auto* piece, index_t count) {
      const std::size_t bytes = static_cast<std::size_t>(count) * sizeof *piece, begin = host.size();
      host.resize(begin + bytes);
      check_cuda(cudaMemcpy(host.data() + begin, piece, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
    };
    for (const auto* result : {&out, &dq, &dk, &dv, &decoded}) for_pieces(*result, append);
    for (const auto* result : {&lse, &decoded_lse}) for_pieces(*result, append);
    return host;
  }
};

inline std::string words_of(const causal_sizes& s) {
  return message("batch ", s.batch, ", heads ", s.heads, ", kv_heads ", s.kv_heads, ", q_len ", s.q_len, ", k_len ",
                 s.k_len, ", dims ", kernel_dim);
}

// streams_test.cu
void count_differences(const void* a, const void* b, index_t words, unsigned* count, cudaStream_t stream);

/// Words in which two memories of one size differ, counted on a stream.
class difference_counter {
 public:
  void add(const operand_memory& a, const operand_memory& b, cudaStream_t stream) const {
    count_differences(a.data(), b.data(), a.size() / 4, count_.data(), stream);
  }
  [[nodiscard]] unsigned read() const {
    unsigned count = 0;
    count_.read(&count);
    return count;
  }

 private:
  static constexpr unsigned zero = 0;
  device_buffer<unsigned> count_{&zero, 1};
};

}  // namespace seqprim::test
