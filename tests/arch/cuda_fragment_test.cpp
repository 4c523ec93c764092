// SPDX-License-Identifier: Apache-2.0
// The index arithmetic of the CUDA engine, on an emulated warp: operands that come through swizzled shared memory and ldmatrix
// multiply to the right product.
#include <seqprim/arch/cuda/fragment.hpp>

#include <limits>
#include <set>
#include <support/catch.hpp>
#include <support/emulated_block.hpp>
#include <support/random.hpp>
#include <vector>

using namespace seqprim;
using namespace seqprim::arch::cuda;

namespace {

template <int Width> void check_swizzle() {
  using layout = swizzled<Width>;
  constexpr int rows = 32;
  std::set<int> offsets;
  for (int row = 0; row < rows; ++row)
    for (int column = 0; column < Width; ++column) {
      const int offset = layout::offset(row, column);
      REQUIRE((0 <= offset && offset < rows * Width));
      REQUIRE(offset / Width == row);
      REQUIRE(offset % 8 == column % 8);  // chunks of 16 bytes stay whole and aligned
      offsets.insert(offset);
    }
  REQUIRE(offsets.size() == std::size_t{rows} * Width);  // no two numbers share a place
  for (int row = 0; row < 16; ++row)
    for (const int column : {0, 8})
      for (int down = 0; down + row < rows; down += 8)
        for (int right = 0; right + column < Width; right += 16)
          REQUIRE(layout::moved(layout::offset(row, column), down, right) ==
                  layout::offset(row + down, column + right));
  // Eight rows of any 8 x 8 matrix lie in different 16-byte groups of the 128 bytes that shared memory reads at once.
  for (int first = 0; first < rows; first += 8)
    for (int column = 0; column < Width; column += 8) {
      std::set<int> groups;
      for (int row = first; row < first + 8; ++row) groups.insert(layout::offset(row, column) / 8 % 8);
      REQUIRE(groups.size() == 8);
    }
}

template <class T, int Width> struct shared_tile { alignas(16) T numbers[16 * Width]; };

}  // namespace

TEST_CASE("cuda fragments: a swizzled tile is a permutation without bank conflicts", "[arch][cuda][property]") {
  check_swizzle<32>();
  check_swizzle<64>();
  check_swizzle<96>();
  check_swizzle<128>();
  check_swizzle<192>();
  check_swizzle<256>();
}

TEST_CASE("cuda fragments: every number of a fragment has one place", "[arch][cuda][property]") {
  std::set<int> left, right, accumulator;
  for (int lane = 0; lane < 32; ++lane) {
    for (int n = 0; n < 8; ++n) left.insert(left_coordinates(lane, n).row * 16 + left_coordinates(lane, n).column);
    for (int n = 0; n < 4; ++n) right.insert(right_coordinates(lane, n).row * 8 + right_coordinates(lane, n).column);
    for (int n = 0; n < 4; ++n)
      accumulator.insert(accumulator_coordinates(lane, n).row * 8 + accumulator_coordinates(lane, n).column);
    // Two accumulators, rounded in pairs, are the left operand.
    for (int r = 0; r < 4; ++r)
      for (int n = 0; n < 2; ++n) {
        const coordinates from = accumulator_of_left_register(r);
        coordinates expected = accumulator_coordinates(lane, from.column + n);
        expected.column += from.row * 8;
        REQUIRE(left_coordinates(lane, r * 2 + n) == expected);
      }
  }
  REQUIRE(left.size() == 256);
  REQUIRE(right.size() == 128);
  REQUIRE(accumulator.size() == 128);
}

