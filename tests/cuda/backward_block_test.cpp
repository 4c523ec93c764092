// SPDX-License-Identifier: Apache-2.0
// The blocks of the CUDA backward, lane by lane on an emulated block: same text as on the device, no GPU.
#include <seqprim/attention/detail/cuda/backward_block.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/score/score.hpp>

#include <attention/naive_backward.hpp>
#include <attention/problem.hpp>
#include <cmath>
#include <limits>
#include <support/catch.hpp>
#include <support/emulated_block.hpp>
#include <vector>

using namespace seqprim;
using attention::softmax;
namespace block = seqprim::attention::detail;
using test::attention_problem;
using test::random_numbers;

namespace {

template <class T, class Gradient = T> struct gradients {
  tensor<T, 4> out, dout;
  tensor<float, 3> lse;
  tensor<Gradient, 4> dq, dk, dv;

  explicit gradients(const attention_problem<T>& p)
      : out(p.batch, p.heads, p.q_len, p.value_dim),
        dout(p.batch, p.heads, p.q_len, p.value_dim),
        lse(p.batch, p.heads, p.q_len),
        dq(p.batch, p.heads, p.q_len, p.head_dim),
        dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
        dv(p.batch, p.kv_heads, p.k_len, p.value_dim) {
    poison();
  }
  void poison() {
    for (auto* x : {&dq, &dk, &dv}) x->fill(Gradient(std::numeric_limits<float>::quiet_NaN()));
  }
  /// dout is kept; the rest follows from it.
  template <class Op> void forward(const Op& op, const attention_problem<T>& p) {
    attention::forward(cpu{.threads = 1}, op, p.q, p.k, p.v, out, lse);
  }
};

/// Runs every block of both kinds, one after the other, as the kernels would.
template <class Shape, class Op, class T, class Gradient>
void run_blocks(const Op& op, const attention_problem<T>& p, gradients<T, Gradient>& g, std::uint32_t seed,
                bool wide = false) {
  std::vector<block::row_statistics> statistics;
  for (index_t b = 0; b < p.batch; ++b)
    for (index_t h = 0; h < p.heads; ++h)
      for (index_t i = 0; i < p.q_len; ++i) {
        float delta = 0;
        for (index_t d = 0; d < p.value_dim; ++d)
          delta += static_cast<float>(g.out(b, h, i, d)) * static_cast<float>(g.dout(b, h, i, d));
        statistics.push_back(block::row_statistics_of(g.lse(b, h, i), delta));
      }
  const block::problem sizes{p.batch, p.heads, p.kv_heads, p.q_len, p.k_len, p.head_dim, p.value_dim, op.order, {}};
  const auto rows = attention::detail::in_rows(op, attention::detail::starts_of(op, p.q_len, p.k_len));
  const block::backward_operands<decltype(rows.mask), decltype(rows.score), T, Gradient, Gradient, Gradient> in{
      rows.mask,     rows.score,        sizes,       static_cast<float>(op.scale_for(p.head_dim)),
      wide,          p.q.view(),        p.k.view(),  p.v.view(),
      g.dout.view(), statistics.data(), g.dq.view(), g.dk.view(),
      g.dv.view()};
  const index_t key_blocks = p.batch * p.kv_heads * ceil_div(p.k_len, Shape::key_tile);
  for (index_t piece = 0; piece < key_blocks; ++piece)
    test::emulated_block::run(Shape::key_threads / 32, Shape::key_shared, seed + static_cast<std::uint32_t>(piece),
                              [&](const test::emulated_engine& engine, std::byte* shared) {
                                block::backward_key_block<Shape>(engine, in, piece, shared);
                              });
  const index_t query_blocks = p.batch * p.heads * ceil_div(p.q_len, Shape::query_tile);
  for (index_t piece = 0; piece < query_blocks; ++piece)
    test::emulated_block::run(Shape::query_threads / 32, Shape::query_shared, seed + static_cast<std::uint32_t>(piece),
                              [&](const test::emulated_engine& engine, std::byte* shared) {
                                block::backward_query_block<Shape>(engine, in, piece, shared);
                              });
}

template <class Shape, class T, class Op>
void require_close(const Op& op, const attention_problem<T>& p, random_numbers& random, bool wide = false) {
  gradients<T> g(p);
  random.fill(g.dout);
  g.forward(op, p);
  run_blocks<Shape>(op, p, g, random.word(), wide);

  tensor<double, 4> dq(p.batch, p.heads, p.q_len, p.head_dim), dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
      dv(p.batch, p.kv_heads, p.k_len, p.value_dim);
  attention::reference::backward(op, p.q, p.k, p.v, g.dout, dq, dk, dv);
  tensor<float, 4> naive_dq(p.batch, p.heads, p.q_len, p.head_dim), naive_dk(p.batch, p.kv_heads, p.k_len, p.head_dim),
      naive_dv(p.batch, p.kv_heads, p.k_len, p.value_dim);
  test::naive_backward(op, p, g.out, g.lse, g.dout, naive_dq, naive_dk, naive_dv);
  CAPTURE(p.batch, p.heads, p.kv_heads, p.q_len, p.k_len, p.head_dim, p.value_dim);
  const auto check = [](const auto& mine, const auto& naive, const auto& exact) {
    const double size = std::max(1.0, test::largest(exact));
    CHECK(test::distance(mine, exact) <= 2 * test::distance(naive, exact) + 2 * (test::rounding<T> + 0x1p-22) * size);
  };
  check(g.dq, naive_dq, dq);
  check(g.dk, naive_dk, dk);
  check(g.dv, naive_dv, dv);
}

template <class T> attention_problem<T> small_problem(random_numbers& random, index_t largest_dim) {
  const index_t edges[] = {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 80};
  const auto length = [&] { return edges[random.integer(0, 11)]; };
  const index_t group = random.integer(1, 2), kv_heads = random.integer(1, 2), q_len = length(), k_len = length(),
                head_dim = random.integer(1, largest_dim), value_dim = random.integer(1, largest_dim);
  attention_problem<T> p(1, group * kv_heads, kv_heads, q_len, k_len, head_dim, value_dim);
  p.fill(random);
  return p;
}

template <class T> bool same_bits(const tensor<T, 4>& a, const tensor<T, 4>& b) {
  for (index_t i = 0; i < a.size(); ++i)
    if (a.data()[i].bits != b.data()[i].bits) return false;
  return true;
}
template <class T> bool same_bits(const gradients<T>& a, const gradients<T>& b) {
  return same_bits(a.dq, b.dq) && same_bits(a.dk, b.dk) && same_bits(a.dv, b.dv);
}

/// Rules that may only be asked about pairs of the problem, as if they read arrays of its size.
struct strict_mask {
  index_t q_len, k_len;
  bool* asked_beyond;
  bool operator()(index_t q, index_t k) const {
    *asked_beyond = *asked_beyond || q < 0 || q >= q_len || k < 0 || k >= k_len;
    return (q + k) % 3 != 0 || q < 40;
  }
  mask::tile_kind classify(range q, range k) const {
    *asked_beyond = *asked_beyond || q.begin < 0 || q.end > q_len || k.begin < 0 || k.end > k_len;
    return q.end <= 40 ? mask::tile_kind::full : mask::tile_kind::partial;
  }
};
struct strict_score {
  index_t q_len, k_len;
  bool* asked_beyond;
  template <class T> T operator()(T logit, score::site at) const {
    *asked_beyond = *asked_beyond || at.q < 0 || at.q >= q_len || at.k < 0 || at.k >= k_len;
    return logit + static_cast<T>(at.k);
  }
  template <class T> T derivative(T logit, score::site at) const {
    static_cast<void>((*this)(logit, at));
    return T{1};
  }
};

}  // namespace

