// SPDX-License-Identifier: Apache-2.0
// Attention on matrix registers. Where the processor has none, an emulated unit shows that everything around the instructions
// is right: layouts, padding, remainders, the fallback. On AMX the same tests run on the real ones.
#include <seqprim/attention/attention.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/score/score.hpp>

#include <attention/kernels.hpp>
#include <attention/problem.hpp>
#include <cstring>
#include <support/catch.hpp>
#include <support/emulated_tiles.hpp>
#include <vector>

using namespace seqprim;
namespace kernels = test::kernels;
using test::attention_problem;
using test::random_numbers;

namespace {

#if defined(SEQPRIM_TEST_AMX)
using isa = arch::amx_bf16;
// What runs where the tile registers are unsupported takes every type, double through the definition of simd.
static_assert(arch::simd<arch::tile_unit<isa>::otherwise, double>::lanes == 1);
#else
using isa = test::emulated_tiles;
using unit = arch::tile_unit<isa>;
#endif

/// Forward on the tiles, compiled for two operators however many the tests use.
template <class Isa = isa, class Op, class Q, class K, class V>
void forward(const cpu& executor, const Op& op, const Q& q, const K& k, const V& v, tensor<bfloat16, 4>& out,
             tensor<float, 3>& lse) {
  using operand = tensor_view<const bfloat16, 4>;
  kernels::with_any(op, as_view(q).extent(2), as_view(k).extent(2), [&](const auto& any) {
    attention::forward<Isa>(executor, any, operand(as_view(q)), operand(as_view(k)), operand(as_view(v)), out, lse);
  });
}
template <class Isa = isa, class Op, class Q, class K, class V>
void forward(const cpu& executor, const Op& op, const Q& q, const K& k, const V& v, tensor<bfloat16, 4>& out) {
  tensor<float, 3> lse(out.extent(0), out.extent(1), out.extent(2));
  ::forward<Isa>(executor, op, q, k, v, out, lse);
}

/// Against the definition, within twice what a naive loop loses that also rounds weights to bfloat16 before they meet values.
template <class Op> void require_close(const Op& op, const attention_problem<bfloat16>& p) {
  tensor<bfloat16, 4> out(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> lse(p.batch, p.heads, p.q_len);
  out.fill(bfloat16(77.0f));
  lse.fill(77.0f);
  ::forward(cpu{}, op, p.q, p.k, p.v, out, lse);
  tensor<double, 4> exact(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<double, 3> exact_lse(p.batch, p.heads, p.q_len);
  attention::reference::forward(op, p.q, p.k, p.v, exact, exact_lse);
  tensor<float, 4> naive(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> naive_lse(p.batch, p.heads, p.q_len);
  kernels::with_any(op, p.q_len, p.k_len, [&](const auto& any) {
    kernels::bind_any(any, p);
    test::naive_forward(any, p, naive, naive_lse);
  });
  const double size = std::max(1.0, test::largest(exact)), lse_size = std::max(1.0, test::largest(exact_lse));
  CAPTURE(p.batch, p.heads, p.kv_heads, p.q_len, p.k_len, p.head_dim, p.value_dim);
  // One rounding of the weights and one of the result, each half a unit in the last place of bfloat16, twice.
  REQUIRE(test::distance(out, exact) <=
          2 * test::distance(naive, exact) + 2 * (test::rounding<bfloat16> + test::rounding<float>)*size);
  REQUIRE(test::distance(lse, exact_lse) <=
          2 * test::distance(naive_lse, exact_lse) + 4 * test::rounding<float> * lse_size);
}

}  // namespace

TEST_CASE("tiles: packed sequences, whose tiles end anywhere", "[attention][property]") {
  random_numbers random(400);
  for (int trial = 0; trial < 12; ++trial) {
    std::vector<std::int32_t> q_offsets = {0}, k_offsets = {0};
    for (int d = 0; d < 8; ++d) {
      q_offsets.push_back(q_offsets.back() + static_cast<std::int32_t>(random.integer(0, trial % 2 == 0 ? 60 : 5)));
      k_offsets.push_back(k_offsets.back() + static_cast<std::int32_t>(random.integer(0, 90)));
    }
    attention_problem<bfloat16> p(1, 2, 1, q_offsets.back(), k_offsets.back(), 32, 24);
    p.fill(random);
    const packing sequences{q_offsets, k_offsets};
    require_close(attention::softmax{mask::packed{sequences, mask::causal{}}}, p);
    require_close(attention::softmax{mask::packed{sequences, mask::attention_sinks{.sinks = 2, .window = 9}}}, p);
  }
}

TEST_CASE("tiles: products of pairs with every remainder of rows, columns and depth", "[arch][property]") {
  random_numbers random(401);
  for (int trial = 0; trial < 60; ++trial) {
    const index_t rows = random.integer(1, 70), columns = 16 * random.integer(1, 5), depth = random.integer(1, 150);
    const bool turned = trial % 2 == 1;
    tensor<bfloat16, 2> a(rows, 2 * depth), b(depth, 2 * columns);
    random.fill(a);
    random.fill(b);
    tensor<float, 2> c(rows, columns), start(rows, columns);
    tensor<float, 1> factor(columns);
    random.fill(start);
    random.fill(factor);
    // The left operand by rows of pairs, or by columns of pairs.
    tensor<bfloat16, 2> a_turned(depth, 2 * rows);
    for (index_t i = 0; i < rows; ++i)
      for (index_t k = 0; k < 2 * depth; ++k) a_turned(k / 2, 2 * i + k % 2) = a(i, k);
    const auto* left = reinterpret_cast<const arch::bfloat16_pair*>(turned ? a_turned.data() : a.data());
    const auto* right = reinterpret_cast<const arch::bfloat16_pair*>(b.data());
    const arch::strided_ref a_pairs{left, turned ? 1 : depth, turned ? rows : 1};
    const arch::tile_session<isa> session;
    const auto check = [&](auto kind, auto&& before) {
      for (index_t i = 0; i < c.size(); ++i) c.data()[i] = start.data()[i];
      arch::multiply<isa, decltype(kind)::value>(arch::matrix_ref{c.data(), columns}, a_pairs,
                                                 arch::matrix_ref{right, columns}, {rows, columns, depth},
                                                 factor.data());
      for (index_t i = 0; i < rows; ++i)
        for (index_t j = 0; j < columns; ++j) {
          double sum = before(i, j), size = std::abs(sum);
          for (index_t k = 0; k < 2 * depth; ++k) {
            const double term = static_cast<double>(a(i, k)) * static_cast<double>(b(k / 2, 2 * j + k % 2));
            sum += term;
            size += std::abs(term);
          }
          REQUIRE(std::abs(c(i, j) - sum) <= 2 * static_cast<double>(depth + 1) * 0x1p-24 * size);
        }
    };
    using arch::start;
    check(std::integral_constant<arch::start, arch::start::zero>{}, [](index_t, index_t) { return 0.0; });
    check(std::integral_constant<arch::start, arch::start::keep>{},
          [&](index_t i, index_t j) { return static_cast<double>(start(i, j)); });
    check(std::integral_constant<arch::start, arch::start::rescale>{},
          [&](index_t i, index_t j) { return static_cast<double>(start(i, j) * factor(j)); });
  }
}

TEST_CASE("tiles: forward agrees with the definition for random shapes and masks", "[attention][property]") {
  random_numbers random(402);
  for (int trial = 0; trial < 36; ++trial) {
    const auto p = test::random_problem<bfloat16>(random, 300);
    const index_t offset = random.integer(0, 2) == 0 ? random.integer(-40, 40) : p.k_len - p.q_len;
    CAPTURE(trial, offset);
    switch (trial % 6) {
      case 0: require_close(attention::softmax{}, p); break;
      case 1:
        require_close(attention::softmax{mask::causal{}}.starting_at(offset).tiled_heads().with_sink(0.5f), p);
        break;
      case 2:
        require_close(attention::softmax{mask::sliding_window{.left = random.integer(0, 60)}}.starting_at(offset), p);
        break;
      case 3:
        require_close(
            attention::softmax{mask::attention_sinks{.sinks = 3, .window = 20}}.starting_at(offset).scaled(-0.3f), p);
        break;
      case 4:
        require_close(attention::softmax{mask::causal{} & ~mask::key_range{random.integer(0, 9), 30},
                                         score::soft_cap{.cap = 2.0f}}
                          .starting_at(offset),
                      p);
        break;
      default:
        require_close(
            attention::softmax{mask::prefix{.length = random.integer(0, p.k_len)}, score::alibi{.heads = p.heads}}
                .starting_at(offset)
                .scaled(0.37f),
            p);
    }
  }
}

TEST_CASE("tiles: logits that climb and fall by hundreds move the maximum", "[attention][edge]") {
  attention_problem<bfloat16> p(1, 1, 1, 40, 700, 8, 8);
  random_numbers random(403);
  p.fill(random);
  for (index_t i = 0; i < 40; ++i)
    for (index_t d = 0; d < 8; ++d) p.q(0, 0, i, d) = bfloat16(d == 0 ? 1.0f : 0.0f);
  for (index_t j = 0; j < 700; ++j) p.k(0, 0, j, 0) = bfloat16(static_cast<float>(j < 500 ? j / 2 : 250 - j / 3));
  require_close(attention::softmax{mask::causal{}}.starting_at(660).scaled(1.0f), p);
}

TEST_CASE("tiles: values that are not finite reach the rows that see them and no others", "[attention][edge]") {
  random_numbers random(404);
  attention_problem<bfloat16> p(1, 1, 1, 150, 150, 16, 24);
  p.fill(random);
  const index_t at = GENERATE(0, 31, 32, 77, 149);
  p.v(0, 0, at, 3) = bfloat16(std::numeric_limits<float>::quiet_NaN());
  p.v(0, 0, at, 5) = bfloat16(std::numeric_limits<float>::infinity());
  tensor<bfloat16, 4> out(1, 1, 150, 24);
  ::forward(cpu{}, attention::softmax{mask::causal_window(60)}, p.q, p.k, p.v, out);
  for (index_t i = 0; i < 150; ++i)
    for (index_t d = 0; d < 24; ++d) {
      const bool sees = at <= i && i < at + 60;
      CAPTURE(i, d, at);
      REQUIRE(std::isnan(static_cast<float>(out(0, 0, i, d))) == (sees && d == 3));
      REQUIRE(std::isinf(static_cast<float>(out(0, 0, i, d))) == (sees && d == 5));
    }
}

TEST_CASE("tiles: values that are not finite spoil their channels in the rows that see them, nothing else",
          "[attention][edge]") {
  random_numbers random(408);
  const auto p = test::problem_with_wild_values<bfloat16>(random);
  const attention::softmax op{mask::causal_window(30)};
  tensor<bfloat16, 4> out(1, 1, 150, 24);
  tensor<double, 4> exact(1, 1, 150, 24);
  tensor<double, 3> lse(1, 1, 150);
  ::forward(cpu{}, op, p.q, p.k, p.v, out);
  attention::reference::forward(op, p.q, p.k, p.v, exact, lse);
  REQUIRE(test::same_numbers(out, exact, 8 * test::rounding<bfloat16>));
}

TEST_CASE("tiles: products of whole tiles are those of the definition, exactly where sums of integers are exact",
          "[arch][property]") {
  random_numbers random(406);
  const arch::tile_session<isa> session;
  for (const index_t rows : {16, 32, 48, 80})
    for (const index_t columns : {16, 32, 48, 64})
      for (const index_t depth : {0, 16, 48}) {
        tensor<bfloat16, 2> a(rows, 2 * depth), b(depth, 2 * columns);
        tensor<float, 2> c(rows, columns);
        for (auto* x : {&a, &b})
          for (bfloat16& value : *x) value = bfloat16(static_cast<float>(random.integer(-8, 8)));
        c.fill(3);
        arch::multiply_tiles<isa, false>(
            {c.data(), columns}, {reinterpret_cast<const arch::bfloat16_pair*>(a.data()), depth},
            {reinterpret_cast<const arch::bfloat16_pair*>(b.data()), columns}, {rows, columns, depth});
        for (index_t i = 0; i < rows; ++i)
          for (index_t j = 0; j < columns; ++j) {
            float sum = 3;
            for (index_t n = 0; n < 2 * depth; ++n)
              sum += static_cast<float>(a(i, n)) * static_cast<float>(b(n / 2, 2 * j + n % 2));
            REQUIRE(c(i, j) == sum);
          }
      }
}

TEST_CASE("tiles: a NaN in a query or a key stays in its rows", "[attention][edge]") {
  random_numbers random(405);
  attention_problem<bfloat16> p(1, 1, 1, 100, 100, 32, 16);
  p.fill(random);
  p.q(0, 0, 20, 1) = bfloat16(std::numeric_limits<float>::quiet_NaN());
  p.k(0, 0, 90, 1) = bfloat16(std::numeric_limits<float>::quiet_NaN());
  tensor<bfloat16, 4> out(1, 1, 100, 16);
  ::forward(cpu{}, attention::softmax{mask::causal{}}, p.q, p.k, p.v, out);
  for (index_t i = 0; i < 100; ++i) REQUIRE(std::isnan(static_cast<float>(out(0, 0, i, 0))) == (i == 20 || i >= 90));
}

TEST_CASE("tiles: backward agrees with the same on registers", "[attention][property]") {
  random_numbers random(407);
  for (int trial = 0; trial < 12; ++trial) {
    auto p = test::random_problem<bfloat16>(random, 200);
    const auto op = attention::softmax{mask::causal{}, score::soft_cap{.cap = 4.0f}}.starting_at(p.k_len - p.q_len);
    tensor<bfloat16, 4> out(p.batch, p.heads, p.q_len, p.value_dim), dout = out;
    tensor<float, 3> lse(p.batch, p.heads, p.q_len);
    random.fill(dout);
    struct gradients {
      tensor<bfloat16, 4> dq, dk, dv;
    };
    const auto run = [&](auto engine) {
      using Isa = decltype(engine);
      gradients g{p.q, p.k, p.v};
      ::forward<Isa>(cpu{}, op, p.q, p.k, p.v, out, lse);
      kernels::with_any(op, p.q_len, p.k_len, [&](const auto& any) {
        attention::backward<Isa>(cpu{}, any, p.q, p.k, p.v, out, lse, dout,
                                 attention::gradients{}.dq(g.dq).dk(g.dk).dv(g.dv));
      });
      return g;
    };
    const gradients tiles = run(isa{}), registers = run(arch::avx512_bf16{});
    CAPTURE(trial, p.q_len, p.k_len, p.head_dim, p.value_dim);
    // The same products in another order: p and ds may round to the other neighbor, and so may the results.
    const auto close = [](const auto& a, const auto& b) {
      return test::distance(a, b) <= 4 * test::rounding<bfloat16> * std::max(1.0, test::largest(b));
    };
    REQUIRE(close(tiles.dq, registers.dq));
    REQUIRE(close(tiles.dk, registers.dk));
    REQUIRE(close(tiles.dv, registers.dv));
  }
}

#if !defined(SEQPRIM_TEST_AMX)
TEST_CASE("tiles: strides, threads and batch do not change a bit; refused tiles fall back", "[attention][property]") {
  random_numbers random(406);
  attention_problem<bfloat16> p(2, 2, 1, 90, 130, 40, 24);
  p.fill(random);
  const auto op = attention::softmax{mask::causal{}}.starting_at(40);
  tensor<bfloat16, 4> all(2, 2, 90, 24), one(1, 2, 90, 24), plain(2, 2, 90, 24);
  const long before = unit::products;
  ::forward(cpu{.threads = 1}, op, p.q, p.k, p.v, all);
  REQUIRE(unit::products > before);
  const auto second = [](const auto& x) { return x.view().slice(0, {1, 2}); };
  ::forward(cpu{.threads = 2}, op, second(p.q), second(p.k), second(p.v), one);
  REQUIRE(std::memcmp(one.data(), &all(1, 0, 0, 0), sizeof(bfloat16) * 2 * 90 * 24) == 0);
  // Keys with an odd stride, out of line with pairs, and with an even one; what lies between is never used.
  for (const index_t row : {41, 42}) {
    tensor<bfloat16, 4> wide(2, 1, 130, row);
    wide.fill(bfloat16(std::numeric_limits<float>::quiet_NaN()));
    for (index_t b = 0; b < 2; ++b)
      for (index_t j = 0; j < 130; ++j)
        for (index_t d = 0; d < 40; ++d) wide(b, 0, j, d) = p.k(b, 0, j, d);
    ::forward(cpu{}, op, p.q, wide.view().slice(3, {0, 40}), p.v, plain);
    REQUIRE(std::memcmp(plain.data(), all.data(), sizeof(bfloat16) * static_cast<std::size_t>(all.size())) == 0);
  }
  // The same where whole rows fill tiles and could be read in place.
  attention_problem<bfloat16> whole(1, 1, 1, 40, 70, 64, 16);
  whole.fill(random);
  tensor<bfloat16, 4> odd(1, 1, 70, 65), in_place(1, 1, 40, 16), copied = in_place;
  for (index_t j = 0; j < 70; ++j)
    for (index_t d = 0; d < 64; ++d) odd(0, 0, j, d) = whole.k(0, 0, j, d);
  ::forward(cpu{}, op, whole.q, whole.k, whole.v, in_place);
  ::forward(cpu{}, op, whole.q, odd.view().slice(3, {0, 64}), whole.v, copied);
  REQUIRE(std::memcmp(copied.data(), in_place.data(), sizeof(bfloat16) * 40 * 16) == 0);

  test::tiles_are_refused = true;
  const long refused_from = unit::products;
  ::forward(cpu{.threads = 1}, op, p.q, p.k, p.v, plain);
  test::tiles_are_refused = false;
  REQUIRE(unit::products == refused_from);
  tensor<bfloat16, 4> expected(2, 2, 90, 24);
  ::forward<arch::avx512_bf16>(cpu{}, op, p.q, p.k, p.v, expected);
  REQUIRE(std::memcmp(plain.data(), expected.data(), sizeof(bfloat16) * static_cast<std::size_t>(all.size())) == 0);
}
#endif

TEST_CASE("AMX: a unsupported_reason has a reason", "[arch]") {
  const char* const reason = arch::unsupported_reason<arch::amx_bf16>();
  REQUIRE(arch::runs_here<arch::amx_bf16>() == (reason == nullptr));
  if (reason != nullptr) REQUIRE(std::strlen(reason) > 10);
}
