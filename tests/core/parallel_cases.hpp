// SPDX-License-Identifier: Apache-2.0
// The tests of parallel_for, compiled once with OpenMP and once without.
#pragma once

#include <seqprim/core/parallel.hpp>

#include <atomic>
#include <cmath>
#include <cstddef>
#include <support/catch.hpp>
#include <vector>

using namespace seqprim;

TEST_CASE("parallel_for: runs each piece once, on a thread that exists, for any thread count", "[core][property]") {
  const int threads = GENERATE(0, 1, 2, 3, 7, 64);
  const index_t count = GENERATE(as<index_t>{}, 0, 1, 2, 5, 64, 1000);
  const cpu executor{.threads = threads};
  CAPTURE(threads, count);
  std::vector<std::atomic<int>> runs(static_cast<std::size_t>(count));
  std::atomic<int> strange_threads{0};
  parallel_for(executor, count, [&](index_t piece, int thread) {
    ++runs[static_cast<std::size_t>(piece)];
    if (thread < 0 || thread >= thread_count(executor)) ++strange_threads;
  });
  for (const auto& n : runs) REQUIRE(n == 1);
  REQUIRE(strange_threads == 0);
}

TEST_CASE("parallel_for: a negative count runs nothing", "[core]") {
  int runs = 0;
  parallel_for(cpu{}, -3, [&](index_t, int) { ++runs; });
  REQUIRE(runs == 0);
}

TEST_CASE("parallel_for: two pieces never share a thread number at the same time", "[core][property]") {
  const cpu executor{.threads = 4};
  std::vector<std::atomic<int>> busy(static_cast<std::size_t>(thread_count(executor)));
  std::atomic<int> clashes{0};
  parallel_for(executor, 200, [&](index_t, int thread) {
    auto& mine = busy[static_cast<std::size_t>(thread)];
    if (mine.fetch_add(1) != 0) ++clashes;
    volatile int spin = 0;
    for (int i = 0; i < 1000; ++i) spin = spin + i;
    --mine;
  });
  REQUIRE(clashes == 0);
}

TEST_CASE("parallel_for: results have the same bits for any thread count, with and without OpenMP",
          "[core][property]") {
  const int threads = GENERATE(0, 1, 2, 5);
  std::vector<double> results(97);
  parallel_for(cpu{.threads = threads}, 97, [&](index_t piece, int) {
    double sum = 0;
    for (index_t i = 1; i <= 1000; ++i) sum += 1.0 / static_cast<double>(i * (piece + 1));
    results[static_cast<std::size_t>(piece)] = sum;
  });
  for (std::size_t piece = 0; piece < results.size(); ++piece) {
    double sum = 0;
    for (std::size_t i = 1; i <= 1000; ++i) sum += 1.0 / static_cast<double>(i * (piece + 1));
    REQUIRE(results[piece] == sum);
  }
}

TEST_CASE("parallel_for: may be nested", "[core]") {
  std::vector<std::atomic<int>> runs(30);
  parallel_for(cpu{.threads = 3}, 5, [&](index_t outer, int) {
    parallel_for(cpu{.threads = 2}, 6,
                 [&](index_t inner, int) { ++runs[static_cast<std::size_t>(outer * 6 + inner)]; });
  });
  for (const auto& n : runs) REQUIRE(n == 1);
}

TEST_CASE("parallel_for: more threads than any machine has are not started", "[core][edge]") {
  const cpu executor{.threads = 100000};
  REQUIRE(thread_count(executor) <= cpu::max_threads);
  std::atomic<index_t> sum{0};
  parallel_for(executor, 100000, [&](index_t piece, int) { sum += piece; });
  REQUIRE(sum == index_t{99999} * 50000);
}

TEST_CASE("cpu: a negative thread count is refused", "[core][errors]") {
  REQUIRE_THROWS_WITH(cpu{.threads = -2}.validate(), "cpu: threads (-2) must be >= 0");
  REQUIRE_NOTHROW(cpu{}.validate());
}
