// SPDX-License-Identifier: Apache-2.0
#include <seqprim/arch/tile.hpp>

#include <cmath>
#include <limits>
#include <support/catch.hpp>
#include <support/random.hpp>
#include <vector>

using namespace seqprim;
using isa = arch::native_isa;
using v = arch::simd<isa, float>;

namespace {
constexpr float infinity = std::numeric_limits<float>::infinity();

float lane_of(v::reg x, int lane) {
  float out[v::lanes];
  v::store(out, x);
  return out[lane];
}

bool same_bits(float a, float b) { return bit_cast<std::uint32_t>(a) == bit_cast<std::uint32_t>(b); }
}  // namespace

TEST_CASE("simd: the engine is the one this file was compiled for", "[arch]") {
#if defined(__AVX512F__)
  REQUIRE(v::lanes == 16);
#elif defined(__AVX2__)
  REQUIRE(v::lanes == 8);
#else
  REQUIRE(v::lanes == 1);
#endif
}

TEST_CASE("simd: exp2 is accurate to 2e-7 over the whole range", "[arch][property]") {
  double worst = 0;
  for (float x = -125.9f; x < 127.9f; x += 0.00137f) {
    const double exact = std::exp2(static_cast<double>(x));
    const double error = std::abs(static_cast<double>(lane_of(v::exp2(v::set(x)), 0)) - exact) / exact;
    worst = std::max(worst, error);
  }
  CAPTURE(worst);
  REQUIRE(worst < 2e-7);
}