TEMPLATE_TEST_CASE("cuda fragments: operands through ldmatrix multiply to the product, both orders of memory",
                   "[arch][cuda][property]", float16, bfloat16) {
  constexpr int width = 64;
  using layout = swizzled<width>;
  test::random_numbers random(11);
  // Small integers: products and sums are exact.
  float a[16][16], b[16][16];
  for (auto* matrix : {&a, &b})
    for (auto& row : *matrix)
      for (float& x : row) x = static_cast<float>(random.integer(-8, 8));
  const bool transposed_a = GENERATE(false, true), transposed_b = GENERATE(false, true);
  const int left_column = GENERATE(0, 16, 48), right_column = GENERATE(0, 32);
  CAPTURE(transposed_a, transposed_b, left_column, right_column);
  float product[16][16];
  for (auto& row : product)
    for (float& x : row) x = std::nanf("");
  test::emulated_block::run(1, 2 * 16 * width * sizeof(TestType), 1, [&](const auto& engine, std::byte* memory) {
    auto* const left = reinterpret_cast<TestType*>(memory);
    TestType* const right = left + 16 * width;
    const int lane = engine.lane();
    for (int n = lane; n < 256; n += 32) {
      const int i = n / 16, j = n % 16;
      // a is [row, depth], b is [depth, column].
      engine.store(left + layout::offset(i, left_column + j), TestType(transposed_a ? a[j][i] : a[i][j]));
      engine.store(right + layout::offset(i, right_column + j), TestType(transposed_b ? b[i][j] : b[j][i]));
    }
    engine.sync_warp();
    std::uint32_t x[4], y[4];
    const auto at = [](TestType* tile, coordinates p, int column) {
      return tile + layout::offset(p.row, column + p.column);
    };
    if (transposed_a) {
      engine.load_matrices_transposed(x, at(left, left_transposed_address(lane), left_column));
    } else {
      engine.load_matrices(x, at(left, left_address(lane), left_column));
    }
    if (transposed_b) {
      engine.load_matrices_transposed(y, at(right, right_transposed_address(lane), right_column));
    } else {
      engine.load_matrices(y, at(right, right_address(lane), right_column));
    }
    float c[2][4] = {};
    engine.template multiply<TestType>(c[0], x, y[0], y[1]);
    engine.template multiply<TestType>(c[1], x, y[2], y[3]);
    for (int n = 0; n < 2; ++n)
      for (int e = 0; e < 4; ++e) {
        const coordinates p = accumulator_coordinates(lane, e);
        product[p.row][n * 8 + p.column] = c[n][e];
      }
  });
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) {
      float expected = 0;
      for (int k = 0; k < 16; ++k) expected += a[i][k] * b[k][j];
      REQUIRE(product[i][j] == expected);
    }
}

TEST_CASE("emulated block: a missing barrier or wait shows", "[arch][cuda]") {
  const int lanes = 64;
  for (const bool waits : {false, true})
    for (const bool meets : {false, true}) {
      alignas(16) const float source[4] = {1, 2, 3, 4};
      int right = 0;
      test::emulated_block::run(2, std::size_t{lanes} * 16, 3, [&](const auto& engine, std::byte* memory) {
        auto* const tile = reinterpret_cast<float*>(memory);
        const int thread = engine.warp() * 32 + engine.lane();
        engine.copy_async(tile + thread * 4, source, 12);
        engine.commit_copies();
        if (waits) engine.template wait_copies<0>();
        if (meets) engine.sync_block();
        const float* const other = tile + (lanes - 1 - thread) * 4;  // copied by the other warp
        right += other[0] == 1 && other[2] == 3 && other[3] == 0;
        engine.sync_block();
        engine.template wait_copies<0>();
      });
      REQUIRE((right == lanes) == (waits && meets));
    }
}

TEST_CASE("emulated block: a stored number is seen by whom a barrier shows it, and destroys what was there at once",
          "[arch][cuda]") {
  enum class barrier { none, warp, block };
  for (const barrier kind : {barrier::none, barrier::warp, barrier::block}) {
    int own = 0, neighbors = 0, others = 0, old = 0;
    test::emulated_block::run(2, 64 * 4, 5, [&](const auto& engine, std::byte* memory) {
      auto* const numbers = reinterpret_cast<float*>(memory);
      const int thread = engine.warp() * 32 + engine.lane();
      engine.store(numbers + thread, 1.0f);
      engine.sync_block();
      engine.store(numbers + thread, 2.0f);
      if (kind == barrier::warp) engine.sync_warp();
      if (kind == barrier::block) engine.sync_block();
      own += numbers[thread] == 2;
      neighbors += numbers[thread ^ 1] == 2;
      others += numbers[thread ^ 32] == 2;
      old += numbers[thread] == 1;
      engine.sync_block();
    });
    REQUIRE(own == (kind == barrier::none ? 0 : 64));
    REQUIRE(neighbors == (kind == barrier::none ? 0 : 64));
    REQUIRE(others == (kind == barrier::block ? 64 : 0));
    REQUIRE(old == 0);
  }
}

TEST_CASE("emulated block: lanes exchange values through global memory across a barrier", "[arch][cuda]") {
  for (const bool meets : {false, true}) {
    float numbers[64] = {};
    int right = 0;
    test::emulated_block::run(2, 0, 7, [&](const auto& engine, std::byte*) {
      const int thread = engine.warp() * 32 + engine.lane();
      engine.store_global(numbers + thread, 1.0f);
      if (meets) engine.sync_warp();
      right += numbers[thread ^ 1] == 1;
      engine.sync_block();
      engine.store_global(numbers + thread, numbers[thread] + 1);
    });
    REQUIRE(right == (meets ? 64 : 0));
    for (const float x : numbers) REQUIRE(x == 2);
  }
}

