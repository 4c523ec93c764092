// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/raw.hpp>

#include <limits>
#include <support/catch.hpp>

using namespace seqprim;

namespace {
constexpr index_t largest = std::numeric_limits<index_t>::max();
}

TEST_CASE("from_raw: a dense array and a strided one name the elements they should", "[core]") {
  float data[24] = {};
  const auto dense = from_raw(data, {2, 3, 4});
  STATIC_REQUIRE(std::is_same_v<decltype(dense), const tensor_view<float, 3>>);
  REQUIRE((dense.contiguous() && &dense(1, 2, 3) == data + 23));
  const auto strided = from_raw(data, {4, 3}, {1, 8});
  REQUIRE(&strided(3, 2) == data + 19);
  const auto backwards = from_raw(data + 23, {24}, {-1});
  REQUIRE(&backwards(23) == data);
  const float* constant = data;
  STATIC_REQUIRE(std::is_same_v<decltype(from_raw(constant, {24})), tensor_view<const float, 1>>);
}

TEST_CASE("from_raw: an array without elements needs no memory", "[core]") {
  float* nothing = nullptr;
  REQUIRE(from_raw(nothing, {3, 0}).size() == 0);
  REQUIRE(from_raw(nothing, {largest, 0, largest}).size() == 0);
  REQUIRE(from_raw(nothing, {0}, {largest}).size() == 0);
}

TEST_CASE("from_raw: refuses what cannot be an array", "[core][errors]") {
  alignas(8) float data[8] = {};
  float* nothing = nullptr;
  REQUIRE_THROWS_WITH(from_raw(data, {2, -3}), "from_raw: extent 1 (-3) is negative");
  REQUIRE_THROWS_WITH(from_raw(nothing, {2, 3}), "from_raw: the data pointer is null, but the array has 6 elements");
  REQUIRE_THROWS_WITH(from_raw(data, {index_t{1} << 32, index_t{1} << 32}),
                      "from_raw: extents and strides reach further than 2^63 - 1 bytes");
  REQUIRE_THROWS_AS(from_raw(data, {index_t{1} << 61}), precondition_error);  // 2^63 bytes
  REQUIRE_THROWS_AS(from_raw(data, {3}, {largest}), precondition_error);
  REQUIRE_THROWS_AS(from_raw(data, {2, 2}, {largest, -largest}), precondition_error);
  REQUIRE_THROWS_AS(from_raw(data, {largest, 3}, {0, 0}), precondition_error);
  auto* odd = reinterpret_cast<float*>(reinterpret_cast<char*>(data) + 2);
  REQUIRE_THROWS_WITH(from_raw(odd, {1}),
                      "from_raw: the data pointer must be aligned to the 4 bytes of its element type");
}

TEST_CASE("from_buffer: accepts exactly the arrays whose elements lie in the buffer", "[core][property]") {
  int data[12] = {};
  for (index_t rows = 0; rows <= 3; ++rows)
    for (index_t columns = 0; columns <= 4; ++columns)
      for (index_t row_step = -5; row_step <= 5; ++row_step)
        for (index_t column_step = -2; column_step <= 2; ++column_step)
          for (index_t offset = 0; offset <= 12; ++offset) {
            bool inside = true;
            for (index_t i = 0; i < rows; ++i)
              for (index_t j = 0; j < columns; ++j) {
                const index_t at = offset + i * row_step + j * column_step;
                inside = inside && 0 <= at && at < 12;
              }
            bool accepted = true;
            try {
              const auto view = from_buffer(data, 12, {rows, columns}, {row_step, column_step}, offset);
              if (view.size() > 0) accepted = &view(0, 0) == data + offset;
            } catch (const precondition_error&) {
              accepted = false;
            }
            if (accepted != inside) {
              CAPTURE(rows, columns, row_step, column_step, offset);
              REQUIRE(accepted == inside);
            }
          }
  REQUIRE(from_buffer(data, 12, {3, 4}).contiguous());
  REQUIRE_THROWS_WITH(
      from_buffer(data, 12, {13}),
      "from_buffer: the elements reach from 0 to 12 around offset 0, outside the buffer of 12 elements");
  REQUIRE_THROWS_AS(from_buffer(data, -1, {1}), precondition_error);
  REQUIRE_THROWS_AS(from_buffer(data, 12, {1}, {1}, 13), precondition_error);
}
