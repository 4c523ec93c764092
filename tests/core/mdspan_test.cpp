// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/mdspan.hpp>

#include <array>
#include <cstddef>
#include <support/catch.hpp>
#include <type_traits>

using namespace seqprim;

namespace {

// The interface of std::mdspan with layout_stride, for standard libraries that do not have it yet.
template <class T, std::size_t Rank, std::size_t Last = static_cast<std::size_t>(-1)> struct mdspan_stand_in {
  using element_type = T;
  using reference = T&;
  using index_type = std::size_t;
  static constexpr std::size_t rank() { return Rank; }
  static constexpr std::size_t static_extent(std::size_t axis) {
    return axis + 1 == Rank ? Last : static_cast<std::size_t>(-1);
  }
  std::size_t extent(std::size_t axis) const { return extents[axis]; }
  std::size_t stride(std::size_t axis) const { return strides[axis]; }
  T* const& data_handle() const { return data; }
  bool is_strided() const { return strided; }

  T* data;
  std::array<std::size_t, Rank> extents;
  std::array<std::size_t, Rank> strides;
  bool strided = true;
};

// An accessor that computes its values, like std::linalg::scaled.
struct computed : mdspan_stand_in<const float, 1> {
  using reference = float;
};

}  // namespace

TEST_CASE("from_mdspan: the view has the elements, extents and strides of the mdspan", "[core]") {
  float data[24] = {};
  const mdspan_stand_in<float, 2> m{data, {3, 4}, {1, 5}};
  const auto v = from_mdspan(m);
  STATIC_REQUIRE(std::is_same_v<decltype(v), const tensor_view<float, 2>>);
  for (index_t i = 0; i < 3; ++i)
    for (index_t j = 0; j < 4; ++j) REQUIRE(&v(i, j) == data + i + 5 * j);
}

TEST_CASE("from_mdspan: const elements and a static last extent stay what they are", "[core]") {
  const float data[128] = {};
  const mdspan_stand_in<const float, 2, 64> m{data, {2, 64}, {64, 1}};
  STATIC_REQUIRE(std::is_same_v<decltype(from_mdspan(m)), tensor_view<const float, 2, 64>>);
  REQUIRE(from_mdspan(m).contiguous());
}

TEST_CASE("from_mdspan: refuses layouts without strides and accessors without memory", "[core][errors]") {
  float data[4] = {};
  const mdspan_stand_in<float, 1> unstrided{data, {4}, {1}, false};
  REQUIRE_THROWS_WITH(from_mdspan(unstrided), "from_mdspan: the layout of the mdspan has no strides");
  const mdspan_stand_in<float, 1> null{nullptr, {4}, {1}};
  REQUIRE_THROWS_WITH(from_mdspan(null), "from_mdspan: the data pointer is null, but the array has 4 elements");
  STATIC_REQUIRE(mdspan_like<mdspan_stand_in<float, 1>>);
  STATIC_REQUIRE_FALSE(mdspan_like<computed>);
  STATIC_REQUIRE_FALSE(mdspan_like<tensor_view<float, 1>>);
}
