// SPDX-License-Identifier: Apache-2.0
// cuda_test [--list] [--short] [group ...]     without groups: all of them. 77: no CUDA device.
#include <seqprim/core/gpu.cuh>

#include <cuda/expect.cuh>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string_view>
#include <vector>

namespace seqprim::test {

namespace {

std::vector<const test_group*> groups_by_name() {
  std::vector<const test_group*> groups;
  for (const test_group* each = test_group::first; each != nullptr; each = each->next) groups.push_back(each);
  std::sort(groups.begin(), groups.end(),
            [](const auto* a, const auto* b) { return std::string_view(a->name) < b->name; });
  return groups;
}

void run(const test_group& group) {
  const int before = failures;
  closest = {};
  current_trial.clear();
  try {
    group.run();
    check_cuda(cudaDeviceSynchronize(), "at the end of the group");
  } catch (const std::exception& error) {
    report_failure(group.name, 0, error.what());
  }
  if (failures == before) {
    std::printf("%s: passed\n", group.name);
  } else {
    std::printf("%s: FAILED, %d checks\n", group.name, failures - before);
  }
  if (closest.share >= 0 || closest.share != closest.share)
    std::printf("%s: worst error/budget %.3g: %s\n", group.name, closest.share, closest.what.c_str());
  std::fflush(stdout);
}

}  // namespace

}  // namespace seqprim::test

int main(int argc, char** argv) {
  using namespace seqprim::test;
  const auto groups = groups_by_name();
  std::vector<const test_group*> wanted;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--list") {
      for (const test_group* each : groups) std::puts(each->name);
      return 0;
    }
    if (argument == "--short") {
      short_run = true;
      continue;
    }
    const auto found = std::find_if(groups.begin(), groups.end(), [&](const auto* g) { return argument == g->name; });
    if (found == groups.end()) {
      std::fprintf(stderr, "unknown group '%s'; cuda_test --list\n", argv[i]);
      return 2;
    }
    wanted.push_back(*found);
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("skipped: no CUDA device");
    return 77;
  }
  for (const test_group* each : wanted.empty() ? groups : wanted) run(*each);
  return failures == 0 ? 0 : 1;
}
