// SPDX-License-Identifier: Apache-2.0
// The position part of an operator: any encoding, inside forward and backward.
#include <seqprim/attention/append.hpp>
#include <seqprim/attention/backward.hpp>
#include <seqprim/attention/decode.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/attention/reference.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/mask/sliding_window.hpp>
#include <seqprim/position/position.hpp>

#include <array>
#include <attention/problem.hpp>
#include <cmath>
#include <cstdint>
#include <position/encodings.hpp>
#include <support/catch.hpp>
#include <vector>

using namespace seqprim;
using position::side;
using test::attention_problem;
using test::random_numbers;

namespace {

const attention::softmax plain{mask::causal{}};

/// Places of tokens on a plane.
tensor<double, 2> plane(index_t len) {
  tensor<double, 2> result(len, 2);
  for (index_t i = 0; i < len; ++i) {
    result(i, 0) = static_cast<double>(i / 5);
    result(i, 1) = 0.5 * static_cast<double>(i % 5);
  }
  return result;
}

template <class E, class Q, class K, class T>
tensor<T, 4> encoded(const position::placed<E, Q, K>& at, side which, const tensor<T, 4>& x) {
  tensor<T, 4> y(x.extent(0), x.extent(1), x.extent(2), position::encoded_dim(at.encoding, x.extent(3)));
  if (which == side::query) {
    position::encode(cpu{}, at.encoding, at.queries, which, x, y);
  } else {
    position::encode(cpu{}, at.encoding, at.keys, which, x, y);
  }
  return y;
}

/// forward with positions is forward of encoded operands of the same type, bit for bit.
template <class T, class Position> void check_forward(const Position& at, index_t kv_heads, index_t dim) {
  random_numbers random(61);
  attention_problem<T> p(2, 4, kv_heads, 70, 70, dim, 24);
  p.fill(random);
  tensor<T, 4> out(2, 4, 70, 24), expected(2, 4, 70, 24);
  tensor<float, 3> lse(2, 4, 70), expected_lse(2, 4, 70);
  attention::forward(cpu{}, attention::softmax{mask::causal{}, score::identity{}, at}, p.q, p.k, p.v, out, lse);
  const auto q = encoded(at, side::query, p.q), k = encoded(at, side::key, p.k);
  attention::forward(cpu{}, plain.scaled(static_cast<float>(plain.scale_for(dim))), q, k, p.v, expected, expected_lse);
  for (index_t i = 0; i < out.size(); ++i)
    REQUIRE(static_cast<float>(out.data()[i]) == static_cast<float>(expected.data()[i]));
  for (index_t i = 0; i < lse.size(); ++i) REQUIRE(lse.data()[i] == expected_lse.data()[i]);
}

/// All gradients against central differences, in double.
template <class Position> void check_backward(const Position& at, index_t heads, index_t kv_heads, index_t dim) {
  random_numbers random(62);
  const index_t len = 5;
  attention_problem<double> p(1, heads, kv_heads, len, len, dim, 3);
  p.fill(random);
  tensor<double, 4> weight(1, heads, len, 3), out(1, heads, len, 3);
  tensor<double, 4> dq(1, heads, len, dim), dk(1, kv_heads, len, dim), dv(1, kv_heads, len, 3);
  tensor<double, 3> lse(1, heads, len);
  random.fill(weight);
  const attention::softmax op{mask::causal{}, score::identity{}, at};
  attention::forward(cpu{}, op, p.q, p.k, p.v, out, lse);
  attention::backward(cpu{}, op, p.q, p.k, p.v, out, lse, weight, attention::gradients{}.dq(dq).dk(dk).dv(dv));
  const auto objective = [&] {
    attention::forward(cpu{}, op, p.q, p.k, p.v, out);
    double sum = 0;
    for (index_t i = 0; i < out.size(); ++i) sum += out.data()[i] * weight.data()[i];
    return sum;
  };
  const auto compare = [&](tensor<double, 4>& x, const tensor<double, 4>& gradient) {
    for (index_t i = 0; i < x.size(); ++i) {
      const double kept = x.data()[i], step = 1e-5;
      x.data()[i] = kept + step;
      const double above = objective();
      x.data()[i] = kept - step;
      const double below = objective();
      x.data()[i] = kept;
      REQUIRE(gradient.data()[i] == Approx((above - below) / (2 * step)).margin(1e-8));
    }
  };
  compare(p.q, dq);
  compare(p.k, dk);
  compare(p.v, dv);
}

}  // namespace