TEMPLATE_TEST_CASE("backward blocks: agree with the definition for random shapes and masks", "[attention][property]",
                   float16, bfloat16) {
  using shape = block::backward_shape<64, 64>;
  random_numbers random(501);
  for (int trial = 0; trial < 15; ++trial) {
    const auto p = small_problem<TestType>(random, 64);
    const index_t offset = random.integer(0, 2) == 0 ? random.integer(-40, 40) : p.k_len - p.q_len;
    CAPTURE(trial, offset);
    switch (trial % 5) {
      case 0: require_close<shape>(softmax{}, p, random); break;
      case 1:
        require_close<shape>(softmax{mask::causal{}}.starting_at(offset).tiled_heads().with_sink(4 * random.uniform()),
                             p, random);
        break;
      case 2: require_close<shape>(softmax{mask::sliding_window{.left = 20}}.starting_at(offset), p, random); break;
      case 3:
        require_close<shape>(
            softmax{mask::causal{} & ~mask::key_range{3, 30}, score::soft_cap{.cap = 2.0f}}.starting_at(offset), p,
            random);
        break;
      default:
        require_close<shape>(softmax{mask::attention_sinks{.sinks = 3, .window = 20},
                                     score::soft_cap{.cap = 5.0f} | score::alibi{.heads = p.heads}}
                                 .starting_at(offset)
                                 .scaled(0.37f),
                             p, random);
    }
  }
}

