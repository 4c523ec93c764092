// SPDX-License-Identifier: Apache-2.0
// The edges of forward and decode: lengths around the tiles, rows without keys, extreme logits, NaN, memory beyond 2^31 elements.
#include <seqprim/attention/decode.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/mask/mask.hpp>

#include <attention/kernels.hpp>
#include <attention/problem.hpp>
#include <cmath>
#include <limits>
#include <support/catch.hpp>
#include <sys/mman.h>
#include <vector>

using namespace seqprim;
namespace kernels = test::kernels;
using test::attention_problem;
using test::random_numbers;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
const float not_a_number = std::nanf("");

template <class T> struct result {
  tensor<T, 4> out;
  tensor<float, 3> lse;

  explicit result(const attention_problem<T>& p)
      : out(p.batch, p.heads, p.q_len, p.value_dim), lse(p.batch, p.heads, p.q_len) {
    out.fill(T(77.0f));
    lse.fill(77.0f);
  }
};

template <class T, class Op> result<T> forward(const Op& op, const attention_problem<T>& p) {
  result<T> r(p);
  kernels::forward(cpu{}, op, p.q, p.k, p.v, r.out, r.lse);
  return r;
}

template <class T, class Op> result<T> decode(const Op& op, const attention_problem<T>& p) {
  result<T> r(p);
  kernels::decode(cpu{}, op, p.q, p.k, p.v, r.out, r.lse);
  return r;
}

/// Both against the definition: at most twice what the naive loop loses, plus two roundings of the result.
template <class T, class Op> void require_close(const Op& op, const attention_problem<T>& p) {
  tensor<double, 4> exact(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<double, 3> exact_lse(p.batch, p.heads, p.q_len);
  attention::reference::forward(op, p.q, p.k, p.v, exact, exact_lse);
  tensor<float, 4> naive(p.batch, p.heads, p.q_len, p.value_dim);
  tensor<float, 3> naive_lse(p.batch, p.heads, p.q_len);
  kernels::naive_forward(op, p, naive, naive_lse);
  const double budget = 2 * test::distance(naive, exact) +
                        2 * (test::rounding<T> + 2 * test::rounding<float>)*std::max(1.0, test::largest(exact));
  const double lse_budget =
      2 * test::distance(naive_lse, exact_lse) + 8 * test::rounding<float> * std::max(1.0, test::largest(exact_lse));
  CAPTURE(p.batch, p.heads, p.kv_heads, p.q_len, p.k_len, p.head_dim, p.value_dim, budget, lse_budget);
  const result<T> prefill = forward(op, p);
  REQUIRE(test::distance(prefill.out, exact) <= budget);
  REQUIRE(test::distance(prefill.lse, exact_lse) <= lse_budget);
  const result<T> step = decode(op, p);
  REQUIRE(test::distance(step.out, exact) <= budget);
  REQUIRE(test::distance(step.lse, exact_lse) <= lse_budget);
}

/// Head h of batch row b sees `lengths[b][h]` keys.
struct keys_of_head {
  index_t lengths[2][3];
  [[nodiscard]] mask::key_range bind(index_t batch, index_t head) const noexcept {
    return {.begin = 0, .end = lengths[batch][head]};
  }
};

/// Some logits are -inf: a modifier that forbids pairs.
struct forbids {
  index_t period;
  template <std::floating_point T> SEQPRIM_HD T operator()(T logit, score::site at) const noexcept {
    return (at.q + at.k) % period == 0 ? -std::numeric_limits<T>::infinity() : logit;
  }
  template <std::floating_point T> SEQPRIM_HD T derivative(T, score::site) const noexcept { return 1; }
};

}  // namespace

TEMPLATE_TEST_CASE("edges: lengths around the tiles", "[attention][edge]", float, float16, bfloat16) {
  const attention::tile_policy sizes = kernels::policy();
  const index_t q_lengths[] = {0, 1, sizes.q_tile - 1, sizes.q_tile, sizes.q_tile + 1, 2 * sizes.q_tile + 1};
  const index_t k_lengths[] = {0, 1, sizes.k_tile - 1, sizes.k_tile, sizes.k_tile + 1, 2 * sizes.k_tile - 1};
  random_numbers random(401);
  for (const index_t q_len : q_lengths)
    for (const index_t k_len : k_lengths) {
      attention_problem<TestType> p(1, 2, 1, q_len, k_len, 8, 5);
      p.fill(random);
      require_close(attention::softmax{}, p);
      require_close(attention::softmax{mask::causal{}}.starting_at(k_len - q_len), p);
    }
}