TEST_CASE("emulated block: what functors write reaches the other warps at the next barrier", "[arch][cuda]") {
  for (const bool meets : {false, true}) {
    int right = 0;
    const std::size_t before = test::emulated_block::plain_bytes;
    test::emulated_block::run(2, 64, 6, [&](const auto& engine, std::byte* memory) {
      const int thread = engine.warp() * 32 + engine.lane();
      memory[thread] = static_cast<std::byte>(thread);
      if (meets) engine.sync_block();
      right += memory[thread ^ 32] == static_cast<std::byte>(thread ^ 32);
      engine.sync_block();
    });
    REQUIRE(right == (meets ? 64 : 0));
    REQUIRE(test::emulated_block::plain_bytes == before + 64);
  }
}

TEST_CASE("emulated block: what breaks a rule of the device throws", "[arch][cuda]") {
  const auto breaks = [](const auto& body) {
    REQUIRE_THROWS_AS(test::emulated_block::run(2, 64 * 16, 0, body), std::logic_error);
  };
  breaks([](const auto& engine, std::byte*) {
    if (engine.lane() != 7) engine.sync_warp();
  });
  breaks([](const auto& engine, std::byte*) {
    if (engine.lane() == 7) {
      engine.sync_warp();
    } else {
      static_cast<void>(engine.any(true));
    }
  });
  breaks([](const auto& engine, std::byte* memory) {
    memory[engine.lane()] = static_cast<std::byte>(engine.warp());  // both warps
    engine.sync_block();
  });
  breaks([](const auto& engine, std::byte* memory) { engine.store(memory + 64 * 16, std::byte{1}); });
  breaks([](const auto& engine, std::byte* memory) {
    static_cast<void>(engine.load(memory));
    static_cast<void>(engine.any(true));  // no barrier
    if (engine.lane() == 3) engine.store(memory, std::byte{1});
  });
  alignas(16) static const float source[8] = {};
  breaks([](const auto& engine, std::byte* memory) { engine.copy_async(memory, source + 1, 16); });
  breaks([](const auto& engine, std::byte* memory) {
    engine.copy_async(memory + 16 * engine.lane(), source, 16);
    engine.commit_copies();  // and leaves
  });
}

TEST_CASE("emulated block: lanes of a warp, and warps, run in many orders", "[arch][cuda]") {
  std::set<std::vector<int>> orders, of_first_warp;
  for (std::uint32_t block = 0; block < 20; ++block) {
    std::vector<int> order, of_warp;
    test::emulated_block::run(2, 16, block, [&](const auto& engine, std::byte* memory) {
      for (int n = 0; n < 4; ++n) {
        order.push_back(engine.warp() * 32 + engine.lane());
        if (engine.warp() == 0) of_warp.push_back(engine.lane());
        if (engine.lane() == 0) engine.store(memory + engine.warp(), std::byte{0});
        engine.commit_copies();
      }
    });
    orders.insert(order);
    of_first_warp.insert(of_warp);
  }
  REQUIRE(orders.size() == 20);
  REQUIRE(of_first_warp.size() >= 19);
}

TEST_CASE("emulated block: sums are cut off as tensor cores do", "[arch][cuda]") {
  const auto sum = [](float c, std::initializer_list<float> products) {
    using factor = test::truncated_sum::factor;
    factor a[8], b[8];
    int n = 0;
    for (const float x : products) {
      a[n] = factor(x);
      b[n++] = factor(1.0f);
    }
    return test::truncated_sum::add(c, a, b);
  };
  constexpr float infinity = std::numeric_limits<float>::infinity();
  REQUIRE(sum(3.0f, {}) == 3);
  REQUIRE(sum(0.0f, {}) == 0);
  REQUIRE(sum(1.0f, {0x1p-24f, 0x1p-25f}) == 1.0f);             // to nearest: the next float
  REQUIRE(sum(1.0f, {0x1p-24f, 0x1p-24f}) == 1.0f + 0x1p-23f);  // two extra bits hold both until the end
  REQUIRE(sum(1.0f, {0x1p-25f, 0x1p-25f, 0x1p-25f, 0x1p-25f}) == 1.0f + 0x1p-23f);
  REQUIRE(sum(1.0f, {0x1p-26f, 0x1p-26f, 0x1p-26f, 0x1p-26f, 0x1p-26f, 0x1p-26f, 0x1p-26f, 0x1p-26f}) == 1.0f);
  REQUIRE(sum(-1.0f, {-0x1p-24f, -0x1p-25f}) == -1.0f);  // toward zero
  REQUIRE(sum(1.0f, {-0x1p-24f}) == 1.0f - 0x1p-24f);
  REQUIRE(sum(1.0f, {-0x1p-26f}) == 1.0f);  // an addend is cut off before it is added
  REQUIRE(sum(-1024.0f, {1024.0f, 0x1p-16f}) == 0.0f);
  REQUIRE(sum(1.0f, {infinity}) == infinity);
  REQUIRE(std::isnan(sum(infinity, {-infinity})));
  REQUIRE(std::isnan(sum(1.0f, {std::nanf("")})));
  REQUIRE(sum(0x1.fffffep127f, {0x1p127f}) == infinity);
}
