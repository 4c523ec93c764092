// SPDX-License-Identifier: Apache-2.0
// Attention of oneDNN on a CPU, by its graph API, as C functions for attention_server.py. Compiled by setup.sh.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <oneapi/dnnl/dnnl_graph.hpp>
#include <stdexcept>
#include <unordered_map>
#include <vector>

namespace graph = dnnl::graph;
using tensor = graph::logical_tensor;
using dims = tensor::dims;
using kind = graph::op::kind;

namespace {

/// One compiled call and its memory.
struct attention {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  graph::compiled_partition compiled;
  std::vector<graph::tensor> inputs, outputs;
  std::size_t bytes_of_output = 0;
};

enum id : std::uint64_t { q_id, k_id, v_id, out_id, scale_id, mask_id, rest_id };

std::unique_ptr<attention> prepare(bool is_bfloat16, bool causal, std::int64_t heads, std::int64_t q_len,
                                   std::int64_t k_len, std::int64_t dim, const void* q, const void* k, const void* v) {
  using type = tensor::data_type;
  const type stored = is_bfloat16 ? type::bf16 : type::f32;
  const auto dense = tensor::layout_type::strided;
  const dims of_q{1, heads, q_len, dim}, of_k{1, heads, k_len, dim}, of_scores{1, heads, q_len, k_len};
  std::uint64_t next = rest_id, op_count = 0;
  const auto scores = [&](type t) { return tensor(next++, t, of_scores, dense); };

  const tensor query(q_id, stored, of_q, dense), key(k_id, stored, of_k, dense), value(v_id, stored, of_k, dense),
      out(out_id, stored, of_q, dense), scale(scale_id, type::f32, dims{1}, dense);
  graph::graph g(dnnl::engine::kind::cpu);
  const auto add = [&](kind k_of_op, const std::vector<tensor>& in, const tensor& result, const auto& set) {
    graph::op op(op_count, k_of_op, in, {result}, "op" + std::to_string(op_count));
    ++op_count;
    set(op);
    g.add_op(op);
  };
  const auto plain = [](graph::op&) {};

  const tensor raw = scores(type::f32), scaled = scores(type::f32), weights = scores(stored);
  add(kind::MatMul, {query, key}, raw, [](graph::op& op) { op.set_attr<bool>(graph::op::attr::transpose_b, true); });
  add(kind::Multiply, {raw, scale}, scaled, plain);
  tensor visible = scaled;
  if (causal) {  // a matrix: indices compared in the graph took eight times as long
    visible = scores(type::f32);
    add(kind::Add, {scaled, tensor(mask_id, type::f32, dims{1, 1, q_len, k_len}, dense)}, visible, plain);
  }
  add(kind::SoftMax, {visible}, weights, [](graph::op& op) {
    op.set_attr<std::int64_t>(graph::op::attr::axis, -1);
    op.set_attr<std::string>(graph::op::attr::mode, "inf_as_zero");
  });
  add(kind::MatMul, {weights, value}, out, plain);
  g.finalize();
  const auto partitions = g.get_partitions();
  if (partitions.size() != 1 || !partitions[0].is_supported())
    throw std::runtime_error("not fused: " + std::to_string(partitions.size()) + " partitions");

  auto result = std::make_unique<attention>();
  const auto ports = partitions[0].get_input_ports();
  result->compiled = partitions[0].compile(ports, {out}, result->engine);
  const float factor = 1 / std::sqrt(static_cast<float>(dim)), never = -std::numeric_limits<float>::infinity();
  std::vector<float> matrix(causal ? static_cast<std::size_t>(q_len * k_len) : 0, 0.0f);
  for (std::int64_t i = 0; causal && i < q_len; ++i)
    for (std::int64_t j = i + 1; j < k_len; ++j) matrix[static_cast<std::size_t>(i * k_len + j)] = never;
  const std::unordered_map<std::uint64_t, const void*> contents{
      {q_id, q}, {k_id, k}, {v_id, v}, {scale_id, &factor}, {mask_id, matrix.data()}};
  for (const tensor& port : ports) {
    graph::tensor memory(port, result->engine);
    std::memcpy(memory.get_data_handle(), contents.at(port.get_id()), port.get_mem_size());
    result->inputs.push_back(memory);
  }
  result->outputs.emplace_back(out, result->engine);
  result->bytes_of_output = out.get_mem_size();
  return result;
}

template <class Body> int guarded(char* message, int capacity, const Body& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(message, static_cast<std::size_t>(capacity), "%s", error.what());
    return 1;
  }
}

}  // namespace

/// A handle for the others, or null and the reason in `message`.
extern "C" void* onednn_prepare(int is_bfloat16, int causal, std::int64_t heads, std::int64_t q_len, std::int64_t k_len,
                                std::int64_t dim, const void* q, const void* k, const void* v, char* message,
                                int capacity) {
  attention* made = nullptr;
  guarded(message, capacity,
          [&] { made = prepare(is_bfloat16 != 0, causal != 0, heads, q_len, k_len, dim, q, k, v).release(); });
  return made;
}
extern "C" int onednn_run(void* handle, char* message, int capacity) {
  auto& call = *static_cast<attention*>(handle);
  return guarded(message, capacity, [&] {
    call.compiled.execute(call.stream, call.inputs, call.outputs);
    call.stream.wait();
  });
}
extern "C" void onednn_result(void* handle, void* out) {
  const auto& call = *static_cast<attention*>(handle);
  std::memcpy(out, call.outputs[0].get_data_handle(), call.bytes_of_output);
}
extern "C" void onednn_free(void* handle) { delete static_cast<attention*>(handle); }
extern "C" const char* onednn_version() {
  static char text[32];
  const dnnl_version_t* const v = dnnl_version();
  std::snprintf(text, sizeof text, "%d.%d.%d", v->major, v->minor, v->patch);
  return text;
}