TEMPLATE_TEST_CASE("edges: decode around the runs that it cuts the cache into", "[attention][edge]", float, float16,
                   bfloat16) {
  random_numbers random(402);
  for (const index_t k_len :
       {kernels::split_keys - 1, kernels::split_keys, kernels::split_keys + 1, 2 * kernels::split_keys + 1})
    for (const index_t q_len : {1, 2, 17}) {
      attention_problem<TestType> p(1, 3, 1, q_len, k_len, 16, 16);
      p.fill(random);
      require_close(attention::softmax{mask::causal{}}.starting_at(k_len - q_len), p);
    }
}

TEMPLATE_TEST_CASE("edges: whole heads and batch rows without keys, whatever lies in memory", "[attention][edge]",
                   float, float16, bfloat16) {
  random_numbers random(403);
  attention_problem<TestType> p(2, 3, 3, 70, 140, 16, 24);
  p.fill(random);
  const keys_of_head mask{{{140, 0, 33}, {0, 0, 0}}};
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 3; ++h)
      for (index_t j = mask.lengths[b][h]; j < 140; ++j) {
        for (index_t d = 0; d < 16; ++d) p.k(b, h, j, d) = TestType(j % 2 == 0 ? not_a_number : infinity);
        for (index_t d = 0; d < 24; ++d) p.v(b, h, j, d) = TestType(j % 2 == 0 ? -infinity : not_a_number);
      }
  const attention::softmax op{mask};
  for (const auto& r : {forward(op, p), decode(op, p)})
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 3; ++h)
        for (index_t i = 0; i < 70; ++i) {
          const bool sees = mask.lengths[b][h] > 0;
          bool right = sees ? std::isfinite(r.lse(b, h, i)) : r.lse(b, h, i) == -infinity;
          for (index_t d = 0; d < 24; ++d) {
            const auto x = static_cast<float>(r.out(b, h, i, d));
            right = right && std::isfinite(x) && (sees || x == 0.0f);
          }
          if (!right) {
            CAPTURE(b, h, i);
            REQUIRE(right);
          }
        }
  require_close(op, p);
}

TEMPLATE_TEST_CASE("edges: equal scores average, in every engine exactly where the numbers allow", "[attention][edge]",
                   float, float16, bfloat16) {
  attention_problem<TestType> p(1, 1, 1, 66, 256, 16, 8);
  p.q.fill(TestType(0.5f));
  p.k.fill(TestType(-1.0f));
  for (index_t j = 0; j < 256; ++j)
    for (index_t d = 0; d < 8; ++d) p.v(0, 0, j, d) = TestType(static_cast<float>(j % 16 - 8));  // mean -0.5
  for (const auto& r : {forward(attention::softmax{}, p), decode(attention::softmax{}, p)}) {
    for (const TestType x : r.out) REQUIRE(static_cast<float>(x) == Approx(-0.5f).epsilon(1e-6));
    for (const float x : r.lse) REQUIRE(x == Approx(std::log(256.0) - 2.0).epsilon(1e-6));
  }
}

TEMPLATE_TEST_CASE("edges: logits of 1e4 and -1e4", "[attention][edge]", float, float16, bfloat16) {
  attention_problem<TestType> p(1, 1, 1, 3, 300, 1, 2);
  p.k.fill(TestType(-100.0f));
  p.v.fill(TestType(9.0f));
  for (index_t i = 0; i < 3; ++i) p.q(0, 0, i, 0) = TestType(i == 0 ? 100.0f : i == 1 ? -100.0f : 0.0f);
  for (const index_t j : {7, 290}) {
    p.k(0, 0, j, 0) = TestType(100.0f);
    p.v(0, 0, j, 0) = TestType(j == 7 ? 1.0f : 2.0f);
  }
  for (const auto& r : {forward(attention::softmax{}, p), decode(attention::softmax{}, p)}) {
    REQUIRE(static_cast<float>(r.out(0, 0, 0, 0)) == 1.5f);  // two keys at 1e4, the others weigh nothing
    REQUIRE(static_cast<float>(r.out(0, 0, 0, 1)) == 9.0f);
    REQUIRE(r.lse(0, 0, 0) == Approx(1e4 + std::log(2.0)).epsilon(1e-6));
    // 298 keys at 1e4, the two weigh nothing. The rounding of 298 equal additions.
    REQUIRE(static_cast<float>(r.out(0, 0, 1, 0)) == Approx(9.0f).epsilon(298 * 0x1p-23));
    REQUIRE(r.lse(0, 0, 1) == Approx(1e4 + std::log(298.0)).epsilon(1e-6));
    REQUIRE(r.lse(0, 0, 2) == Approx(std::log(300.0)).epsilon(1e-6));
  }
  // All of a row at -1e4: the same average.
  for (index_t j = 0; j < 300; ++j) p.k(0, 0, j, 0) = TestType(-100.0f);
  for (const auto& r : {forward(attention::softmax{}, p), decode(attention::softmax{}, p)})
    REQUIRE(r.lse(0, 0, 0) == Approx(-1e4 + std::log(300.0)).epsilon(1e-6));
}

