// SPDX-License-Identifier: Apache-2.0
#include <cuda/expect.cuh>
#include <cuda_runtime.h>

#include <cstdio>

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("skipped: no CUDA device");
    return 77;
  }
  seqprim::test::test_functors();
  seqprim::test::test_forward();
  std::printf("%s\n", seqprim::test::failures == 0 ? "all CUDA tests passed" : "CUDA tests FAILED");
  return seqprim::test::failures == 0 ? 0 : 1;
}