TEST_CASE("backward blocks: agree with the definition in every padded size", "[attention][property]") {
  random_numbers random(502);
  const auto run = [&]<int HeadDim, int ValueDim>(block::backward_shape<HeadDim, ValueDim>, index_t head_dim,
                                                  index_t value_dim) {
    attention_problem<bfloat16> p(1, 2, 1, 67, 71, head_dim, value_dim);
    p.fill(random);
    require_close<block::backward_shape<HeadDim, ValueDim>>(softmax{mask::causal{}}.starting_at(2), p, random,
                                                            head_dim % 8 == 0);
  };
  SECTION("64") { run(block::backward_shape<64, 64>{}, 64, 64); }
  SECTION("96") { run(block::backward_shape<96, 96>{}, 96, 96); }
  SECTION("128") { run(block::backward_shape<128, 128>{}, 128, 128); }
  SECTION("192 and 128") { run(block::backward_shape<192, 128>{}, 192, 128); }
  SECTION("256") { run(block::backward_shape<256, 256>{}, 256, 256); }
  SECTION("between") { run(block::backward_shape<128, 128>{}, 100, 113); }
}

TEST_CASE("backward blocks: same bits whatever the order of the warps and the way of the copies",
          "[attention][property]") {
  using shape = block::backward_shape<64, 64>;
  random_numbers random(503);
  attention_problem<bfloat16> p(1, 2, 1, 70, 66, 64, 64);
  p.fill(random);
  const auto op = softmax{mask::causal{}}.starting_at(-3);
  gradients<bfloat16> first(p), second(p);
  random.fill(first.dout);
  second.dout = first.dout;
  first.forward(op, p);
  second.forward(op, p);
  run_blocks<shape>(op, p, first, 1, true);
  run_blocks<shape>(op, p, second, 99, false);
  REQUIRE(same_bits(first, second));
}