TEMPLATE_TEST_CASE("edges: logits of -inf weigh nothing; a row of nothing else is an empty row", "[attention][edge]",
                   float, float16, bfloat16) {
  random_numbers random(404);
  attention_problem<TestType> p(1, 2, 1, 40, 150, 16, 8);
  p.fill(random);
  require_close(attention::softmax{mask::full{}, forbids{3}}, p);
  require_close(attention::softmax{mask::causal{}, forbids{2}}.starting_at(30), p);
  const auto op = attention::softmax{mask::causal{}, forbids{1}}.starting_at(-1);
  for (const auto& r : {forward(op, p), decode(op, p)}) {
    for (const TestType x : r.out) REQUIRE(static_cast<float>(x) == 0.0f);
    for (const float x : r.lse) REQUIRE(x == -infinity);
  }
}

TEMPLATE_TEST_CASE("edges: a NaN stays in the rows that see it", "[attention][edge]", float, float16, bfloat16) {
  random_numbers random(405);
  const index_t q_len = 100, k_len = 150, bad = 77;
  attention_problem<TestType> p(1, 1, 1, q_len, k_len, 16, 16);
  p.fill(random);
  const auto check = [&](const auto& op) {
    const auto rows = attention::detail::in_rows(op, attention::detail::starts_of(op, q_len, k_len));
    const auto mask = mask::bind(rows.mask, 0, 0);
    const bool run_forward = GENERATE(true, false);
    const int where = GENERATE(0, 1, 2);
    const auto run = [&] { return run_forward ? forward(op, p) : decode(op, p); };
    const result<TestType> clean = run();
    (where == 0 ? p.q : where == 1 ? p.k : p.v)(0, 0, where == 0 ? 42 : bad, 3) = TestType(not_a_number);
    const result<TestType> r = run();
    for (index_t i = 0; i < q_len; ++i) {
      const bool hit = where == 0 ? i == 42 : mask(i, bad);
      bool right = std::isnan(static_cast<float>(r.out(0, 0, i, 3))) == hit;
      for (index_t d = 0; d < 16; ++d) {
        const auto x = static_cast<float>(r.out(0, 0, i, d)), y = static_cast<float>(clean.out(0, 0, i, d));
        if (!hit) right = right && std::abs(x - y) <= static_cast<float>(4 * test::rounding<TestType>) * 4;
        if (hit && where != 2) right = right && std::isnan(x);  // a value spoils its own channel only
      }
      if (!hit) right = right && std::abs(r.lse(0, 0, i) - clean.lse(0, 0, i)) <= 1e-5f;
      CAPTURE(run_forward, where, i, hit);
      if (!right) REQUIRE(right);
    }
    SUCCEED();
  };
  SECTION("causal") { check(attention::softmax{mask::causal{}}.starting_at(50)); }
  SECTION("a mask without runs") {
    check(attention::softmax{mask::where{[](index_t q, index_t k) { return (q + k) % 3 != 0; }}});
  }
}

