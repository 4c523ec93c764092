// SPDX-License-Identifier: Apache-2.0
// Prompts and a decode loop on a GPU: rotary positions, grouped-query attention, a cache in pages, and a step that is recorded once in
// a CUDA graph and replayed for each token. The same operator runs on the CPU, which checks every number.
//
//     nvcc -std=c++20 -O3 -arch=native -I seqprim/include serving.cu -o serving
//
// Shapes   prompts: q, out [1, heads, tokens, dim]; k, v [1, kv_heads, tokens, dim]: the tokens of all sequences, concatenated
//          steps: q, out [sequences, heads, 1, dim]; k, v [sequences, kv_heads, 1, dim]
//          k_pages, v_pages [pages, kv_heads, page_size, dim]; entries [sequences, pages of a sequence]; lengths [sequences]
#include <seqprim/attention/append.cuh>
#include <seqprim/attention/decode.cuh>
#include <seqprim/attention/forward.hpp>
#include <seqprim/attention/ragged.cuh>
#include <seqprim/core/core.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/position/rotary.hpp>

#include <thrust/device_vector.h>
#include <thrust/execution_policy.h>
#include <thrust/functional.h>
#include <thrust/iterator/constant_iterator.h>
#include <thrust/transform.h>

#include <cmath>
#include <cstdio>
#include <vector>

using namespace seqprim;

constexpr index_t sequences = 4, heads = 8, kv_heads = 2, dim = 128, page_size = 16, steps = 40, longest = 320,
                  max_pages = ceil_div(longest, page_size), pages = sequences * max_pages;
constexpr index_t prompts[sequences] = {200, 7, 1, 280};  // tokens

