// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/index_array.hpp>
#include <seqprim/core/scratch.hpp>

#include <cstdint>
#include <support/catch.hpp>
#include <type_traits>
#include <vector>

using namespace seqprim;

TEST_CASE("index_array: reads 32 and 64 bit indices, strided views and containers", "[core]") {
  const std::vector<std::int32_t> narrow{4, -5, 6};
  const std::vector<std::int64_t> wide{7, index_t{1} << 40, 9};
  const index_array a(narrow), b(wide), c(narrow.data(), 2);
  REQUIRE((a.size() == 3 && a[1] == -5 && b[1] == index_t{1} << 40 && c.size() == 2 && c[1] == -5));
  const tensor_view<const std::int32_t, 1> every_other(narrow.data(), {2}, {2});
  const index_array d(every_other);
  REQUIRE((d.size() == 2 && d[1] == 6));
  REQUIRE(index_array{}.size() == 0);
  REQUIRE(a.host_readable());
  REQUIRE_FALSE(a.on_device().host_readable());
  REQUIRE(a.on_device()[2] == 6);
  STATIC_REQUIRE(std::is_trivially_copyable_v<index_array>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<index_array, std::vector<std::int32_t>&&>);  // would dangle
}

TEST_CASE("scratch: slabs are aligned, apart by whole cache lines and large enough", "[core]") {
  const scratch<float> s(3, 65);
  for (int thread = 0; thread < 3; ++thread) {
    REQUIRE(reinterpret_cast<std::uintptr_t>(s.slab(thread)) % 64 == 0);
    for (int i = 0; i < 65; ++i) s.slab(thread)[i] = static_cast<float>(thread);
  }
  for (int thread = 0; thread < 3; ++thread)
    for (int i = 0; i < 65; ++i) REQUIRE(s.slab(thread)[i] == static_cast<float>(thread));
  const scratch<double> empty(1, 0);
  REQUIRE(empty.slab(0) != nullptr);
}