TEST_CASE("edges: an output that overlaps an operand is refused and nothing is written", "[attention][errors]") {
  tensor<float, 1> memory(4096);
  memory.fill(3.0f);
  const auto at = [&](index_t begin) {
    return tensor_view<float, 4>(memory.data() + begin, 1, 2, 8, 16);
  };  // 256 numbers
  const auto lse_at = [&](index_t begin) {
    return tensor_view<float, 3>(memory.data() + begin, 1, 2, 8);
  };  // 16 numbers
  const attention::softmax op{};
  const auto refused = [&](index_t out, index_t lse, const char* text) {
    CAPTURE(out, lse);
    REQUIRE_THROWS_WITH(kernels::forward(cpu{}, op, at(0), at(256), at(512), at(out), lse_at(lse)),
                        ContainsSubstring(text));
    REQUIRE_THROWS_WITH(kernels::decode(cpu{}, op, at(0), at(256), at(512), at(out), lse_at(lse)),
                        ContainsSubstring(text));
    for (const float x : memory)
      if (x != 3.0f) REQUIRE(x == 3.0f);
  };
  refused(0, 2000, "out overlaps q");
  refused(255, 2000, "out overlaps q");
  refused(400, 2000, "out overlaps k");
  refused(767, 2000, "out overlaps v");
  refused(1024, 5, "lse overlaps q");
  refused(1024, 500, "lse overlaps k");
  refused(1024, 760, "lse overlaps v");
  refused(1024, 1279, "lse overlaps out");
  REQUIRE_NOTHROW(kernels::forward(cpu{}, op, at(0), at(256), at(512), at(768), lse_at(1024)));
}

TEST_CASE("edges: strides that do not fit are refused and nothing is written", "[attention][errors]") {
  attention_problem<float> p(1, 2, 2, 8, 8, 8, 8);
  tensor<float, 4> out(1, 2, 8, 8);
  out.fill(3.0f);
  const attention::softmax op{};
  const auto turned = [](auto& x) { return x.view().transposed(2, 3); };  // [1, 2, 8, 8] again, dims 8 apart
  const auto refused = [&](const auto& q, const auto& k, const auto& v, const auto& to, const char* text) {
    REQUIRE_THROWS_WITH(kernels::forward(cpu{}, op, q, k, v, to), ContainsSubstring(text));
    REQUIRE_THROWS_WITH(kernels::decode(cpu{}, op, q, k, v, to), ContainsSubstring(text));
    for (const float x : out) REQUIRE(x == 3.0f);
  };
  refused(turned(p.q), p.k, p.v, out.view(), "last axis of q must be contiguous, its stride is 8");
  refused(p.q, turned(p.k), p.v, out.view(), "last axis of k must be contiguous, its stride is 8");
  refused(p.q, p.k, turned(p.v), out.view(), "last axis of v must be contiguous, its stride is 8");
  refused(p.q, p.k, p.v, turned(out), "last axis of out must be contiguous, its stride is 8");
  // Rows of out that share numbers; inputs may share theirs.
  const tensor_view<float, 4> folded(out.data(), {1, 2, 8, 8}, {128, 64, 4, 1});
  refused(p.q, p.k, p.v, folded, "elements of out share memory: axis 2 steps by 4");
  const tensor_view<float, 4> same_keys(p.k.data(), {1, 2, 8, 8}, {0, 0, 0, 1});
  REQUIRE_NOTHROW(kernels::forward(cpu{}, op, p.q, same_keys, p.v, out));
}

TEST_CASE("edges: results may be stored backwards, along any axis but the last", "[attention][edge]") {
  random_numbers random(917);
  attention_problem<float> p(2, 4, 2, 9, 30, 8, 8);
  p.fill(random);
  // The same elements with batch, heads and len in the other direction.
  const auto backwards = []<int Rank>(tensor<float, Rank>& x) {
    tensor_view<float, Rank> view = x.view();
    for (int axis = 0; axis < 3; ++axis) {
      view.data += (view.extents[axis] - 1) * view.strides[axis];
      view.strides[axis] = -view.strides[axis];
    }
    return view;
  };
  const attention::softmax op{mask::causal{}};
  tensor<float, 4> out(2, 4, 9, 8), other = out, dout = out, dq(2, 4, 9, 8), dk(2, 2, 30, 8), dv = dk, dq2 = dq,
                                    dk2 = dk, dv2 = dv;
  tensor<float, 3> lse(2, 4, 9), other_lse = lse;
  random.fill(dout);
  const auto require_same = [&](const auto& a, const auto& b) {
    for (index_t n = 0; n < a.extent(0); ++n)
      for (index_t h = 0; h < a.extent(1); ++h)
        for (index_t i = 0; i < a.extent(2); ++i)
          for (index_t d = 0; d < a.extent(3); ++d) REQUIRE(a(n, h, i, d) == b(n, h, i, d));
  };
  kernels::forward(cpu{}, op, p.q, p.k, p.v, out, lse);
  kernels::forward(cpu{}, op, p.q, p.k, p.v, backwards(other), backwards(other_lse));
  require_same(out, backwards(other));
  kernels::backward(cpu{}, op, p.q, p.k, p.v, out, lse, dout, attention::gradients{}.dq(dq).dk(dk).dv(dv));
  kernels::backward(cpu{}, op, p.q, p.k, p.v, backwards(other), backwards(other_lse), dout,
                    attention::gradients{}.dq(backwards(dq2)).dk(backwards(dk2)).dv(backwards(dv2)));
  require_same(dq, backwards(dq2));
  require_same(dk, backwards(dk2));
  require_same(dv, backwards(dv2));
  kernels::decode(cpu{}, op, p.q, p.k, p.v, out, lse);
  kernels::decode(cpu{}, op, p.q, p.k, p.v, backwards(other), backwards(other_lse));
  require_same(out, backwards(other));
}