TEMPLATE_TEST_CASE("encoded: forward with positions is forward of encoded operands of the same type, bit for bit",
                   "[attention][property]", float, bfloat16, float16) {
  const position::rotary<position::half_split> rope{};
  check_forward<TestType>(position::placed{rope, position::sequential{}, position::sequential{}}, 2, 32);
  check_forward<TestType>(position::placed{rope, position::sequential{.start = 7}, position::sequential{}}, 4, 32);
  const test::xpos sided{.head_dim = 32};
  check_forward<TestType>(position::placed{sided, position::sequential{}, position::sequential{}}, 1, 32);
  // Frequencies of its own for each head, points, and twice the width.
  tensor<float, 2> theta(4, 16);
  random_numbers random(63);
  random.fill(theta);
  const auto places = plane(70);
  const position::coordinates<2> map{.values = places.view()};
  check_forward<TestType>(position::placed{test::cosine_lrpe<2>{.theta = theta.view()}, map, map}, 4, 32);
}

TEST_CASE("encoded: backward agrees with central differences for any encoding, in double", "[attention][property]") {
  tensor<float, 2> theta(2, 3);
  random_numbers random(64);
  random.fill(theta);
  const auto places = plane(5);
  const position::coordinates<2> map{.values = places.view()};
  check_backward(position::placed{test::cosine_lrpe<2>{.theta = theta.view()}, map, map}, 2, 2, 6);
  check_backward(position::placed{test::xpos{.head_dim = 6, .scale_base = 8}, position::sequential{.start = 1},
                                  position::sequential{}},
                 2, 1, 6);
  check_backward(position::rotary<position::interleaved>{.attention_factor = 1.5f}, 2, 1, 4);
}

TEST_CASE("encoded: gradients of a wider encoding do not depend on the number of threads", "[attention]") {
  random_numbers random(65);
  tensor<float, 2> theta(3, 8);
  random.fill(theta);
  attention_problem<float> p(2, 3, 3, 150, 150, 16, 8);
  p.fill(random);
  const auto places = plane(150);
  const position::coordinates<2> map{.values = places.view()};
  const attention::softmax op{mask::causal{}, score::identity{},
                              position::placed{test::cosine_lrpe<2>{.theta = theta.view()}, map, map}};
  tensor<float, 4> out(2, 3, 150, 8), dout(2, 3, 150, 8);
  tensor<float, 3> lse(2, 3, 150);
  random.fill(dout);
  attention::forward(cpu{}, op, p.q, p.k, p.v, out, lse);
  const auto gradients = [&](int threads) {
    tensor<float, 4> dq(2, 3, 150, 16), dk(2, 3, 150, 16), dv(2, 3, 150, 8);
    attention::backward(cpu{.threads = threads}, op, p.q, p.k, p.v, out, lse, dout,
                        attention::gradients{}.dq(dq).dk(dk).dv(dv));
    return std::pair{dq, dk};
  };
  const auto [dq, dk] = gradients(1);
  const auto [dq_of_4, dk_of_4] = gradients(4);
  for (index_t i = 0; i < dq.size(); ++i) REQUIRE(dq.data()[i] == dq_of_4.data()[i]);
  for (index_t i = 0; i < dk.size(); ++i) REQUIRE(dk.data()[i] == dk_of_4.data()[i]);
}

