// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor_view.hpp>

#include <cstdint>
#include <support/catch.hpp>
#include <type_traits>
#include <vector>

using namespace seqprim;

namespace {
std::vector<int> counting(int n) {
  std::vector<int> values(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) values[static_cast<std::size_t>(i)] = i;
  return values;
}
}  // namespace

TEST_CASE("tensor_view: a dense view is row-major", "[core]") {
  auto data = counting(2 * 3 * 4);
  const tensor_view<int, 3> v(data.data(), 2, 3, 4);
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 3; ++j)
      for (int k = 0; k < 4; ++k) REQUIRE(v(i, j, k) == (i * 3 + j) * 4 + k);
  REQUIRE(v.size() == 24);
  REQUIRE(v.contiguous());
  REQUIRE((v.extent(0) == 2 && v.extent(1) == 3 && v.extent(2) == 4));
  REQUIRE((v.stride(0) == 12 && v.stride(1) == 4 && v.stride(2) == 1));
  v(1, 2, 3) = -1;
  REQUIRE(data.back() == -1);
}

TEST_CASE("tensor_view: indexing, slices and transposes name the same elements", "[core][property]") {
  auto data = counting(3 * 5 * 7);
  const tensor_view<int, 3> v(data.data(), 3, 5, 7);
  const auto t = v.transposed(0, 2);
  const auto s = v.slice(1, {1, 4});
  const auto st = v.slice(2, {2, 6}).transposed(1, 2);
  REQUIRE((t.extent(0) == 7 && t.extent(2) == 3 && s.extent(1) == 3 && st.extent(1) == 4));
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 5; ++j)
      for (int k = 0; k < 7; ++k) {
        REQUIRE(&t(k, j, i) == &v(i, j, k));
        REQUIRE(&v[i](j, k) == &v(i, j, k));
        REQUIRE(&v[i][j](k) == &v(i, j, k));
        if (j >= 1 && j < 4) REQUIRE(&s(i, j - 1, k) == &v(i, j, k));
        if (k >= 2 && k < 6) REQUIRE(&st(i, k - 2, j) == &v(i, j, k));
      }
  REQUIRE_FALSE(t.contiguous());
  REQUIRE_FALSE(s.contiguous());
  REQUIRE(v.slice(0, {1, 3}).contiguous());
  REQUIRE(t.transposed(0, 2).contiguous());
}

TEST_CASE("tensor_view: strides may be zero or negative", "[core]") {
  auto data = counting(4);
  const tensor_view<int, 2> broadcast(data.data(), {3, 4}, {0, 1});
  REQUIRE(broadcast(2, 1) == 1);
  REQUIRE_FALSE(broadcast.contiguous());
  const tensor_view<int, 1> reversed(data.data() + 3, {4}, {-1});
  for (int i = 0; i < 4; ++i) REQUIRE(reversed(i) == 3 - i);
}

TEST_CASE("tensor_view: extents of one are contiguous whatever their stride", "[core]") {
  int x = 0;
  REQUIRE(tensor_view<int, 3>(&x, {1, 1, 1}, {77, -3, 9}).contiguous());
  REQUIRE_FALSE(tensor_view<int, 1>(&x, {2}, {2}).contiguous());
}

TEST_CASE("tensor_view: a view without elements has size zero, is contiguous and overlaps nothing", "[core]") {
  auto data = counting(12);
  const tensor_view<int, 2> v(data.data(), 3, 4);
  const auto none = v.slice(1, {2, 2});
  REQUIRE(none.size() == 0);
  REQUIRE(none.contiguous());
  REQUIRE_FALSE(may_overlap(none, v));
  REQUIRE_FALSE(may_overlap(v, none));
  REQUIRE_FALSE(may_overlap(tensor_view<int, 2>{}, tensor_view<int, 2>{}));
  constexpr index_t huge = index_t{1} << 40;
  REQUIRE(tensor_view<int, 3>(nullptr, huge, huge, 0).size() == 0);  // no overflow on the way to zero
  REQUIRE(tensor_view<int, 3>(nullptr, 0, huge, huge).size() == 0);
}

TEST_CASE("tensor_view: a static last extent is known at compile time and must be what it says", "[core]") {
  auto data = counting(12);
  const tensor_view<int, 2, 4> fixed(data.data(), 3, 4);
  STATIC_REQUIRE(decltype(fixed)::last_extent == 4);
  STATIC_REQUIRE(decltype(fixed[0])::last_extent == 4);
  REQUIRE((fixed.extent(1) == 4 && fixed.extent(0) == 3));
  const tensor_view<int, 2> dynamic = fixed;
  REQUIRE(&dynamic(2, 3) == &fixed(2, 3));
  const auto cut = fixed.slice(1, {1, 3});
  REQUIRE((cut.extent(1) == 2 && cut(0, 0) == 1));
  REQUIRE_THROWS_WITH((tensor_view<int, 2, 4>(data.data(), 4, 3)),
                      "tensor_view: the last extent (3) must be the one of its type (4)");
  REQUIRE_THROWS_AS((tensor_view<int, 1, 4>(data.data(), {3}, {1})), precondition_error);
}