TEMPLATE_TEST_CASE("edges: tensors that cross 2^31 elements", "[attention][edge]", float, bfloat16) {
  // Views over reserved addresses: only the pages that hold a row exist.
  struct reserved {
    std::size_t bytes;
    void* memory;
    explicit reserved(index_t elements) : bytes(static_cast<std::size_t>(elements) * sizeof(TestType)) {
      memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (memory != MAP_FAILED) madvise(memory, bytes, MADV_NOHUGEPAGE);
    }
    ~reserved() {
      if (memory != MAP_FAILED) munmap(memory, bytes);
    }
    reserved(const reserved&) = delete;
    reserved& operator=(const reserved&) = delete;
  };
  const index_t heads = 2, q_len = 3, k_len = 5, dim = 24;
  // The heads lie behind the rows: 5 rows of 2^29 + 24 and 2 heads of 3 * 2^30 + 64 elements.
  const index_t row = (index_t{1} << 29) + 24, head = (index_t{3} << 30) + 64, elements = 2 * head;
  const reserved q_memory(elements), k_memory(elements), v_memory(elements), out_memory(elements);
  for (const reserved* each : {&q_memory, &k_memory, &v_memory, &out_memory})
    if (each->memory == MAP_FAILED) {
      WARN("the system reserves no " << each->bytes << " bytes of addresses");
      return;
    }
  random_numbers random(406);
  attention_problem<TestType> p(1, heads, heads, q_len, k_len, dim, dim);
  p.fill(random);
  const auto far = [&](const reserved& r, index_t len) {
    return tensor_view<TestType, 4>(static_cast<TestType*>(r.memory), {1, heads, len, dim}, {elements, head, row, 1});
  };
  const auto copy = [&](const tensor<TestType, 4>& from, const tensor_view<TestType, 4>& to) {
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < from.extent(2); ++i)
        for (index_t d = 0; d < dim; ++d) to(0, h, i, d) = from(0, h, i, d);
  };
  const auto q = far(q_memory, q_len), k = far(k_memory, k_len), v = far(v_memory, k_len), out = far(out_memory, q_len);
  REQUIRE(k.size() > 0);
  REQUIRE(&k(0, 1, 4, 0) - k.data > index_t{1} << 32);
  copy(p.q, q);
  copy(p.k, k);
  copy(p.v, v);
  const auto op = attention::softmax{mask::causal{}}.starting_at(2);
  const auto same = [&](const result<TestType>& expected) {
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < q_len; ++i)
        for (index_t d = 0; d < dim; ++d)
          REQUIRE(static_cast<float>(out(0, h, i, d)) == static_cast<float>(expected.out(0, h, i, d)));
  };
  kernels::forward(cpu{}, op, q, k, v, out);
  same(forward(op, p));
  kernels::decode(cpu{}, op, q, k, v, out);
  same(decode(op, p));
}

TEMPLATE_TEST_CASE("edges: every width of heads", "[attention][edge]", float, float16, bfloat16) {
  random_numbers random(407);
  const auto op = attention::softmax{mask::causal{}}.starting_at(3);
  const auto check = [&](index_t q_len, index_t k_len, index_t head_dim, index_t value_dim) {
    attention_problem<TestType> p(1, 2, 1, q_len, k_len, head_dim, value_dim);
    p.fill(random);
    require_close(op, p);
  };
  for (index_t dim = 8; dim <= 512; dim += 8) check(3, 5, dim, dim);
  for (const index_t dim : {1, 2, 3, 5, 7, 9, 15, 17, 31, 33, 63, 65, 127, 129, 255, 257, 511, 512})
    check(5, 19, dim, dim);
  for (const auto& [head_dim, value_dim] :
       {std::pair<index_t, index_t>{192, 128}, {128, 192}, {1, 512}, {512, 1}, {576, 512}, {40, 7}})
    check(67, 131, head_dim, value_dim);
}