TEST_CASE("encoded: what does not fit is rejected before anything is written", "[attention][errors]") {
  attention_problem<float> p(1, 4, 2, 6, 6, 16, 8);
  tensor<float, 4> out(1, 4, 6, 8);
  out.fill(7.0f);
  const tensor<float, 2> theta(4, 8);
  const auto places = plane(6);
  const position::coordinates<2> map{.values = places.view()};
  const attention::softmax by_head{mask::causal{}, score::identity{},
                                   position::placed{test::cosine_lrpe<2>{.theta = theta.view()}, map, map}};
  REQUIRE_THROWS_WITH(attention::forward(cpu{}, by_head, p.q, p.k, p.v, out),
                      ContainsSubstring("as many key heads (2) as heads (4)"));
  const attention::softmax odd{mask::causal{}, score::identity{}, position::rotary<position::half_split>{.begin = 3}};
  REQUIRE_THROWS_WITH(attention::forward(cpu{}, odd, p.q, p.k, p.v, out), ContainsSubstring("rotary_dim (13)"));
  for (const float x : out) REQUIRE(x == 7.0f);
}

namespace {

/// A cache of 90 tokens, filled in pieces by an operator, and the last 3 queries.
template <class T> struct session {
  static constexpr index_t heads = 4, kv_heads = 2, len = 90, count = 3;
  attention_problem<T> p;
  tensor<T, 4> keys, values;

  explicit session(index_t dim, index_t cached_dim)
      : p(2, heads, kv_heads, count, len, dim, 24), keys(2, kv_heads, len, cached_dim), values(2, kv_heads, len, 24) {
    random_numbers random(71);
    p.fill(random);
  }
  template <class Op> void fill(const Op& op) {
    for (const auto& [begin, end] : {std::pair<index_t, index_t>{0, 70}, {70, 71}, {71, len}})
      attention::append(cpu{}, op, p.k.view().slice(2, {begin, end}), p.v.view().slice(2, {begin, end}), begin, keys,
                        values);
  }
};

template <class T> bool same(const tensor<T, 4>& a, const tensor<T, 4>& b) {
  for (index_t i = 0; i < a.size(); ++i)
    if (static_cast<float>(a.data()[i]) != static_cast<float>(b.data()[i])) return false;
  return a.size() == b.size();
}

}  // namespace

TEMPLATE_TEST_CASE("encoded: keys that stay unencoded in a cache give the bits of keys that were encoded when appended",
                   "[attention][property]", float, bfloat16, float16) {
  using T = TestType;
  const position::rotary<position::half_split> rope;
  const auto check = [&](const auto& mask, const auto& part, const auto& unfixed) {
    const attention::softmax cached{mask, score::identity{}, part};
    const attention::softmax on_read{mask, score::identity{}, unfixed};
    session<T> a(32, 32), b(32, 32);
    a.fill(cached);
    b.fill(on_read);
    REQUIRE(same(b.keys, b.p.k));
    tensor<T, 4> expected(2, 4, 3, 24), out(2, 4, 3, 24);
    tensor<float, 3> expected_lse(2, 4, 3), lse(2, 4, 3);
    attention::decode(cpu{}, cached, a.p.q, a.keys, a.values, expected, expected_lse);
    attention::decode(cpu{.threads = 3}, on_read, b.p.q, b.keys, b.values, out, lse);
    REQUIRE(same(out, expected));
    for (index_t i = 0; i < lse.size(); ++i) REQUIRE(lse.data()[i] == expected_lse.data()[i]);

    // The same tokens on pages of 16.
    const index_t page = 16, pages = 12;
    tensor<T, 4> k_pages(pages, 2, page, 32), v_pages(pages, 2, page, 24);
    tensor<std::int32_t, 2> table(2, 6);
    for (index_t n = 0; n < pages; ++n) table.data()[n] = static_cast<std::int32_t>(pages - 1 - n);
    const std::array<std::int32_t, 2> lengths = {90, 90};
    const attention::page_table where{table.view(), lengths};
    attention::append(cpu{}, on_read, b.p.k, b.p.v, attention::paged{k_pages.view(), where},
                      attention::paged{v_pages.view(), where});
    attention::decode(cpu{}, on_read, b.p.q, attention::paged{k_pages.view(), where},
                      attention::paged{v_pages.view(), where}, out);
    REQUIRE(same(out, expected));
  };
  check(mask::causal{}, rope, position::on_read{rope});
  check(mask::causal_window(20), rope, position::on_read{rope});
  tensor<index_t, 2> ids(2, 90);
  for (index_t i = 0; i < 90; ++i) {
    ids(0, i) = 2 * i;
    ids(1, i) = 100 - i;
  }
  const position::token_ids_per_batch map{.ids = ids.view()};
  check(mask::causal{}, position::placed{rope, map, map}, position::placed{position::on_read{rope}, map, map});
}