TEST_CASE("tensor_view: conversions add const or forget a static extent, and do nothing else", "[core]") {
  using mutable_view = tensor_view<float, 2>;
  using const_view = tensor_view<const float, 2>;
  using fixed_view = tensor_view<float, 2, 64>;
  using const_fixed_view = tensor_view<const float, 2, 64>;
  STATIC_REQUIRE(std::is_convertible_v<mutable_view, const_view>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<mutable_view, const_view>);
  STATIC_REQUIRE(std::is_convertible_v<fixed_view, mutable_view>);
  STATIC_REQUIRE(std::is_convertible_v<fixed_view, const_fixed_view>);
  STATIC_REQUIRE(std::is_convertible_v<fixed_view, const_view>);
  STATIC_REQUIRE(std::is_convertible_v<const_fixed_view, const_view>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<fixed_view, mutable_view>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<fixed_view, tensor_view<float, 2, 32>>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<tensor_view<float, 3>, mutable_view>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<tensor_view<int, 2>, mutable_view>);
  STATIC_REQUIRE(std::is_trivially_copyable_v<mutable_view>);
  STATIC_REQUIRE(viewable<fixed_view, 2>);
  STATIC_REQUIRE_FALSE(viewable<fixed_view, 3>);
  STATIC_REQUIRE_FALSE(viewable<int, 1>);
  STATIC_REQUIRE(std::is_same_v<element_of<const_view>, float>);
}

TEST_CASE("may_overlap: tells apart ranges of one buffer", "[core]") {
  auto data = counting(30);
  const tensor_view<int, 1> all(data.data(), 30);
  REQUIRE(may_overlap(all, all));
  REQUIRE(may_overlap(all.slice(0, {0, 10}), all.slice(0, {9, 12})));
  REQUIRE_FALSE(may_overlap(all.slice(0, {0, 10}), all.slice(0, {10, 20})));
  const tensor_view<int, 1> reversed(data.data() + 19, {10}, {-1});  // elements 10 .. 19
  REQUIRE_FALSE(may_overlap(reversed, all.slice(0, {0, 10})));
  REQUIRE(may_overlap(reversed, all.slice(0, {10, 11})));
  REQUIRE_FALSE(may_overlap(reversed, all.slice(0, {20, 30})));
  const tensor_view<int, 1> even(data.data(), {15}, {2}), odd(data.data() + 1, {15}, {2});
  REQUIRE_FALSE(may_overlap(even, odd));
  REQUIRE(may_overlap(even, all.slice(0, {28, 30})));
  const tensor_view<const char, 1> bytes(reinterpret_cast<const char*>(data.data()) + 7, 1);
  REQUIRE(may_overlap(bytes, all.slice(0, {1, 2})));
  REQUIRE_FALSE(may_overlap(bytes, all.slice(0, {2, 3})));
}

TEST_CASE("may_overlap: is never false when two views share an element, and true for dense views only then",
          "[core][property]") {
  std::int16_t data[64] = {};
  std::uint64_t state = 1;
  const auto random = [&](index_t low, index_t high) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return low + static_cast<index_t>((state >> 33) % static_cast<std::uint64_t>(high - low + 1));
  };
  const auto view = [&] {
    return tensor_view<std::int16_t, 2>(data + random(20, 40), {random(0, 4), random(0, 4)},
                                        {random(-4, 4), random(-2, 3)});
  };
  const auto share = [](const auto& a, const auto& b) {
    for (index_t i = 0; i < a.extent(0); ++i)
      for (index_t j = 0; j < a.extent(1); ++j)
        for (index_t k = 0; k < b.extent(0); ++k)
          for (index_t l = 0; l < b.extent(1); ++l)
            if (&a(i, j) == &b(k, l)) return true;
    return false;
  };
  int told_apart = 0;
  for (int round = 0; round < 30000; ++round) {
    const auto a = view(), b = view();
    const bool shared = share(a, b), claimed = may_overlap(a, b);
    if (shared && !claimed) {
      CAPTURE(round);
      REQUIRE(claimed);
    }
    told_apart += !claimed;
    const auto dense = tensor_view<std::int16_t, 2>(data + random(0, 30), random(0, 4), random(0, 4));
    const auto other = tensor_view<std::int16_t, 2>(data + random(0, 30), random(0, 4), random(0, 4));
    if (may_overlap(dense, other) != share(dense, other)) {
      CAPTURE(round);
      REQUIRE(may_overlap(dense, other) == share(dense, other));
    }
  }
  REQUIRE(told_apart > 1000);
}
