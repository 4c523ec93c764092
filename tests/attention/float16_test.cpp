// SPDX-License-Identifier: Apache-2.0
// What float16 precision costs: operands are widened exactly, everything between is float, the result is rounded once.
#include <seqprim/attention/decode.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/mask/causal.hpp>

#include <attention/kernels.hpp>
#include <attention/problem.hpp>
#include <cmath>
#include <support/catch.hpp>

using namespace seqprim;
namespace kernels = test::kernels;
using test::attention_problem;
using test::random_numbers;

namespace {

constexpr float largest_half = 65504.0f;

struct result {
  tensor<float16, 4> out;
  tensor<float, 3> lse;
};

template <class Op> result run(bool decode, const Op& op, const attention_problem<float16>& p) {
  result r{tensor<float16, 4>(p.batch, p.heads, p.q_len, p.value_dim), tensor<float, 3>(p.batch, p.heads, p.q_len)};
  if (decode) {
    kernels::decode(cpu{}, op, p.q, p.k, p.v, r.out, r.lse);
  } else {
    kernels::forward(cpu{}, op, p.q, p.k, p.v, r.out, r.lse);
  }
  return r;
}

}  // namespace

TEST_CASE("float16: the result is that of float operands, rounded once", "[attention][property]") {
  const bool decode = GENERATE(false, true);
  random_numbers random(501);
  for (const float size : {1e-4f, 1.0f, 300.0f, 20000.0f}) {
    attention_problem<float16> p(1, 2, 1, 70, 150, 32, 40);
    random.fill(p.q);
    random.fill(p.k);
    for (float16& x : p.v) x = float16(std::fmin(std::fmax(size * random.normal(), -largest_half), largest_half));
    const auto op = attention::softmax{mask::causal{}}.starting_at(80);
    tensor<double, 4> exact(1, 2, 70, 40);
    tensor<double, 3> exact_lse(1, 2, 70);
    attention::reference::forward(op, p.q, p.k, p.v, exact, exact_lse);
    tensor<float, 4> naive(1, 2, 70, 40);
    tensor<float, 3> naive_lse(1, 2, 70);
    kernels::naive_forward(op, p, naive, naive_lse);
    const double between = 2 * test::distance(naive, exact);  // what float arithmetic may lose
    const result r = run(decode, op, p);
    double worst = 0;  // in units of the rounding of float16: 2^-11 relative, 2^-25 below the normal numbers
    for (index_t i = 0; i < exact.size(); ++i) {
      const double x = exact.data()[i];
      const double error = std::abs(static_cast<double>(static_cast<float>(r.out.data()[i])) - x);
      worst = std::fmax(worst, (error - between) / std::fmax(std::abs(x) * 0x1p-11, 0x1p-25));
    }
    CAPTURE(size, decode, between, worst);
    REQUIRE(worst <= 1.0);
    REQUIRE(test::distance(r.lse, exact_lse) <= 2 * test::distance(naive_lse, exact_lse) + 8 * 0x1p-24 * 8);
  }
}

TEST_CASE("float16: a mean of the largest values does not overflow", "[attention][edge]") {
  const bool decode = GENERATE(false, true);
  random_numbers random(502);
  attention_problem<float16> p(1, 1, 1, 40, 600, 16, 8);
  random.fill(p.q);
  random.fill(p.k);
  p.v.fill(float16(largest_half));
  for (index_t j = 0; j < 600; ++j) p.v(0, 0, j, 1) = float16(-largest_half);
  const result r = run(decode, attention::softmax{}, p);
  for (index_t i = 0; i < 40; ++i) {
    REQUIRE(static_cast<float>(r.out(0, 0, i, 0)) == largest_half);
    REQUIRE(static_cast<float>(r.out(0, 0, i, 1)) == -largest_half);
  }
}

TEST_CASE("float16: products of the largest queries and keys stay finite and select", "[attention][edge]") {
  const bool decode = GENERATE(false, true);
  // Logits of 65504^2 * 64 / 1024 = 2.7e8, where float steps by 32; one key is a unit in the last place ahead in one channel,
  // which is 2047 in the logit.
  attention_problem<float16> p(1, 1, 1, 20, 300, 64, 4);
  p.q.fill(float16(largest_half));
  p.k.fill(float16(largest_half));
  for (index_t j = 0; j < 300; ++j) {
    if (j != 123) p.k(0, 0, j, 5) = float16(65472.0f);
    p.v(0, 0, j, 0) = float16(static_cast<float>(j));
  }
  const result r = run(decode, attention::softmax{}.scaled(0x1p-10f), p);
  for (index_t i = 0; i < 20; ++i) {
    REQUIRE(static_cast<float>(r.out(0, 0, i, 0)) == 123.0f);
    REQUIRE(r.lse(0, 0, i) == Approx(65504.0 * 65504.0 / 16).epsilon(1e-5));
  }
}

TEST_CASE("float16: infinite and tiny values keep their meaning", "[attention][edge]") {
  const bool decode = GENERATE(false, true);
  attention_problem<float16> p(1, 1, 1, 3, 4, 8, 3);
  const float16 infinity = float16::from_bits(0x7c00), tiny = float16::from_bits(0x0003);  // 3 * 2^-24
  for (index_t j = 0; j < 4; ++j) {
    p.v(0, 0, j, 0) = j == 2 ? infinity : float16(1.0f);
    p.v(0, 0, j, 1) = tiny;
    p.v(0, 0, j, 2) = float16(-1.0f);
  }
  const result r = run(decode, attention::softmax{mask::causal{}}.starting_at(0), p);
  for (index_t i = 0; i < 3; ++i) {
    REQUIRE(static_cast<float>(r.out(0, 0, i, 0)) == (i == 2 ? std::numeric_limits<float>::infinity() : 1.0f));
    REQUIRE(r.out(0, 0, i, 1).bits == tiny.bits);
    REQUIRE(static_cast<float>(r.out(0, 0, i, 2)) == -1.0f);
  }
}