/// A dense view [a, b, c, dim] of device memory; dim is part of the type, so that one size of kernels is compiled.
template <class T> tensor_view<T, 4, dim> view(thrust::device_vector<T>& memory, index_t a, index_t b, index_t c) {
  return tensor_view<T, 4, dim>(thrust::raw_pointer_cast(memory.data()), a, b, c, dim);
}
template <class T> void upload(thrust::device_vector<T>& to, const T* from, cudaStream_t stream) {
  check_cuda(
      cudaMemcpyAsync(thrust::raw_pointer_cast(to.data()), from, to.size() * sizeof(T), cudaMemcpyDefault, stream),
      "copy to the device");
}

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("skipped: no CUDA device");
    return 77;
  }
  const attention::softmax op{mask::causal{}, score::identity{}, position::rotary<position::half_split>{}};

  // Random vectors in place of a layer's projections, for all tokens of all sequences; and what must come out, from the CPU.
  tensor<bfloat16, 4> all_q(sequences, heads, longest, dim), all_k(sequences, kv_heads, longest, dim), all_v = all_k;
  std::uint32_t drawn = 0;
  for (auto* x : {&all_q, &all_k, &all_v})
    for (bfloat16& value : *x)
      value = bfloat16(4 * uniform_open(random_stream{.seed = 1}.word(random_domain::caller, drawn++)) - 2);
  tensor<float, 4> expected(sequences, heads, longest, dim);
  attention::forward(cpu{}, op, all_q, all_k, all_v, expected);
  float worst = 0;
  const auto compare = [&](index_t b, index_t token, const bfloat16* out, index_t head_step) {
    for (index_t h = 0; h < heads; ++h)
      for (index_t d = 0; d < dim; ++d) {
        const float difference = std::fabs(static_cast<float>(out[h * head_step + d]) - expected(b, h, token, d));
        worst = worst != worst || difference <= worst ? worst : difference;  // a NaN stays
      }
  };

  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreate(&stream), "cudaStreamCreate");
  const gpu executor{stream};

  // The cache: pages in any order, and a table of which the device holds both parts.
  thrust::device_vector<bfloat16> k_memory(pages * kv_heads * page_size * dim), v_memory = k_memory;
  std::vector<std::int32_t> pages_of_all(pages), tokens_of_all(sequences), begins(sequences + 1);
  for (index_t n = 0; n < pages; ++n) pages_of_all[n] = static_cast<std::int32_t>(n * 7 % pages);
  for (index_t b = 0; b < sequences; ++b) {
    tokens_of_all[b] = static_cast<std::int32_t>(prompts[b]);
    begins[b + 1] = begins[b] + tokens_of_all[b];
  }
  const thrust::device_vector<std::int32_t> entries = pages_of_all;
  thrust::device_vector<std::int32_t> lengths = tokens_of_all;
  const attention::page_table table =
      attention::page_table(
          tensor_view<const std::int32_t, 2>(thrust::raw_pointer_cast(entries.data()), sequences, max_pages),
          index_array(thrust::raw_pointer_cast(lengths.data()), sequences))
          .on_device();
  const attention::paged k_cache{view(k_memory, pages, kv_heads, page_size), table};
  const attention::paged v_cache{view(v_memory, pages, kv_heads, page_size), table};

  // The prompts, all in two calls: append writes keys with their positions, decode reads them.
  {
    const index_t tokens = begins[sequences];
    tensor<bfloat16, 4> q(1, heads, tokens, dim), k(1, kv_heads, tokens, dim), v = k, out = q;
    for (index_t b = 0; b < sequences; ++b)
      for (index_t i = 0; i < prompts[b]; ++i)
        for (index_t d = 0; d < dim; ++d) {
          for (index_t h = 0; h < heads; ++h) q(0, h, begins[b] + i, d) = all_q(b, h, i, d);
          for (index_t h = 0; h < kv_heads; ++h) {
            k(0, h, begins[b] + i, d) = all_k(b, h, i, d);
            v(0, h, begins[b] + i, d) = all_v(b, h, i, d);
          }
        }
    thrust::device_vector<bfloat16> q_memory(q.begin(), q.end()), k_new(k.begin(), k.end()), v_new(v.begin(), v.end()),
        out_memory(q.size());
    const thrust::device_vector<std::int32_t> device_begins = begins;
    const index_array offsets = index_array(thrust::raw_pointer_cast(device_begins.data()), sequences + 1).on_device();
    attention::append(executor, op, attention::ragged{view(k_new, 1, kv_heads, tokens), offsets},
                      attention::ragged{view(v_new, 1, kv_heads, tokens), offsets}, k_cache, v_cache);
    attention::decode(executor, op, attention::ragged{view(q_memory, 1, heads, tokens), offsets}, k_cache, v_cache,
                      view(out_memory, 1, heads, tokens));
    check_cuda(cudaStreamSynchronize(stream), "the prompts");
    thrust::copy(out_memory.begin(), out_memory.end(), out.begin());
    for (index_t b = 0; b < sequences; ++b)
      for (index_t i = 0; i < prompts[b]; ++i) compare(b, i, &out(0, 0, begins[b] + i, 0), tokens * dim);
  }

  // One step, recorded: the graph keeps the addresses, so new tokens are copied into the same memory, and the lengths count on there.
  thrust::device_vector<bfloat16> q_new(sequences * heads * dim), k_new(sequences * kv_heads * dim),
      v_new = k_new, out_new(q_new.size());
  const auto q = view(q_new, sequences, heads, 1), k = view(k_new, sequences, kv_heads, 1),
             v = view(v_new, sequences, kv_heads, 1), out = view(out_new, sequences, heads, 1);
  thrust::device_vector<float> lse_memory(sequences * heads),
      workspace_memory(attention::decode_workspace(op, q, k_cache, v_cache));
  const tensor_view<float, 3> lse(thrust::raw_pointer_cast(lse_memory.data()), sequences, heads, index_t{1});
  const tensor_view<float, 1> workspace(thrust::raw_pointer_cast(workspace_memory.data()),
                                        static_cast<index_t>(workspace_memory.size()));
  // example-begin record
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t step = nullptr;
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  thrust::transform(thrust::cuda::par_nosync.on(stream), lengths.begin(), lengths.end(),
                    thrust::constant_iterator<std::int32_t>(1), lengths.begin(), thrust::plus<std::int32_t>{});
  attention::append(executor, op, k, v, k_cache, v_cache);
  attention::decode(executor, op, q, k_cache, v_cache, out, lse, workspace);
  check_cuda(cudaStreamEndCapture(stream, &graph), "capture");
  check_cuda(cudaGraphInstantiate(&step, graph, 0), "cudaGraphInstantiate");
  // example-end record

  tensor<bfloat16, 4> next_q(sequences, heads, 1, dim), next_k(sequences, kv_heads, 1, dim), next_v = next_k,
                                                                                             result = next_q;
  for (index_t n = 0; n < steps; ++n) {
    for (index_t b = 0; b < sequences; ++b)
      for (index_t d = 0; d < dim; ++d) {
        for (index_t h = 0; h < heads; ++h) next_q(b, h, 0, d) = all_q(b, h, prompts[b] + n, d);
        for (index_t h = 0; h < kv_heads; ++h) {
          next_k(b, h, 0, d) = all_k(b, h, prompts[b] + n, d);
          next_v(b, h, 0, d) = all_v(b, h, prompts[b] + n, d);
        }
      }
    upload(q_new, next_q.data(), stream), upload(k_new, next_k.data(), stream), upload(v_new, next_v.data(), stream);
    check_cuda(cudaGraphLaunch(step, stream), "cudaGraphLaunch");
    check_cuda(cudaStreamSynchronize(stream), "a step");
    thrust::copy(out_new.begin(), out_new.end(), result.begin());
    for (index_t b = 0; b < sequences; ++b) compare(b, prompts[b] + n, &result(b, 0, 0, 0), dim);
  }
  cudaGraphExecDestroy(step);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  std::printf("%d prompts and %d recorded steps; largest difference from the CPU %.4f\n", static_cast<int>(sequences),
              static_cast<int>(steps), double(worst));
  return worst < 0.03f ? 0 : 1;
}