TEST_CASE("encoded: keys of int8 caches are encoded when they are read", "[attention]") {
  const position::rotary<position::half_split> rope;
  const attention::softmax on_read{mask::causal{}, score::identity{}, position::on_read{rope}};
  session<float> s(32, 32);
  tensor<std::int8_t, 4> k_values(2, 2, 90, 32), v_values(2, 2, 90, 24);
  tensor<float, 4> k_scales(2, 2, 90, 1), v_scales(2, 2, 90, 1);
  const attention::quantized keys{k_values, k_scales}, values{v_values, v_scales};
  attention::append(cpu{}, on_read, s.p.k, s.p.v, 0, keys, values);
  tensor<float, 4> k(2, 2, 90, 32), v(2, 2, 90, 24), out(2, 4, 3, 24), expected(2, 4, 3, 24);
  for (index_t b = 0; b < 2; ++b)
    for (index_t g = 0; g < 2; ++g)
      for (index_t j = 0; j < 90; ++j) {
        for (index_t d = 0; d < 32; ++d) k(b, g, j, d) = keys(b, g, j, d);
        for (index_t d = 0; d < 24; ++d) v(b, g, j, d) = values(b, g, j, d);
      }
  attention::decode(cpu{}, on_read, s.p.q, keys, values, out);
  attention::forward(cpu{}, on_read, s.p.q, k, v, expected);
  for (index_t i = 0; i < out.size(); ++i) REQUIRE(std::fabs(out.data()[i] - expected.data()[i]) <= 2e-6f);
}

TEST_CASE("encoded: caches hold keys in the width of the encoding", "[attention]") {
  tensor<float, 2> theta(2, 16);
  random_numbers random(72);
  random.fill(theta, 0.3f);
  const auto places = plane(90);
  const position::coordinates<2> map{.values = places.view()};
  attention_problem<float> p(2, 2, 2, 3, 90, 32, 24);
  p.fill(random);
  const auto check = [&](const auto& part, index_t cached_dim) {
    const attention::softmax op{mask::causal{}, score::identity{}, part};
    tensor<float, 4> keys(2, 2, 90, cached_dim), values(2, 2, 90, 24), out(2, 2, 3, 24), expected(2, 2, 3, 24);
    attention::append(cpu{}, op, p.k, p.v, 0, keys, values);
    attention::decode(cpu{}, op, p.q, keys, values, out);
    attention::forward(cpu{}, op, p.q, p.k, p.v, expected);
    for (index_t i = 0; i < out.size(); ++i) REQUIRE(std::fabs(out.data()[i] - expected.data()[i]) <= 2e-6f);
  };
  const test::cosine_lrpe<2> e{.theta = theta.view()};
  check(position::placed{e, map, map}, 64);
  check(position::placed{position::on_read{e}, map, map}, 32);
}

