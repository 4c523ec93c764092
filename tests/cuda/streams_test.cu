// SPDX-License-Identifier: Apache-2.0
// Entry points stay on their stream, wait for nothing and can be captured into graphs; what runs beside them changes no bit.
#include <cuda/expect.cuh>
#include <cuda/operands.cuh>

#include <atomic>
#include <chrono>
#include <support/device.cuh>
#include <thread>

namespace seqprim::test {

namespace {

constexpr causal_sizes few{2, 4, 2, 150, 1100};  // three splits in decode

/// A stream that waits for the legacy stream, and the legacy stream for it: work that strays there shows.
class cuda_stream {
 public:
  cuda_stream() { check_cuda(cudaStreamCreate(&stream_), "cudaStreamCreate"); }
  cuda_stream(const cuda_stream&) = delete;
  cuda_stream& operator=(const cuda_stream&) = delete;
  ~cuda_stream() { cudaStreamDestroy(stream_); }

  [[nodiscard]] cudaStream_t get() const noexcept { return stream_; }
  [[nodiscard]] gpu executor() const noexcept { return gpu{.stream = stream_}; }
  void wait() const { check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Forward, backward and decode of one random problem, and what they compute when nothing else runs.
struct work {
  operand_memory inputs, results, workspace, expected;
  causal_operands operands;

  explicit work(std::uint64_t seed)
      : inputs(causal_operands::bytes(few)),
        results(causal_operands::bytes(few)),
        workspace(causal_operands::workspace_bytes(few)),
        expected(causal_operands::bytes(few)),
        operands(few, inputs, results, workspace) {
    operands.fill(seed);
    operands.enqueue(gpu{});
    check_cuda(
        cudaMemcpy(expected.data(), results.data(), static_cast<std::size_t>(results.size()), cudaMemcpyDeviceToDevice),
        "cudaMemcpy");
  }
  void poison(cudaStream_t stream) const {
    results.poison(stream);
    workspace.poison(stream);
  }
};

unsigned differences(const work& w) {
  const difference_counter counter;
  counter.add(w.results, w.expected, nullptr);
  return counter.read();
}

__global__ void count_differing_words(const unsigned* a, const unsigned* b, index_t words, unsigned* count) {
  const index_t i = blockIdx.x * index_t{blockDim.x} + threadIdx.x;
  if (i < words && a[i] != b[i]) atomicAdd(count, 1u);
}

void check_graph(bool pooled) {
  begin_trial("seed 701: ", words_of(few), pooled ? ", decode without workspace" : ", decode with workspace");
  const work all(701);
  const cuda_stream stream;
  const auto computed = all.operands.results();
  all.poison(nullptr);
  const auto untouched = all.operands.results();
  SEQPRIM_EXPECT(computed != untouched);
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  all.operands.enqueue(stream.executor(), pooled);
  check_cuda(cudaStreamEndCapture(stream.get(), &graph), "cudaStreamEndCapture");
  SEQPRIM_EXPECT(all.operands.results() == untouched);  // captured, not run
  cudaGraphExec_t replay = nullptr;
  check_cuda(cudaGraphInstantiate(&replay, graph, 0), "cudaGraphInstantiate");
  for (int n = 0; n < 2; ++n) {
    all.poison(nullptr);
    check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    check_cuda(cudaGraphLaunch(replay, stream.get()), "cudaGraphLaunch");
    stream.wait();
    SEQPRIM_EXPECT_AT_MOST(differences(all), 0);
  }
  check_cuda(cudaGraphExecDestroy(replay), "cudaGraphExecDestroy");
  check_cuda(cudaGraphDestroy(graph), "cudaGraphDestroy");
}

/// What holds a stream back until it is opened, or for 20 seconds.
struct gate {
  std::atomic<bool> open = false, gave_up = false;

  gate() = default;
  gate(const gate&) = delete;
  gate& operator=(const gate&) = delete;
  ~gate() {
    open = true;
    cudaDeviceSynchronize();  // whoever waits reads it
  }

  void close(cudaStream_t stream) {
    check_cuda(cudaLaunchHostFunc(
                   stream,
                   [](void* self) {
                     auto& gate = *static_cast<test::gate*>(self);
                     const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
                     while (!gate.open && !gate.gave_up) {
                       std::this_thread::sleep_for(std::chrono::milliseconds(1));
                       if (std::chrono::steady_clock::now() > limit) gate.gave_up = true;
                     }
                   },
                   this),
               "cudaLaunchHostFunc");
  }
};

/// Calls return while their stream is held back, and work on another stream passes them.
void check_order(bool pooled) {
  begin_trial("seeds 702, 703: ", words_of(few), pooled ? ", decode without workspace" : ", decode with workspace");
  const work held(702), other(703);
  const cuda_stream slow, fast;
  gate barrier;
  held.poison(nullptr);
  other.poison(nullptr);
  check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  barrier.close(slow.get());
  held.operands.enqueue(slow.executor(), pooled);
  other.operands.enqueue(fast.executor(), pooled);
  fast.wait();
  const cudaError_t state = cudaStreamQuery(slow.get());
  static_cast<void>(cudaGetLastError());  // "not ready" would be found by the next check
  SEQPRIM_EXPECT(state == cudaErrorNotReady);
  barrier.open = true;
  slow.wait();
  SEQPRIM_EXPECT(!barrier.gave_up);
  SEQPRIM_EXPECT_AT_MOST(differences(held), 0);
  SEQPRIM_EXPECT_AT_MOST(differences(other), 0);
}

/// The same bits over and over, while another stream is as busy.
void check_busy() {
  const int repetitions = trials(200);
  begin_trial("seeds 704, 705: ", words_of(few), ", ", repetitions, " repetitions on two streams");
  const work works[] = {work(704), work(705)};
  const cuda_stream streams[2];
  const difference_counter counters[2];
  check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  for (int n = 0; n < repetitions; ++n)
    for (int s = 0; s < 2; ++s) {
      works[s].poison(streams[s].get());
      works[s].operands.enqueue(streams[s].executor());
      counters[s].add(works[s].results, works[s].expected, streams[s].get());
    }
  for (const auto& counter : counters) SEQPRIM_EXPECT_AT_MOST(counter.read(), 0);
}

const test_group registered{"streams", [] {
                              check_graph(false);
                              check_graph(true);
                              if (!short_run) {  // tools may make every launch wait
                                check_order(false);
                                check_order(true);
                              }
                              check_busy();
                            }};

}  // namespace

void count_differences(const void* a, const void* b, index_t words, unsigned* count, cudaStream_t stream) {
  count_differing_words<<<static_cast<unsigned>(ceil_div(words, 256)), 256, 0, stream>>>(
      static_cast<const unsigned*>(a), static_cast<const unsigned*>(b), words, count);
  check_cuda(cudaGetLastError(), "count_differences");
}

}  // namespace seqprim::test
