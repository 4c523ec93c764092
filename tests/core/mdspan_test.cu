// SPDX-License-Identifier: Apache-2.0
// The mdspan of the CUDA toolkit, which is there when std::mdspan is not.
#include <seqprim/core/mdspan.hpp>

#include <cuda/std/mdspan>

#include <support/catch.hpp>
#include <type_traits>

using namespace seqprim;

TEST_CASE("from_mdspan: takes cuda::std::mdspan in every strided layout", "[core]") {
  float data[24] = {};
  const cuda::std::mdspan<float, cuda::std::dextents<int, 2>> dense(data, 4, 6);
  const auto v = from_mdspan(dense);
  REQUIRE(v.contiguous());
  REQUIRE(&v(3, 5) == data + 23);

  const cuda::std::mdspan<float, cuda::std::dextents<int, 2>, cuda::std::layout_left> columns(data, 4, 6);
  REQUIRE(&from_mdspan(columns)(1, 2) == data + 9);

  using fixed = cuda::std::mdspan<const float, cuda::std::extents<int, cuda::std::dynamic_extent, 6>>;
  STATIC_REQUIRE(std::is_same_v<decltype(from_mdspan(fixed(data, 4))), tensor_view<const float, 2, 6>>);
}
