// SPDX-License-Identifier: Apache-2.0
// What lies between a program and the kernels: launches, errors, kinds of memory, streams. Against a runtime that runs no kernel and
// refuses on command, so this needs no GPU.
#include <seqprim/attention/append.cuh>
#include <seqprim/attention/backward.cuh>
#include <seqprim/attention/decode.cuh>
#include <seqprim/attention/forward.cuh>
#include <seqprim/attention/forward.hpp>
#include <seqprim/attention/merge.cuh>
#include <seqprim/attention/ragged.cuh>
#include <seqprim/attention/reference.hpp>
#include <seqprim/attention/sink_gradient.cuh>
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/block_map.cuh>
#include <seqprim/mask/mask.hpp>
#include <seqprim/position/position.hpp>
#include <seqprim/score/score.hpp>

#include <cuda/expect.cuh>

#include <cmath>
#include <string>
#include <support/fake_cuda.hpp>
#include <utility>
#include <vector>

namespace seqprim::test {

namespace {

using fake_cuda::allocate;
using fake_cuda::refuse;
using fake_cuda::seen;

constexpr index_t batch = 2, heads = 4, kv_heads = 2, q_len = 5, k_len = 700, dim = 128;

/// The operands of one problem, in memory of one kind; no test reads a number of them.
struct operands {
  tensor_view<bfloat16, 4, dim> q, k, v, out, dout, dq, dk, dv;
  tensor_view<float, 3> lse;
  tensor_view<float, 1> workspace;

  explicit operands(cudaMemoryType kind = cudaMemoryTypeDevice)
      : q(tensor_of(kind, heads, q_len)),
        k(tensor_of(kind, kv_heads, k_len)),
        v(tensor_of(kind, kv_heads, k_len)),
        out(tensor_of(kind, heads, q_len)),
        dout(tensor_of(kind, heads, q_len)),
        dq(tensor_of(kind, heads, q_len)),
        dk(tensor_of(kind, kv_heads, k_len)),
        dv(tensor_of(kind, kv_heads, k_len)),
        lse(floats(kind, batch * heads * q_len), batch, heads, q_len),
        workspace(floats(kind, 1 << 20), index_t{1} << 20) {}