TEST_CASE("backward blocks: a NaN stays with the rows that see it", "[attention][property]") {
  using shape = block::backward_shape<64, 64>;
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  random_numbers random(504);
  attention_problem<bfloat16> p(1, 1, 1, 70, 66, 40, 48);
  p.fill(random);
  gradients<bfloat16> clean(p);
  random.fill(clean.dout);

  SECTION("hidden keys and rows that see nothing") {
    const auto op = softmax{mask::causal{} & ~mask::key_range{5, 9}}.starting_at(-2);  // rows 0 and 1 see nothing
    clean.forward(op, p);
    run_blocks<shape>(op, p, clean, 1);
    gradients<bfloat16> dirty(p);
    dirty.dout = clean.dout;
    for (index_t j = 5; j < 9; ++j) p.k(0, 0, j, j) = bfloat16(j % 2 == 0 ? nan : infinity);
    for (index_t j = 5; j < 9; ++j) p.v(0, 0, j, 3) = bfloat16(j % 2 == 0 ? -infinity : nan);
    p.q(0, 0, 1, 2) = bfloat16(nan);
    dirty.dout(0, 0, 0, 7) = bfloat16(infinity);
    dirty.forward(op, p);
    dirty.out(0, 0, 0, 0) = bfloat16(0.0f);
    run_blocks<shape>(op, p, dirty, 2);
    REQUIRE(same_bits(clean, dirty));
  }
  SECTION("a visible one") {
    const auto op = softmax{mask::causal{}}.starting_at(0);
    clean.forward(op, p);
    run_blocks<shape>(op, p, clean, 1);
    gradients<bfloat16> dirty(p);
    dirty.dout = clean.dout;
    dirty.dout(0, 0, 40, 3) = bfloat16(nan);
    dirty.forward(op, p);
    run_blocks<shape>(op, p, dirty, 1);
    for (index_t i = 0; i < p.q_len; ++i)
      for (index_t d = 0; d < p.head_dim; ++d) {
        const float x = dirty.dq(0, 0, i, d);
        REQUIRE((i == 40 ? std::isnan(x) : x == static_cast<float>(clean.dq(0, 0, i, d))));
      }
    for (index_t j = 0; j < p.k_len; ++j) {
      REQUIRE(std::isnan(dirty.dv(0, 0, j, 3)) == (j <= 40));
      REQUIRE(std::isnan(dirty.dk(0, 0, j, 0)) == (j <= 40));
      for (index_t d = 0; d < p.value_dim && j > 40; ++d)
        REQUIRE(dirty.dv(0, 0, j, d).bits == clean.dv(0, 0, j, d).bits);
    }
  }
}

TEST_CASE("backward blocks: no keys, and gradients in float", "[attention]") {
  using shape = block::backward_shape<64, 64>;
  random_numbers random(505);
  attention_problem<float16> empty(1, 2, 1, 5, 0, 8, 8);
  empty.fill(random);
  gradients<float16> g(empty);
  g.forward(softmax{}, empty);
  run_blocks<shape>(softmax{}, empty, g, 1);
  for (const float16 x : g.dq) REQUIRE(x.bits == 0);

  attention_problem<float16> p(2, 2, 2, 20, 33, 16, 8);
  p.fill(random);
  gradients<float16> narrow(p);
  gradients<float16, float> wide(p);
  random.fill(narrow.dout);
  wide.dout = narrow.dout;
  narrow.forward(softmax{}, p);
  wide.forward(softmax{}, p);
  run_blocks<shape>(softmax{}, p, narrow, 1);
  run_blocks<shape>(softmax{}, p, wide, 1);
  for (index_t i = 0; i < wide.dk.size(); ++i) REQUIRE(float16(wide.dk.data()[i]).bits == narrow.dk.data()[i].bits);
  for (index_t i = 0; i < wide.dq.size(); ++i) REQUIRE(float16(wide.dq.data()[i]).bits == narrow.dq.data()[i].bits);
}

TEST_CASE("backward blocks: rules are asked about pairs of the problem only", "[attention]") {
  using shape = block::backward_shape<64, 64>;
  random_numbers random(506);
  for (const index_t q_len : {37, 45}) {
    attention_problem<bfloat16> cut(1, 1, 1, q_len, 70, 8, 8);
    cut.fill(random);
    bool asked_beyond = false;
    require_close<shape>(
        softmax{strict_mask{q_len, 70, &asked_beyond}, strict_score{q_len, 70, &asked_beyond}}.starting_at(0).scaled(
            0.1f),
        cut, random);
    REQUIRE(!asked_beyond);
  }
}

TEST_CASE("backward blocks: logits of great size", "[attention][property]") {
  using shape = block::backward_shape<64, 64>;
  random_numbers random(507);
  attention_problem<bfloat16> p(1, 1, 1, 21, 19, 16, 16);
  for (auto& x : p.q) x = bfloat16(25.0f);
  for (auto& x : p.k) x = bfloat16(-25.0f);  // logits -1e4: a weight beyond the last key would be infinite
  random.fill(p.v);
  require_close<shape>(softmax{}.scaled(1.0f), p, random);
  for (auto& x : p.k) x = bfloat16(25.0f);
  require_close<shape>(softmax{}.scaled(1.0f), p, random);
}
