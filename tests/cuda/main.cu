// SPDX-License-Identifier: Apache-2.0
// cuda_test [--list] [--short] [group ...]
#include <cuda/expect.cuh>
#include <cuda_runtime.h>

#include <cstdio>
#include <exception>
#include <string_view>

namespace {

struct group {
  const char* name;
  void (*run)();
};
constexpr group groups[] = {
    {"functors", seqprim::test::test_functors}, {"forward", seqprim::test::test_forward},
    {"backward", seqprim::test::test_backward}, {"decode", seqprim::test::test_decode},
    {"position", seqprim::test::test_position},
};

}  // namespace

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("skipped: no CUDA device");
    return 77;
  }
  bool named = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--list") {
      for (const group& each : groups) std::puts(each.name);
      return 0;
    }
    if (argument == "--short") {
      seqprim::test::short_run = true;
      continue;
    }
    bool known = false;
    for (const group& each : groups) known = known || argument == each.name;
    if (!known) {
      std::fprintf(stderr, "unknown group '%s'; cuda_test --list\n", argv[i]);
      return 2;
    }
    named = true;
  }
  for (const group& each : groups) {
    bool wanted = !named;
    for (int i = 1; i < argc; ++i) wanted = wanted || std::string_view(argv[i]) == each.name;
    if (!wanted) continue;
    const int before = seqprim::test::failures;
    try {
      each.run();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s: %s\n", each.name, error.what());
      ++seqprim::test::failures;
    }
    std::printf("%s: %s\n", each.name, seqprim::test::failures == before ? "passed" : "FAILED");
  }
  return seqprim::test::failures == 0 ? 0 : 1;
}