  static tensor_view<bfloat16, 4, dim> tensor_of(cudaMemoryType kind, index_t n_heads, index_t len) {
    void* const data = allocate(kind, static_cast<std::size_t>(batch * n_heads * len * dim) * 2);
    return tensor_view<bfloat16, 4, dim>(static_cast<bfloat16*>(data), batch, n_heads, len, dim);
  }
  static float* floats(cudaMemoryType kind, index_t n) {
    return static_cast<float*>(allocate(kind, static_cast<std::size_t>(n) * sizeof(float)));
  }
};

/// The message of what `call` throws, empty when it throws nothing.
template <class Error = precondition_error, class Call> std::string message_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}
void expect_says(const std::string& message, const std::vector<const char*>& parts, int line) {
  for (const char* part : parts) {
    if (message.find(part) == std::string::npos) {
      std::fprintf(stderr, "%s:%d: '%s' is not in '%s'\n", __FILE__, line, part, message.c_str());
      ++failures;
    }
  }
}
#define SEQPRIM_EXPECT_SAYS(message, ...) expect_says(message, {__VA_ARGS__}, __LINE__)

const cudaStream_t stream = reinterpret_cast<cudaStream_t>(std::uintptr_t{0x1230});
const gpu executor{stream};

const position::rotary<position::half_split> rope{};
const position::sequential map{};
const attention::softmax with_position{mask::causal{}, score::identity{}, rope};

struct entry {
  const char* name;
  std::size_t kernels;
  void (*call)(const operands&);
};
const entry entries[] = {
    {"attention::forward", 1,
     [](const operands& x) {
       attention::forward(executor, attention::softmax{mask::causal{}}, x.q, x.k, x.v, x.out, x.lse);
     }},
    {"attention::decode", 2,
     [](const operands& x) {
       attention::decode(executor, attention::softmax{mask::causal{}}, x.q, x.k, x.v, x.out, x.lse, x.workspace);
     }},
    {"attention::backward", 3,
     [](const operands& x) {
       attention::backward(executor, attention::softmax{mask::causal{}}, x.q, x.k, x.v, x.out, x.lse, x.dout,
                           attention::gradients{}.dq(x.dq).dk(x.dk).dv(x.dv), x.workspace);
     }},
    {"attention::merge", 1,
     [](const operands& x) {
       const tensor_view<float, 4> out(x.workspace.data, batch, heads, q_len, dim);
       const tensor_view<float, 4> part(x.workspace.data + out.size(), batch, heads, q_len, dim);
       attention::merge(executor, out, x.lse, part,
                        tensor_view<float, 3>(part.data + part.size(), batch, heads, q_len));
     }},
    {"position::encode", 1, [](const operands& x) { position::encode(executor, rope, map, x.q, x.out); }},
    {"attention::append", 2,
     [](const operands& x) { attention::append(executor, with_position, x.q, x.dq, 0, x.out, x.dout); }},
    // With a position: queries and keys first, by kernels of their own; decode has keys that are encoded.
    {"attention::forward", 3,
     [](const operands& x) { attention::forward(executor, with_position, x.q, x.k, x.v, x.out, x.lse, x.workspace); }},
    {"attention::decode", 3,
     [](const operands& x) { attention::decode(executor, with_position, x.q, x.k, x.v, x.out, x.lse, x.workspace); }},
    {"position::encode_backward", 1,
     [](const operands& x) { position::encode_backward(executor, rope, map, x.dout, x.dq); }},
    {"attention::sink_gradient", 1,
     [](const operands& x) {
       attention::sink_gradient(executor, attention::softmax{mask::causal{}}.with_sink(0.5f), x.out, x.lse, x.dout,
                                tensor_view<float, 1>(x.workspace.data, heads));
     }},
    {"attention::backward", 7,
     [](const operands& x) {
       attention::backward(executor, with_position, x.q, x.k, x.v, x.out, x.lse, x.dout,
                           attention::gradients{}.dq(x.dq).dk(x.dk).dv(x.dv), x.workspace);
     }},
};

void launches_are_on_the_stream() {
  for (const entry& each : entries) {
    fake_cuda::reset();
    const operands x;
    each.call(x);
    SEQPRIM_EXPECT(seen().launches.size() == each.kernels);
    for (const auto& launch : seen().launches) SEQPRIM_EXPECT(launch.stream == stream);
    // Nothing that a capture forbids, and nothing that synchronizes: attributes only.
    for (const std::string& call : seen().calls) SEQPRIM_EXPECT(call == "cudaFuncSetAttribute");
  }
}

void errors_of_others_stay_theirs() {
  for (const entry& each : entries) {
    fake_cuda::reset();
    const operands x;
    fake_cuda::leave_error(cudaErrorInvalidValue);
    SEQPRIM_EXPECT(message_of<std::exception>([&] { each.call(x); }).empty());
    SEQPRIM_EXPECT(cudaGetLastError() == cudaErrorInvalidValue);
  }
}

/// Where a launch is refused its error is thrown and cleared, and the next call works.
void own_errors_are_thrown_and_cleared() {
  for (const entry& each : entries)
    for (std::size_t n = 1; n <= each.kernels; ++n) {
      fake_cuda::reset();
      const operands x;
      refuse("cudaLaunchKernelExC", cudaErrorInvalidConfiguration, static_cast<int>(n));
      const std::string message = message_of<cuda_error>([&] { each.call(x); });
      SEQPRIM_EXPECT_SAYS(message, each.name, "invalid configuration argument");
      SEQPRIM_EXPECT(seen().launches.size() == n - 1);
      SEQPRIM_EXPECT(cudaGetLastError() == cudaSuccess);
      SEQPRIM_EXPECT(message_of<std::exception>([&] { each.call(x); }).empty());
    }
}

/// Attributes are where a device refuses a kernel: all of them are asked for before the first kernel starts.
void a_refusal_leaves_outputs_untouched() {
  std::size_t refused = 0;
  for (const entry& each : entries) {
    fake_cuda::reset();
    const operands x;
    each.call(x);
    const std::size_t attributes = seen().calls.size();
    for (std::size_t n = 1; n <= attributes; ++n) {
      ++refused;
      refuse("cudaFuncSetAttribute", cudaErrorInvalidValue, static_cast<int>(n));
      const std::size_t before = seen().launches.size();
      SEQPRIM_EXPECT_SAYS(message_of<cuda_error>([&] { each.call(x); }), each.name, "invalid argument");
      SEQPRIM_EXPECT(seen().launches.size() == before);
      SEQPRIM_EXPECT(cudaGetLastError() == cudaSuccess);
    }
  }
  SEQPRIM_EXPECT(refused >= 8);  // forward, decode, both passes of backward, each with and without a position
}

void pool_memory_is_freed() {
  fake_cuda::reset();
  const operands x;
  const auto decode = [&] {
    attention::decode(executor, attention::softmax{mask::causal{}}, x.q, x.k, x.v, x.out, x.lse);
  };
  decode();
  const auto count = [](const char* name) {
    int n = 0;
    for (const std::string& call : seen().calls) n += call == name;
    return n;
  };
  SEQPRIM_EXPECT(count("cudaMallocAsync") == 1 && count("cudaFreeAsync") == 1);
  refuse("cudaMallocAsync", cudaErrorMemoryAllocation);
  SEQPRIM_EXPECT_SAYS(message_of<cuda_error>(decode), "attention::decode", "out of memory");
  SEQPRIM_EXPECT(cudaGetLastError() == cudaSuccess && seen().launches.size() == 2);
  refuse("cudaLaunchKernelExC", cudaErrorInvalidConfiguration);
  SEQPRIM_EXPECT(!message_of<cuda_error>(decode).empty());
  SEQPRIM_EXPECT(count("cudaFreeAsync") == 2);
  // Encoded copies come from the pool, too; without a position there are none.
  const auto forward = [&](const auto& op) { attention::forward(executor, op, x.q, x.k, x.v, x.out, x.lse); };
  forward(attention::softmax{mask::causal{}});
  SEQPRIM_EXPECT(count("cudaFreeAsync") == 2);
  forward(with_position);
  SEQPRIM_EXPECT(count("cudaFreeAsync") == 3);
}

/// Ordinary memory of the host is refused for every operand, and nothing starts.
void host_operands_are_refused() {
  fake_cuda::reset();
  const operands device;
  std::vector<char> bytes(1 << 23);
  const auto on_host = [&](auto view) {
    view.data = reinterpret_cast<decltype(view.data)>(bytes.data());
    return view;
  };
  constexpr const char* sentence =
      " is in host memory, which kernels on this device cannot read: copy it to the device";
  const auto expect_refused = [&](const char* operand, auto member, std::initializer_list<int> which) {
    operands x = device;
    x.*member = on_host(x.*member);
    for (const int n : which) {
      const std::string message = message_of([&] { entries[n].call(x); });
      SEQPRIM_EXPECT_SAYS(message, entries[n].name, (std::string(operand) + sentence).c_str());
    }
  };
  expect_refused("q", &operands::q, {0, 1, 2});
  expect_refused("k", &operands::k, {0, 1, 2});
  expect_refused("v", &operands::v, {0, 1, 2});
  expect_refused("out", &operands::out, {0, 1, 2});
  expect_refused("lse", &operands::lse, {0, 1, 2, 3});
  expect_refused("workspace", &operands::workspace, {1, 2});
  expect_refused("workspace", &operands::workspace, {6, 7, 10});
  expect_refused("x", &operands::dout, {8});
  expect_refused("y", &operands::dq, {8});
  expect_refused("out", &operands::out, {9});
  expect_refused("lse", &operands::lse, {9});
  expect_refused("dout", &operands::dout, {9});
  expect_refused("dsinks", &operands::workspace, {9});
  expect_refused("x", &operands::q, {4});
  expect_refused("y", &operands::out, {4});
  expect_refused("k_new", &operands::q, {5});
  expect_refused("v_new", &operands::dq, {5});
  expect_refused("k_cache", &operands::out, {5});
  expect_refused("v_cache", &operands::dout, {5});
  expect_refused("dout", &operands::dout, {2});
  expect_refused("dq", &operands::dq, {2});
  expect_refused("dk", &operands::dk, {2});
  expect_refused("dv", &operands::dv, {2});
  SEQPRIM_EXPECT(seen().launches.empty());

  // Where the device reads such memory it is an operand like any other.
  fake_cuda::read_pageable_memory(true);
  operands x = device;
  x.q = on_host(x.q);
  SEQPRIM_EXPECT(message_of<std::exception>([&] { entries[0].call(x); }).empty());
}

void other_kinds_of_operands() {
  for (const cudaMemoryType kind : {cudaMemoryTypeManaged, cudaMemoryTypeHost}) {
    fake_cuda::reset();
    const operands x(kind);
    for (const entry& each : entries) SEQPRIM_EXPECT(message_of<std::exception>([&] { each.call(x); }).empty());
  }
  fake_cuda::reset();
  operands x;
  x.k.data = static_cast<bfloat16*>(allocate(cudaMemoryTypeDevice, 1 << 20, 1));
  SEQPRIM_EXPECT_SAYS(message_of([&] { entries[0].call(x); }), "attention::forward: k is in memory of another device");
}

/// Arrays inside of masks, scores and page tables: `on_device()` forgotten, or copies forgotten. Device memory cannot be read here, so
/// a validation that reads it ends this program.
void arrays_of_the_operator() {
  fake_cuda::reset();
  const operands x;
  const auto forward = [&](const auto& op) {
    return message_of([&] { attention::forward(executor, op, x.q, x.k, x.v, x.out, x.lse); });
  };
  const auto device = static_cast<const std::int32_t*>(allocate(cudaMemoryTypeDevice, 4096));
  const auto managed = static_cast<std::int32_t*>(allocate(cudaMemoryTypeManaged, 4096));
  const std::int32_t host[] = {600, 700};
  managed[0] = 600;
  managed[1] = 700;
  const auto padded = [](const index_array& lengths) {
    return attention::softmax{mask::causal{} & mask::key_padding{lengths, k_len}};
  };
  SEQPRIM_EXPECT(forward(padded(index_array(device, 2).on_device())).empty());
  SEQPRIM_EXPECT(forward(padded(index_array(managed, 2))).empty());
  SEQPRIM_EXPECT(forward(padded(index_array(managed, 2).on_device())).empty());
  SEQPRIM_EXPECT_SAYS(forward(padded(index_array(device, 2))),
                      "mask::key_padding: lengths is in device memory, which host code cannot read: pass it marked "
                      "on_device()");
  SEQPRIM_EXPECT_SAYS(forward(padded(index_array(host, 2))), "mask::key_padding: lengths is in host memory",
                      "and pass the copy marked on_device()");
  SEQPRIM_EXPECT_SAYS(forward(padded(index_array(host, 2).on_device())),
                      "mask::key_padding: lengths is in host memory");
  // What the host can read is checked on the way to the device, too.
  managed[1] = 701;
  SEQPRIM_EXPECT_SAYS(forward(padded(index_array(managed, 2))), "lengths[1] (701) must be in [0, k_len (700)]");

  const float on_host[heads] = {};
  const tensor_view<const float, 1> host_sinks(on_host, heads);
  const tensor_view<const float, 1> sinks(operands::floats(cudaMemoryTypeDevice, heads), heads);
  SEQPRIM_EXPECT(forward(padded(index_array(managed, 1)).with_sinks(sinks)).find("sinks") == std::string::npos);
  SEQPRIM_EXPECT_SAYS(forward(padded(index_array(device, 2).on_device()).with_sinks(host_sinks)),
                      "attention::softmax: sinks is in host memory");
  SEQPRIM_EXPECT_SAYS(forward(padded(index_array(device, 2).on_device()).starting_at(index_array(host, 2))),
                      "attention::softmax: starts is in host memory");
}

/// A grid of blocks travels as a copy, and the mask over it is one for kernels.
void block_grids() {
  fake_cuda::reset();
  const tensor<bool, 2> matrix(q_len, k_len);
  const mask::dense host{matrix.view()};
  const mask::block_grid grid(cpu{.threads = 1}, host, q_len, k_len, 4, 64);
  const auto* const copy = static_cast<const bool*>(allocate(cudaMemoryTypeDevice, q_len * k_len));
  const mask::dense device{tensor_view<const bool, 2>(copy, q_len, k_len)};
  const auto refusal_of = [](const auto& m) { return message_of([&] { expect_arrays(executor, m); }); };
  {
    mask::device_block_grid first(executor, grid);
    SEQPRIM_EXPECT((seen().calls == std::vector<std::string>{"cudaMallocAsync", "cudaMemcpyAsync"}));
    const mask::device_block_grid on_device(std::move(first));
    SEQPRIM_EXPECT(refusal_of(on_device.over(device)).empty());
    SEQPRIM_EXPECT_SAYS(refusal_of(on_device.over(host)), "mask::dense: visible is in host memory");
    SEQPRIM_EXPECT_SAYS(refusal_of(grid.over(device)), "mask::block_map: kinds is in host memory");
    const auto map = on_device.over(device);
    SEQPRIM_EXPECT(map.q_block == 4 && map.k_block == 64 && map.q_len == q_len && map.k_len == k_len);
  }
  SEQPRIM_EXPECT(seen().calls.size() == 3 && seen().calls.back() == "cudaFreeAsync");

  const auto build = [&](const mask::block_grid& from) { const mask::device_block_grid on_device(executor, from); };
  for (const char* function : {"cudaMallocAsync", "cudaMemcpyAsync"}) {
    refuse(function, cudaErrorMemoryAllocation);
    SEQPRIM_EXPECT_SAYS(message_of<cuda_error>([&] { build(grid); }), "mask::device_block_grid", "out of memory");
  }
  // The second of them had memory to give back.
  SEQPRIM_EXPECT(seen().calls.size() == 7 && seen().calls.back() == "cudaFreeAsync");
  build(mask::block_grid(cpu{.threads = 1}, host, 0, k_len, 4, 64));
  SEQPRIM_EXPECT(seen().calls.size() == 7);
}

void ragged_batches() {
  fake_cuda::reset();
  const operands x;
  constexpr index_t pages = 8, page_size = 128, max_pages = 6, tokens = batch * q_len;
  const auto rows = [](const tensor_view<bfloat16, 4, dim>& view) {
    return tensor_view<bfloat16, 4, dim>(view.data, 1, heads, tokens, dim);
  };
  const tensor_view<bfloat16, 4, dim> store(x.k.data, pages, kv_heads, page_size / 2, dim);
  auto* const managed = static_cast<std::int32_t*>(allocate(cudaMemoryTypeManaged, 4096));
  std::int32_t *const offsets = managed + 64, *const lengths = managed + 128;
  lengths[0] = 300;
  lengths[1] = 20;
  const attention::page_table table(tensor_view<std::int32_t, 2>(managed, batch, max_pages), index_array(lengths, 2));
  const auto decode = [&](const index_array& begins, const attention::page_table& of) {
    return message_of([&] {
      attention::decode(executor, attention::softmax{mask::causal{}}, attention::ragged(rows(x.q), begins),
                        attention::paged(store, of), attention::paged(store, of), rows(x.out),
                        tensor_view<float, 3>(x.lse.data, 1, heads, tokens), x.workspace);
    });
  };
  const auto with = [&](std::int32_t middle, std::int32_t end) {
    offsets[0] = 0;
    offsets[1] = middle;
    offsets[2] = end;
    return decode(index_array(offsets, 3), table);
  };
  // Few rows, many rows, the merge: what the offsets do not name is not launched.
  SEQPRIM_EXPECT(with(1, tokens).empty());
  SEQPRIM_EXPECT(seen().launches.size() == 3);
  SEQPRIM_EXPECT(with(tokens / 2, tokens).empty());
  SEQPRIM_EXPECT(seen().launches.size() == 5);
  const auto device_offsets = index_array(static_cast<const std::int32_t*>(allocate(cudaMemoryTypeDevice, 64)), 3);
  SEQPRIM_EXPECT(decode(device_offsets.on_device(), table).empty());
  SEQPRIM_EXPECT(decode(device_offsets.on_device(), table.on_device()).empty());
  SEQPRIM_EXPECT(seen().launches.size() == 11);
  // An operator with a position: one kernel more, the first.
  const std::string none = message_of([&] {
    attention::decode(executor, with_position, attention::ragged(rows(x.q), device_offsets.on_device()),
                      attention::paged(store, table), attention::paged(store, table), rows(x.out),
                      tensor_view<float, 3>(x.lse.data, 1, heads, tokens), x.workspace);
  });
  SEQPRIM_EXPECT(none.empty() && seen().launches.size() == 15);
  SEQPRIM_EXPECT(seen().launches[11].kernel.find("encode_kernel") != std::string::npos);
  const index_t plain_floats =
      attention::decode_workspace(attention::ragged(rows(x.q), device_offsets.on_device()),
                                  attention::paged(store, table), attention::paged(store, table));
  const index_t floats =
      attention::decode_workspace(with_position, attention::ragged(rows(x.q), device_offsets.on_device()),
                                  attention::paged(store, table), attention::paged(store, table));
  SEQPRIM_EXPECT(floats == round_up(plain_floats, index_t{4}) + heads * tokens * dim / 2);

  SEQPRIM_EXPECT_SAYS(decode(device_offsets, table), "offsets is in device memory", "on_device()");
  SEQPRIM_EXPECT_SAYS(decode(device_offsets.first(1).on_device(), table), "q has 10 rows, but no sequences");
  // What the host cannot read of the offsets is no reason not to check the arrays of the operator for the batch.
  const auto with_op = [&](const auto& op) {
    return message_of([&] {
      attention::decode(executor, op, attention::ragged(rows(x.q), device_offsets.on_device()),
                        attention::paged(store, table.on_device()), attention::paged(store, table.on_device()),
                        rows(x.out), tensor_view<float, 3>(x.lse.data, 1, heads, tokens), x.workspace);
    });
  };
  const auto short_lengths = index_array(static_cast<const std::int32_t*>(allocate(cudaMemoryTypeDevice, 64)), 1);
  SEQPRIM_EXPECT_SAYS(with_op(attention::softmax{
                          mask::causal{} & mask::key_padding{short_lengths.on_device(), max_pages * page_size / 2}}),
                      "lengths has 1 entries but there are 2 batch rows");
  // Positions in a view, which cannot be marked: it is checked once, as a whole.
  const position::token_ids_per_batch ids{
      tensor_view<const index_t, 2>(static_cast<const index_t*>(allocate(cudaMemoryTypeDevice, 8192)), batch, 300)};
  SEQPRIM_EXPECT(message_of([&] {
                   const attention::softmax op{mask::causal{}, score::identity{}, position::placed{rope, ids, ids}};
                   attention::decode(executor, op, attention::ragged(rows(x.q), index_array(offsets, 3)),
                                     attention::paged(store, table), attention::paged(store, table), rows(x.out),
                                     tensor_view<float, 3>(x.lse.data, 1, heads, tokens), x.workspace);
                 }).empty());
  SEQPRIM_EXPECT(seen().launches.size() == 18);
  SEQPRIM_EXPECT_SAYS(with(1, tokens - 1), "the offsets of q end at 9, but it has 10 rows");
  lengths[1] = 5;
  SEQPRIM_EXPECT_SAYS(with(1, tokens), "sequence 1 has 9 new rows and 5 keys");
  lengths[1] = 20;
  lengths[0] = 600;
  SEQPRIM_EXPECT_SAYS(with(1, tokens), "lengths[0] (600)");
  SEQPRIM_EXPECT(seen().launches.size() == 18);
}

void page_tables() {
  fake_cuda::reset();
  const operands x;
  constexpr index_t pages = 8, page_size = 128, max_pages = 6;
  const auto store = [&] {
    void* const data = allocate(cudaMemoryTypeDevice, std::size_t{pages * kv_heads * page_size * dim} * 2);
    return tensor_view<bfloat16, 4, dim>(static_cast<bfloat16*>(data), pages, kv_heads, page_size, dim);
  };
  const auto k_pages = store(), v_pages = store();
  const auto entries_on = [&](cudaMemoryType kind) {
    return tensor_view<std::int32_t, 2>(static_cast<std::int32_t*>(allocate(kind, 4096)), batch, max_pages);
  };
  const auto device = entries_on(cudaMemoryTypeDevice), managed = entries_on(cudaMemoryTypeManaged);
  const auto device_lengths = index_array(static_cast<const std::int32_t*>(allocate(cudaMemoryTypeDevice, 64)), 2);
  auto* const lengths = static_cast<std::int32_t*>(allocate(cudaMemoryTypeManaged, 64));
  lengths[0] = 700;
  lengths[1] = 20;
  for (index_t b = 0; b < batch; ++b)
    for (index_t n = 0; n < max_pages; ++n) managed(b, n) = static_cast<std::int32_t>(n);
  const auto decode_two = [&](const attention::page_table& k_table, const attention::page_table& v_table) {
    return message_of([&] {
      attention::decode(executor, attention::softmax{mask::causal{}}, x.q, attention::paged{k_pages, k_table},
                        attention::paged{v_pages, v_table}, x.out, x.lse, x.workspace);
    });
  };
  const auto decode = [&](const attention::page_table& table) { return decode_two(table, table); };
  using attention::page_table;
  SEQPRIM_EXPECT(decode(page_table(device, device_lengths).on_device()).empty());
  SEQPRIM_EXPECT(decode(page_table(managed, index_array(lengths, 2))).empty());
  SEQPRIM_EXPECT(seen().launches.size() == 4);
  SEQPRIM_EXPECT_SAYS(decode(page_table(device, device_lengths)), "attention::page_table: entries is in device memory",
                      "pass it marked on_device()");
  SEQPRIM_EXPECT_SAYS(decode(page_table(managed, device_lengths)),
                      "attention::page_table: lengths is in device memory");
  SEQPRIM_EXPECT_SAYS(decode_two(page_table(managed, index_array(lengths, 2)), page_table(device, device_lengths)),
                      "attention::page_table: entries is in device memory");
  const tensor<std::int32_t, 2> host(batch, max_pages);
  SEQPRIM_EXPECT_SAYS(decode(page_table(host, index_array(lengths, 2))),
                      "attention::page_table: entries is in host memory");
  SEQPRIM_EXPECT_SAYS(decode(page_table(host, index_array(lengths, 2)).on_device()),
                      "attention::page_table: entries is in host memory");
  SEQPRIM_EXPECT_SAYS(decode(page_table(managed, index_array(lengths, 1))), "do not serve 2 sequences");
  // The workspace is asked for before the call: nothing is read that the table does not hold.
  const auto workspace = [&](const page_table& table) {
    return message_of([&] {
      (void)attention::decode_workspace(x.q, attention::paged{k_pages, table}, attention::paged{v_pages, table});
    });
  };
  SEQPRIM_EXPECT(workspace(page_table(managed, index_array(lengths, 2))).empty());
  SEQPRIM_EXPECT_SAYS(workspace(page_table(managed, index_array(lengths, 1))), "do not serve 2 sequences");
  SEQPRIM_EXPECT_SAYS(workspace(page_table(managed, index_array(lengths, 0))), "do not serve 2 sequences");
  SEQPRIM_EXPECT_SAYS(workspace(page_table(managed, device_lengths)),
                      "attention::page_table: lengths is in device memory");
  SEQPRIM_EXPECT(seen().launches.size() == 4);
}

/// Kernels of the CPU in a .cu file that is compiled for this machine: nvcc reads them for the device as well.
void cpu_kernels_beside_them() {
  tensor<float, 4> x(1, 2, 9, 8), out(1, 2, 9, 8);
  for (index_t i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(i % 7) - 3.0f;
  const attention::softmax op{mask::causal{}, score::soft_cap{.cap = 5} | score::alibi{.heads = 2}};
  attention::forward(cpu{}, op, x, x, x, out);
  tensor<double, 4> exact(1, 2, 9, 8);
  tensor<double, 3> lse(1, 2, 9);
  attention::reference::forward(op, x, x, x, exact, lse);
  bool close = true;
  for (index_t i = 0; i < x.size(); ++i)
    close = close && std::fabs(double(out.data()[i]) - exact.data()[i]) < 1e-5;  // false for a NaN
  SEQPRIM_EXPECT(close);
}

__global__ void nothing(int) {}

void the_launch_layer() {
  fake_cuda::reset();
  using arch::cuda::launch;
  launch(executor, "test", nothing, {0, 32}, 1);
  SEQPRIM_EXPECT(seen().launches.empty());
  SEQPRIM_EXPECT_SAYS(message_of([] {
                        launch(executor, "test", nothing, {index_t{1} << 31, 32}, 1);
                      }),
                      "test: 2147483648 blocks exceed the CUDA limit of 2^31 - 1");
  launch(executor, "test", nothing, {(index_t{1} << 31) - 1, 64, 1000}, 1);
  SEQPRIM_EXPECT(seen().launches.size() == 1 && seen().calls.empty());
  const auto& last = seen().launches.back();
  SEQPRIM_EXPECT(last.grid.x == 0x7fffffffu && last.grid.y == 1 && last.grid.z == 1 && last.block.x == 64 &&
                 last.shared_bytes == 1000 && last.kernel.find("nothing") != std::string::npos);
  launch(executor, "test", nothing, {1, 32, 48 * 1024}, 1);
  SEQPRIM_EXPECT(seen().calls.empty());
  launch(executor, "test", nothing, {1, 32, 48 * 1024 + 1}, 1);
  SEQPRIM_EXPECT(seen().calls.size() == 1);
  // A kernel that is prepared for more and then for less still starts with more.
  const auto more = arch::cuda::prepare("test", nothing, {1, 32, 90 * 1024});
  const auto less = arch::cuda::prepare("test", nothing, {1, 32, 50 * 1024});
  SEQPRIM_EXPECT(message_of<std::exception>([&] { less.launch(executor, 1), more.launch(executor, 1); }).empty());
  SEQPRIM_EXPECT_SAYS(message_of([] {
                        launch(executor, "test", nothing, {1, 32, 100 * 1024}, 1);
                      }),
                      "test: 102400 bytes of shared memory exceed the 101376 that this device lends a block");
  SEQPRIM_EXPECT_SAYS(message_of([] {
                        launch(executor, "test", nothing, {1, 1025}, 1);
                      }),
                      "test: a block has 1 to 1024 lanes, not 1025");
}

}  // namespace

}  // namespace seqprim::test

int main() {
  using namespace seqprim::test;
  the_launch_layer();
  launches_are_on_the_stream();
  errors_of_others_stay_theirs();
  own_errors_are_thrown_and_cleared();
  a_refusal_leaves_outputs_untouched();
  pool_memory_is_freed();
  host_operands_are_refused();
  other_kinds_of_operands();
  arrays_of_the_operator();
  block_grids();
  page_tables();
  ragged_batches();
  cpu_kernels_beside_them();
  fake_cuda::reset();
  std::printf("border: %s\n", failures == 0 ? "passed" : "FAILED");
  return failures == 0 ? 0 : 1;
}
