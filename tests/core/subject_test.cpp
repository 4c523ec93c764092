// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor.hpp>

#include <support/catch.hpp>
#include <vector>

using namespace seqprim;

namespace {

constexpr subject self{"mask::some", "mask/some"};
constexpr const char* see = ". See docs/reference/mask/some.md";

}  // namespace

TEST_CASE("subject: a broken rule names the primitive, the parts and the page", "[core][errors]") {
  self.expects(true, "never seen");
  REQUIRE_THROWS_AS(self.expects(false, "x"), precondition_error);
  REQUIRE_THROWS_WITH(self.expects(false, "length (", -1, ") must be >= 0"),
                      std::string("mask::some: length (-1) must be >= 0") + see);
}

TEST_CASE("subject: a check that holds is a constant expression", "[core]") {
  constexpr auto checked = [](index_t length) {
    self.expects(length >= 0, "length (", length, ") must be >= 0");
    return length;
  };
  static_assert(checked(3) == 3);
  REQUIRE_THROWS_AS(checked(-3), precondition_error);
}

TEST_CASE("subject: arrays need an entry for each thing, and entries within their limits", "[core][errors]") {
  const std::vector<std::int32_t> lengths = {0, 7, 32};
  self.expects_count("lengths", lengths, 3, "batch rows");
  REQUIRE_THROWS_WITH(self.expects_count("lengths", lengths, 4, "batch rows"),
                      std::string("mask::some: lengths has 3 entries but there are 4 batch rows") + see);
  self.expects_each("lengths", lengths, 0, 32);
  self.expects_each("lengths", index_array(lengths).first(2), 0, 7);
  REQUIRE_THROWS_WITH(self.expects_each("lengths", lengths, 0, {31, "k_len"}),
                      std::string("mask::some: lengths[2] (32) must be in [0, k_len (31)]") + see);
  REQUIRE_THROWS_WITH(self.expects_each("lengths", lengths, 1, 32),
                      std::string("mask::some: lengths[0] (0) must be in [1, 32]") + see);
  // What only the device can read is taken as it is; its number of entries is known.
  self.expects_each("lengths", index_array(lengths).on_device(), 5, 6);
  REQUIRE_THROWS_AS(self.expects_count("lengths", index_array(lengths).on_device(), 4, "rows"), precondition_error);
}

TEST_CASE("subject: offsets begin with 0 and never decrease", "[core][errors]") {
  const std::vector<std::int64_t> good = {0, 0, 3}, late = {1, 3}, falling = {0, 4, 3};
  self.expects_offsets("offsets", good);
  self.expects_offsets("offsets", index_array(falling).on_device());
  REQUIRE_THROWS_WITH(self.expects_offsets("offsets", index_array()),
                      std::string("mask::some: offsets is empty; n sequences need n + 1 offsets") + see);
  REQUIRE_THROWS_WITH(self.expects_offsets("offsets", late), std::string("mask::some: offsets[0] (1) must be 0") + see);
  REQUIRE_THROWS_WITH(self.expects_offsets("offsets", falling),
                      std::string("mask::some: offsets[2] (3) must be >= offsets[1] (4)") + see);
}

TEST_CASE("subject: a shape that disagrees is told with the axis and the operand that sets it", "[core][errors]") {
  tensor<float, 2> k(5, 64), other(5, 64);
  self.expects_extent("k", k.view(), 1, "head_dim", 64, "q");
  REQUIRE_THROWS_WITH(self.expects_extent("k", k.view(), 1, "head_dim", 128, "q"),
                      std::string("mask::some: k has head_dim 64 (axis 1), but q has head_dim 128") + see);
  self.expects_contiguous("k", k.view());
  REQUIRE_THROWS_WITH(self.expects_contiguous("k", k.view().transposed(0, 1)),
                      std::string("mask::some: the last axis of k must be contiguous, its stride is 64") + see);
  self.expects_apart("k", k, "other", other);
  REQUIRE_THROWS_WITH(self.expects_apart("k", k, "v", k.view().slice(0, {1, 2})),
                      std::string("mask::some: k overlaps v") + see);
}

TEST_CASE("subject: all axes of a shape are named, negative lengths too", "[core][errors]") {
  tensor<float, 3> v(2, 5, 8);
  const axis_length batch{2, "batch", "q"}, k_len{7, "k_len", "k"}, dim{8, "head_dim", "q"};
  self.expects_shape("v", v.view(), {batch, {5, "k_len", "k"}, dim});
  REQUIRE_THROWS_WITH(self.expects_shape("v", v.view(), {batch, k_len, dim}),
                      std::string("mask::some: v has k_len 5 (axis 1), but k has k_len 7") + see);
  const auto backwards = v.view().slice(1, {3, 1});
  REQUIRE_THROWS_WITH(self.expects_lengths("v", backwards),
                      std::string("mask::some: axis 1 of v has the negative length -2") + see);
  REQUIRE_THROWS_AS(self.expects_contiguous("v", backwards), precondition_error);
}

TEST_CASE("subject: elements are distinct whatever the direction of the strides", "[core][property]") {
  // Against the addresses themselves, for all strides from -7 to 7 of two axes.
  float memory[200] = {};
  for (index_t rows = 0; rows <= 3; ++rows)
    for (index_t columns = 0; columns <= 3; ++columns)
      for (index_t down = -7; down <= 7; ++down)
        for (index_t right = -7; right <= 7; ++right) {
          const tensor_view<float, 2> view(memory + 100, {rows, columns}, {down, right});
          bool shared = false;
          for (index_t a = 0; a < rows * columns; ++a)
            for (index_t b = 0; b < a; ++b)
              shared = shared || &view(a / columns, a % columns) == &view(b / columns, b % columns);
          bool refused = false;
          try {
            self.expects_distinct("out", view);
          } catch (const precondition_error&) {
            refused = true;
          }
          // Rows that interleave share nothing and are refused all the same; everything else is exact.
          const auto size = [](index_t x) { return x < 0 ? -x : x; };
          const bool interleaves = rows > 1 && columns > 1 && size(down) < (columns - 1) * size(right) + 1 &&
                                   size(right) < (rows - 1) * size(down) + 1;
          CAPTURE(rows, columns, down, right, shared);
          REQUIRE(refused == (shared || interleaves));
        }
}

TEST_CASE("subject: working memory is large enough, in one piece and aligned; each rule has its message",
          "[core][errors]") {
  alignas(16) float memory[12] = {};
  const tensor_view<float, 1> all(memory, 12);
  self.expects_workspace(all, 12, "floats", 16);
  REQUIRE_THROWS_WITH(self.expects_workspace(all, 13, "floats", 16),
                      std::string("mask::some: the workspace has 12 floats, 13 are required") + see);
  REQUIRE_THROWS_WITH(self.expects_workspace(tensor_view<float, 1>(memory, {6}, {2}), 4, "floats", 16),
                      ContainsSubstring("the last axis of the workspace must be contiguous, its stride is 2"));
  REQUIRE_THROWS_WITH(self.expects_workspace(all.slice(0, {1, 12}), 4, "floats", 16),
                      std::string("mask::some: the workspace must be aligned to 16 bytes") + see);
}
