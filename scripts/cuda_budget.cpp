// SPDX-License-Identifier: Apache-2.0
// Prints the shapes of the tensor-core kernels, as the tuning types choose them, as JSON for scripts/cuda_budget.py. Needs neither nvcc
// nor a GPU: shapes are constants.
#include <seqprim/attention/detail/cuda/backward_block.hpp>
#include <seqprim/attention/detail/cuda/block_dims.cuh>
#include <seqprim/mask/causal.hpp>

#include <cstdio>
#include <iterator>
#include <utility>

using namespace seqprim;
using attention::default_block_policy;

namespace {

using element = bfloat16;
struct engine {};  // policies may look at it; the default ones do not

const char* separator = "[\n";

template <class Dims, attention::block_policy Policy> void print_softmax(const char* kernel) {
  using shape = attention::detail::block_shape<element, Dims::head, Dims::value, Policy.q_tile, Policy.k_tile, Policy.warps,
                                               Policy.stages>;
  using rows = attention::detail::rows_of_head<mask::causal, score::identity>;
  constexpr bool queries_stay = attention::detail::block_softmax<shape, engine, rows>::queries_stay;
  std::printf(
      "%s{\"kernel\": \"%s\", \"head_dim\": %d, \"value_dim\": %d, \"q_tile\": %d, \"k_tile\": %d, \"warps\": %d, "
      "\"warp_keys\": %d, \"stages\": %d, \"queries_stay\": %s, \"shared_bytes\": %d}",
      separator, kernel, shape::head_dim, shape::value_dim, shape::q_tile, shape::k_tile, shape::warps, shape::warp_keys,
      shape::stages, queries_stay ? "true" : "false", shape::shared_bytes);
  separator = ",\n";
}

template <class Dims> void print_backward() {
  using shape = attention::detail::backward_shape<Dims::head, Dims::value, engine>;
  const auto print = [](const char* kernel, int tile, int fragments, int step, int warps, int bytes) {
    std::printf(
        "%s{\"kernel\": \"%s\", \"head_dim\": %d, \"value_dim\": %d, \"tile\": %d, \"fragments\": %d, \"step\": %d, "
        "\"warps\": %d, \"shared_bytes\": %d}",
        separator, kernel, shape::head_dim, shape::value_dim, tile, fragments, step, warps, bytes);
    separator = ",\n";
  };
  constexpr auto policy = shape::policy;
  print("backward keys", shape::key_tile, policy.key_fragments, policy.query_step,
        shape::key_threads / arch::cuda::warp_lanes, shape::key_shared);
  print("backward queries", shape::query_tile, policy.query_fragments, policy.key_step,
        shape::query_threads / arch::cuda::warp_lanes, shape::query_shared);
}

template <int N> void print_dims() {
  using dims = attention::detail::dims_constant<N>;
  print_softmax<dims, default_block_policy::forward<engine, element, dims::head, dims::value>()>("forward");
  print_softmax<dims, default_block_policy::decode<engine, element, dims::head, dims::value>()>("decode, few rows");
  print_softmax<dims, default_block_policy::decode_rows<engine, element, dims::head, dims::value>()>("decode, more rows");
  print_backward<dims>();
}

}  // namespace

int main() {
  [&]<int... N>(std::integer_sequence<int, N...>) { (print_dims<N>(), ...); }
  (std::make_integer_sequence<int, static_cast<int>(std::size(attention::detail::dims_of_blocks))>{});
  std::puts("\n]");
}