TEST_CASE("simd: exp2 of the edge values", "[arch]") {
  const auto exp2 = [](float x) { return lane_of(v::exp2(v::set(x)), v::lanes - 1); };
  REQUIRE(exp2(0.0f) == 1.0f);
  REQUIRE(exp2(-0.0f) == 1.0f);
  REQUIRE(exp2(10.0f) == 1024.0f);
  REQUIRE(exp2(-infinity) == 0.0f);
  REQUIRE(exp2(-1e30f) == 0.0f);
  REQUIRE(exp2(-200.0f) == 0.0f);
  REQUIRE(exp2(infinity) == infinity);
  REQUIRE(exp2(1e30f) == infinity);
  REQUIRE(exp2(128.0f) == infinity);
  REQUIRE(std::isnan(exp2(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("simd: max returns its second operand when one is NaN", "[arch]") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  REQUIRE(lane_of(v::max(v::set(nan), v::set(1.0f)), 0) == 1.0f);
  REQUIRE(std::isnan(lane_of(v::max(v::set(1.0f), v::set(nan)), 0)));
}

TEMPLATE_TEST_CASE("simd: loads and stores convert like the element types do", "[arch][property]", float16, bfloat16) {
  // Every bit pattern is widened; every float near a rounding boundary is narrowed.
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    TestType in[v::lanes];
    for (auto& x : in) x = TestType::from_bits(static_cast<std::uint16_t>(bits));
    const float expected = in[0];
    const float actual = lane_of(v::load(in), v::lanes - 1);
    if (std::isnan(expected) ? !std::isnan(actual) : !same_bits(expected, actual)) {
      CAPTURE(bits, expected, actual);
      REQUIRE(same_bits(expected, actual));
    }
    for (const std::int32_t nudge : {-1, 0, 1, 0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001}) {
      const float x = bit_cast<float>(bit_cast<std::uint32_t>(expected) + static_cast<std::uint32_t>(nudge));
      TestType out[v::lanes];
      v::store(out, v::set(x));
      const bool same = std::isnan(x) ? std::isnan(static_cast<float>(out[0])) : out[0].bits == TestType(x).bits;
      if (!same) {
        CAPTURE(bits, nudge, x, out[0].bits, TestType(x).bits);
        REQUIRE(same);
      }
    }
  }
  SUCCEED();
}

TEMPLATE_TEST_CASE("simd: partial loads read zeros and partial stores leave the rest alone", "[arch]", float, float16,
                   bfloat16) {
  for (int n = 0; n <= v::lanes; ++n) {
    std::vector<TestType> in(static_cast<std::size_t>(n));  // the sanitizer sees a read beyond n
    for (int i = 0; i < n; ++i) in[static_cast<std::size_t>(i)] = static_cast<TestType>(static_cast<float>(i + 1));
    const auto x = v::load_partial(in.data(), n);
    for (int i = 0; i < v::lanes; ++i) REQUIRE(lane_of(x, i) == (i < n ? static_cast<float>(i + 1) : 0.0f));
    std::vector<TestType> out(static_cast<std::size_t>(n));
    v::store_partial(out.data(), x, n);
    for (int i = 0; i < n; ++i)
      REQUIRE(static_cast<float>(out[static_cast<std::size_t>(i)]) == static_cast<float>(i + 1));
  }
}

TEST_CASE("simd: reversed loads read n elements backwards and zeros beyond", "[arch]") {
  for (int n = 1; n <= v::lanes; ++n) {
    std::vector<float> in(static_cast<std::size_t>(n));
    for (int i = 0; i < n; ++i) in[static_cast<std::size_t>(i)] = static_cast<float>(n - i);
    const auto x = v::load_reversed(in.data() + n - 1, n);
    for (int i = 0; i < v::lanes; ++i) REQUIRE(lane_of(x, i) == (i < n ? static_cast<float>(i + 1) : 0.0f));
  }
}

TEST_CASE("simd: lanes outside a run are replaced", "[arch]") {
  std::int32_t lower[v::lanes], upper[v::lanes];
  for (int i = 0; i < v::lanes; ++i) {
    lower[i] = i % 3;
    upper[i] = 2 + i % 2;
  }
  for (std::int32_t index = -1; index < 5; ++index) {
    const auto kept = v::select(v::in_run(index, lower, upper), v::set(1.0f), v::set(-infinity));
    for (int i = 0; i < v::lanes; ++i)
      REQUIRE(lane_of(kept, i) == (lower[i] <= index && index < upper[i] ? 1.0f : -infinity));
  }
  for (std::int32_t low = -2; low < v::lanes + 2; ++low)
    for (std::int32_t high = -2; high < v::lanes + 2; ++high) {
      const auto kept = v::select(v::lanes_in(low, high), v::set(1.0f), v::set(-infinity));
      for (int i = 0; i < v::lanes; ++i) REQUIRE(lane_of(kept, i) == (low <= i && i < high ? 1.0f : -infinity));
    }
}

TEST_CASE("simd: lanes are chosen by labels in a range, by the bits of a word and by one bit of each word", "[arch]") {
  std::int32_t labels[v::lanes];
  std::uint64_t words[v::lanes];
  std::uint32_t bits = 0;
  for (int i = 0; i < v::lanes; ++i) {
    labels[i] = 3 * i % 5 - 2;
    words[i] = 0x9e3779b97f4a7c15u * static_cast<std::uint64_t>(i + 1);
    bits |= i % 3 == 1 ? 0u : 1u << i;
  }
  const auto chosen = [](v::lane_mask lanes, int i) {
    return lane_of(v::select(lanes, v::set(1.0f), v::zero()), i) == 1.0f;
  };
  for (std::int32_t low = -3; low < 4; ++low)
    for (std::int32_t high = -3; high < 4; ++high)
      for (int i = 0; i < v::lanes; ++i)
        REQUIRE(chosen(v::labels_in(labels, low, high), i) == (low <= labels[i] && labels[i] < high));
  for (int i = 0; i < v::lanes; ++i) REQUIRE(chosen(v::lanes_of_bits(bits), i) == (i % 3 != 1));
  for (int bit = 0; bit < 64; ++bit)
    for (int i = 0; i < v::lanes; ++i)
      REQUIRE(chosen(v::lanes_with_bit(words, bit), i) == ((words[i] >> bit & 1u) != 0));
}

TEST_CASE("simd: sqrt rounds correctly and keeps the edge values", "[arch]") {
  for (const float x : {0.0f, 1.0f, 2.0f, 1e-40f, 3e38f, infinity})
    REQUIRE(same_bits(lane_of(v::sqrt(v::set(x)), v::lanes - 1), std::sqrt(x)));
  REQUIRE(std::isnan(lane_of(v::sqrt(v::set(-1.0f)), 0)));
}

TEST_CASE("simd: sum and maximum take every lane", "[arch]") {
  float in[v::lanes];
  float expected = 0;
  for (int i = 0; i < v::lanes; ++i) expected += in[i] = static_cast<float>(i * i + 1);
  REQUIRE(v::sum(v::load(in)) == expected);
  REQUIRE(v::maximum(v::load(in)) == in[v::lanes - 1]);
}

TEST_CASE("simd: reduce_add adds the lanes of each register in the order it names", "[arch]") {
  test::random_numbers random(3);
  float in[v::lanes][v::lanes], expected[v::lanes];
  typename v::reg x[v::lanes];
  for (int i = 0; i < v::lanes; ++i) {
    for (float& number : in[i]) number = random.uniform();
    x[i] = v::load(in[i]);
    for (int half = v::lanes / 2; half > 0; half /= 2)
      for (int lane = 0; lane < half; ++lane) in[i][lane] += in[i][lane + half];
    expected[i] = in[i][0];
  }
  for (int i = 0; i < v::lanes; ++i) REQUIRE(same_bits(lane_of(v::reduce_add(x), i), expected[i]));
}

TEST_CASE("transpose_into: any shape, padded with zeros", "[arch][property]") {
  test::random_numbers random(7);
  for (int trial = 0; trial < 60; ++trial) {
    const index_t rows = random.integer(0, 40), columns = random.integer(1, 40);
    const index_t padded = round_up(max<index_t>(rows, 1), v::lanes);
    tensor<float, 2> in(rows, columns), out(columns, padded);
    random.fill(in);
    out.fill(7.0f);
    arch::transpose_into<isa, float>(arch::matrix_ref{in.data(), columns}, rows, columns,
                                     arch::matrix_ref{out.data(), padded}, padded);
    CAPTURE(rows, columns);
    bool same = true;
    for (index_t j = 0; j < columns; ++j)
      for (index_t i = 0; i < padded; ++i) same = same && out(j, i) == (i < rows ? in(i, j) : 0.0f);
    REQUIRE(same);
  }
}

#if defined(__AVX512BF16__)
TEST_CASE("pair products: transposed rows, interleaved rows and rounded weights multiply as their numbers do",
          "[arch][property]") {
  using pairs = arch::pair_products<isa>;
  test::random_numbers random(21);
  for (int trial = 0; trial < 40; ++trial) {
    const index_t rows = random.integer(1, 20), columns = random.integer(1, 70), width = 32;
    tensor<bfloat16, 2> q(rows, columns);
    random.fill(q);
    const bool negate = trial % 2 == 1;
    tensor<std::uint32_t, 2> turned((columns + 1) / 2, width);
    turned.fill(~0u);
    auto* const out = reinterpret_cast<arch::bfloat16_pair*>(turned.data());
    pairs::transpose_rows({q.data(), columns}, rows, columns, negate, {out, width}, width);
    bool same = true;
    for (index_t n = 0; n < (columns + 1) / 2; ++n)
      for (index_t i = 0; i < width; ++i) {
        const auto part = [&](index_t d) {
          return i < rows && d < columns ? static_cast<std::uint32_t>(q(i, d).bits ^ (negate ? 0x8000u : 0u))
                 : negate && i < rows    ? 0x8000u
                                         : 0u;
        };
        const std::uint32_t expected = part(2 * n) | part(2 * n + 1) << 16;
        // The partner of an odd last number is a zero of either sign, and so is padding.
        same = same && (turned(n, i) & 0x7fff7fffu) == (expected & 0x7fff7fffu) &&
               (i >= rows || 2 * n + 1 >= columns || turned(n, i) == expected);
      }
    CAPTURE(rows, columns, negate);
    REQUIRE(same);

    tensor<std::uint32_t, 1> woven(columns);
    pairs::interleave_rows(&q(0, 0), rows > 1 ? &q(1, 0) : nullptr, columns,
                           reinterpret_cast<arch::bfloat16_pair*>(woven.data()));
    for (index_t d = 0; d < columns; ++d)
      REQUIRE(woven(d) == (q(0, d).bits | (rows > 1 ? std::uint32_t{q(1, d).bits} << 16 : 0u)));
  }
  arch::bfloat16_pair stored[16];
  float low[16], high[16];
  for (int i = 0; i < 16; ++i) {
    low[i] = random.normal();
    high[i] = random.normal();
  }
  pairs::store_rounded(stored, v::load(low), v::load(high));
  for (int i = 0; i < 16; ++i) {
    REQUIRE((stored[i].bits & 0xffffu) == bfloat16(low[i]).bits);
    REQUIRE(stored[i].bits >> 16 == bfloat16(high[i]).bits);
  }
}
#endif

TEST_CASE("simd: 8-bit integers widen exactly, whole registers and parts", "[arch]") {
  std::vector<std::int8_t> x(v::lanes);
  for (int shift = 0; shift < 256; shift += v::lanes) {
    for (int i = 0; i < v::lanes; ++i) x[static_cast<std::size_t>(i)] = static_cast<std::int8_t>(shift + i - 128);
    for (int n = 0; n <= v::lanes; ++n)
      for (int i = 0; i < v::lanes; ++i) {
        const auto value = static_cast<float>(x[static_cast<std::size_t>(i)]);
        REQUIRE(lane_of(v::load_partial(x.data(), n), i) == (i < n ? value : 0.0f));
        REQUIRE(lane_of(v::load(x.data()), i) == value);
      }
  }
}

TEMPLATE_TEST_CASE("simd: woven loads take every number to its lane", "[arch]", float, float16, bfloat16, std::int8_t) {
  using woven = arch::woven_load<isa, TestType>;
  std::vector<TestType> x(static_cast<std::size_t>(v::lanes * woven::registers));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = TestType(static_cast<float>(i) - 7.0f);
  v::reg out[woven::registers];
  woven::load(x.data(), out);
  for (int n = 0; n < woven::registers; ++n)
    for (int i = 0; i < v::lanes; ++i)
      REQUIRE(lane_of(out[n], i) == static_cast<float>(x[static_cast<std::size_t>(i * woven::registers + n)]));
}
