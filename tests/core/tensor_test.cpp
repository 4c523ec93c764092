// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/float16.hpp>
#include <seqprim/core/tensor.hpp>

#include <cstdint>
#include <support/catch.hpp>
#include <type_traits>

using namespace seqprim;

TEST_CASE("tensor: starts zeroed, dense and aligned to 64 bytes", "[core]") {
  const tensor<float, 3> t(2, 3, 5);
  REQUIRE(t.size() == 30);
  REQUIRE(t.view().contiguous());
  REQUIRE(reinterpret_cast<std::uintptr_t>(t.data()) % 64 == 0);
  for (const float x : t) REQUIRE(x == 0.0f);
  REQUIRE((t.extent(0) == 2 && t.extent(1) == 3 && t.extent(2) == 5));
}

TEST_CASE("tensor: a copy owns its own elements, a move takes them over", "[core]") {
  tensor<int, 2> a(2, 2);
  a(1, 0) = 7;
  tensor<int, 2> b = a;
  b(1, 0) = 8;
  REQUIRE((a(1, 0) == 7 && b(1, 0) == 8 && a.data() != b.data()));
  const int* address = b.data();
  tensor<int, 2> c = std::move(b);
  REQUIRE((c.data() == address && c(1, 0) == 8));
  REQUIRE(
      (b.data() == nullptr && b.size() == 0 && b.extent(0) == 0));  // NOLINT: the moved-from state is documented here
  a = c;
  REQUIRE((a(1, 0) == 8 && a.data() != c.data()));
  a = std::move(c);
  REQUIRE(a.data() == address);
  const auto& same = a;
  a = same;
  REQUIRE(a(1, 0) == 8);
  b = a;
  REQUIRE(b(1, 0) == 8);
}

TEST_CASE("tensor: empty and default tensors are usable", "[core]") {
  tensor<float16, 2> nothing;
  REQUIRE((nothing.size() == 0 && nothing.begin() == nothing.end()));
  const tensor<float16, 2> copy = nothing;
  REQUIRE(copy.size() == 0);
  tensor<float16, 2> zero(0, 5);
  REQUIRE((zero.size() == 0 && zero.data() != nullptr && zero.extent(1) == 5));
  zero.fill(float16(1.0f));
  const tensor<float16, 2> zero_copy = zero;
  REQUIRE((zero_copy.extent(1) == 5 && zero_copy.size() == 0));
}

TEST_CASE("tensor: views see the elements, const tensors give const views", "[core]") {
  tensor<float, 2> t(2, 3);
  t.view()(1, 2) = 4.0f;
  REQUIRE(t(1, 2) == 4.0f);
  const auto& constant = t;
  STATIC_REQUIRE(std::is_same_v<decltype(as_view(t)), tensor_view<float, 2>>);
  STATIC_REQUIRE(std::is_same_v<decltype(as_view(constant)), tensor_view<const float, 2>>);
  STATIC_REQUIRE(viewable<tensor<float, 2>, 2>);
  STATIC_REQUIRE(std::is_same_v<element_of<const tensor<float, 2>>, float>);
  REQUIRE(may_overlap(t, constant));
  REQUIRE_FALSE(may_overlap(t, tensor<float, 2>(2, 3)));
}

TEST_CASE("tensor: refuses negative extents and sizes past 2^63 - 1 bytes", "[core][errors]") {
  REQUIRE_THROWS_WITH((tensor<float, 2>(3, -1)), "tensor: an extent (-1) is negative");
  REQUIRE_THROWS_WITH((tensor<float, 2>(0, -1)), "tensor: an extent (-1) is negative");
  constexpr index_t huge = index_t{1} << 40;
  REQUIRE_THROWS_AS((tensor<float, 3>(huge, huge, huge)), precondition_error);
  REQUIRE_THROWS_AS((tensor<float, 2>(index_t{1} << 31, index_t{1} << 30)), precondition_error);  // 2^63 bytes
  const tensor<float, 3> none(huge, huge, 0);
  REQUIRE(none.size() == 0);
}