namespace {
struct growing_base : position::rotary<position::half_split> {
  static constexpr bool keys_may_be_cached() { return false; }
  [[nodiscard]] constexpr growing_base for_head_dim(index_t dim) const { return {rotary::for_head_dim(dim)}; }
};
}  // namespace

TEST_CASE("encoded: keys appended in pieces are those appended at once, with maps of tokens too",
          "[attention][property]") {
  const index_t len = 12;
  test::random_numbers random(418);
  tensor<float, 4> k(2, 2, len, 16), v(2, 2, len, 16);
  random.fill(k);
  random.fill(v);
  std::vector<index_t> same_ids(len);
  tensor<index_t, 2> ids(2, len);
  for (index_t i = 0; i < len; ++i) {
    same_ids[static_cast<std::size_t>(i)] = 3 * i;
    ids(0, i) = i;
    ids(1, i) = 40 - i;
  }
  const auto check = [&](const auto& part) {
    const attention::softmax op{mask::causal{}, score::identity{}, part};
    tensor<float, 4> whole(2, 2, len, 16), pieces(2, 2, len, 16), values(2, 2, len, 16), pages(6, 2, 4, 16),
        v_pages = pages;
    attention::append(cpu{}, op, k, v, 0, whole, values);
    const std::array<std::int32_t, 6> entries = {5, 0, 3, 1, 4, 2};
    const tensor_view<const std::int32_t, 2> table(entries.data(), 2, 3);
    for (const range part_of : {range{0, 5}, range{5, 6}, range{6, len}}) {
      const auto new_k = k.view().slice(2, part_of), new_v = v.view().slice(2, part_of);
      attention::append(cpu{}, op, new_k, new_v, part_of.begin, pieces, values);
      const std::array<index_t, 2> lengths = {part_of.end, part_of.end};
      const attention::page_table where{table, lengths};
      attention::append(cpu{}, op, new_k, new_v, attention::paged{pages.view(), where},
                        attention::paged{v_pages.view(), where});
    }
    REQUIRE(same(pieces, whole));
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 2; ++h)
        for (index_t i = 0; i < len; ++i)
          for (index_t d = 0; d < 16; ++d) REQUIRE(pages(table(b, i / 4), h, i % 4, d) == whole(b, h, i, d));
  };
  const position::rotary<position::half_split> rope;
  check(rope);
  const position::token_ids for_all{same_ids};
  check(position::placed{rope, for_all, for_all});
  const position::token_ids_per_batch by_row{.ids = ids.view()};
  check(position::placed{rope, by_row, by_row});
}

TEST_CASE("encoded: encoded keys that would change as the sequence grows are kept out of caches",
          "[attention][errors]") {
  session<float> s(32, 32);
  const attention::softmax op{mask::causal{}, score::identity{}, growing_base{}};
  REQUIRE_THROWS_WITH(attention::append(cpu{}, op, s.p.k, s.p.v, 0, s.keys, s.values),
                      ContainsSubstring("wrap it in position::on_read"));
  tensor<float, 4> out(2, 4, 3, 24);
  REQUIRE_THROWS_WITH(attention::decode(cpu{}, op, s.p.q, s.keys, s.values, out),
                      ContainsSubstring("wrap it in position::on_read"));
  const attention::softmax on_read{mask::causal{}, score::identity{}, position::on_read{growing_base{}}};
  REQUIRE_NOTHROW(attention::append(cpu{}, on_read, s.p.k, s.p.v, 0, s.keys, s.values));
  REQUIRE_NOTHROW(attention::decode(cpu{}, on_read, s.p.q, s.keys, s.values, out));
  const attention::softmax wide{mask::causal{}, score::identity{}, position::rotary<position::half_split>{}};
  tensor<float, 4> narrow(2, 2, 90, 30);
  REQUIRE_THROWS_WITH(attention::append(cpu{}, wide, s.p.k, s.p.v, 0, narrow, s.values),
                      ContainsSubstring("k_cache has head_dim 30 (axis 3), but k_new has head_dim 32"));
}
