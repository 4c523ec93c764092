// SPDX-License-Identifier: Apache-2.0
#include <seqprim/attention/paged.hpp>
#include <seqprim/attention/quantized.hpp>
#include <seqprim/core/tensor.hpp>

#include <limits>
#include <support/catch.hpp>
#include <type_traits>
#include <vector>

using namespace seqprim;

TEST_CASE("page_table: reads 32 and 64 bit entries of any strides", "[attention]") {
  tensor<std::int32_t, 2> narrow(2, 3);
  tensor<std::int64_t, 2> wide(3, 2);
  for (index_t b = 0; b < 2; ++b)
    for (index_t n = 0; n < 3; ++n) {
      narrow(b, n) = static_cast<std::int32_t>(10 * b + n);
      wide(n, b) = 10 * b + n;
    }
  const std::vector<std::int32_t> lengths{5, 9};
  const attention::page_table a(narrow, lengths), t(wide.view().transposed(0, 1), lengths);
  for (index_t b = 0; b < 2; ++b)
    for (index_t n = 0; n < 3; ++n) REQUIRE((a.page(b, n) == 10 * b + n && t.page(b, n) == 10 * b + n));
  REQUIRE((a.batch() == 2 && a.max_pages() == 3 && a.length(1) == 9 && a.longest(1) == 5 && a.longest(2) == 9));
  REQUIRE(a.host_readable());
  REQUIRE_FALSE(a.on_device().host_readable());
  REQUIRE(attention::page_table(narrow, index_array(lengths).on_device()).host_readable() == false);
}

TEST_CASE("page_table: entries in use must name pages, those behind the length may be anything",
          "[attention][errors]") {
  tensor<std::int32_t, 2> entries(2, 3);
  entries(0, 0) = 4;
  entries(0, 1) = entries(0, 2) = -1;
  entries(1, 0) = 0;
  entries(1, 1) = 3;
  entries(1, 2) = 1 << 30;
  std::vector<index_t> lengths{4, 8};
  const auto check = [&](index_t batch, index_t pages, index_t page_size) {
    attention::page_table(entries, lengths).validate(batch, pages, page_size);
  };
  check(2, 5, 4);
  REQUIRE_THROWS_WITH(check(2, 4, 4),
                      "attention::page_table: entry (0, 0) is 4, there are 4 pages. See "
                      "docs/reference/attention/paged.md");
  REQUIRE_THROWS_AS(check(2, 5, 0), precondition_error);
  REQUIRE_THROWS_AS(check(3, 5, 4), precondition_error);
  lengths[0] = 5;
  REQUIRE_THROWS_WITH(check(2, 5, 4), ContainsSubstring("entry (0, 1) is -1"));
  lengths[0] = 13;
  REQUIRE_THROWS_WITH(check(2, 5, 4), ContainsSubstring("lengths[0] (13) must be in [0, 3 pages of 4]"));
  lengths[0] = std::numeric_limits<index_t>::max();
  REQUIRE_THROWS_AS(check(2, 5, 4), precondition_error);
  lengths[0] = -1;
  REQUIRE_THROWS_AS(check(2, 5, 4), precondition_error);
  lengths[0] = 0;
  check(2, 5, 4);
  attention::page_table(entries, lengths).on_device().validate(2, 1, 4);  // promised, not read
}

TEST_CASE("paged: finds a token in pages of either memory order", "[attention]") {
  tensor<std::int32_t, 2> entries(1, 2);
  entries(0, 0) = 2;
  entries(0, 1) = 1;
  const std::vector<std::int32_t> lengths{6};
  tensor<float, 4> heads_first(3, 2, 4, 8), tokens_first(3, 4, 2, 8);
  const attention::page_table table(entries, lengths);
  const attention::paged a{heads_first, table}, b{tokens_first.view().transposed(1, 2), table};
  STATIC_REQUIRE(std::is_trivially_copyable_v<std::remove_cvref_t<decltype(a)>>);
  REQUIRE((a.kv_heads() == 2 && a.page_size() == 4 && a.dim() == 8 && a.length(0) == 6));
  REQUIRE((b.kv_heads() == 2 && b.page_size() == 4));
  REQUIRE(&a.pages(a.page_of(0, 5), 1, a.row_of(5), 3) == &heads_first(1, 1, 1, 3));
  REQUIRE(&b.pages(b.page_of(0, 3), 1, b.row_of(3), 3) == &tokens_first(2, 3, 1, 3));
}

TEST_CASE("quantized: a number is its code times the scale of its block", "[attention]") {
  tensor<std::int8_t, 4> codes(1, 2, 3, 64);
  tensor<float, 4> scales(1, 2, 3, 2);
  codes(0, 1, 2, 31) = -128;
  codes(0, 1, 2, 32) = 5;
  scales(0, 1, 2, 0) = 0.5f;
  scales(0, 1, 2, 1) = 3.0f;
  const attention::quantized q{codes, scales};
  q.validate();
  REQUIRE((q(0, 1, 2, 31) == -64.0f && q(0, 1, 2, 32) == 15.0f && q.block() == 32));
  REQUIRE(q.slice(2, {2, 3})(0, 1, 0, 32) == 15.0f);
  REQUIRE(q.transposed(1, 2)(0, 2, 1, 32) == 15.0f);
  const attention::quantized<const std::int8_t, const float> read_only = q;
  REQUIRE(read_only(0, 1, 2, 32) == 15.0f);
  STATIC_REQUIRE(std::is_trivially_copyable_v<decltype(read_only)>);
  tensor<float, 4> per_token(1, 2, 3, 1), uneven(1, 2, 3, 3), narrow(1, 2, 3, 8), none(1, 2, 3, 0), longer(1, 2, 4, 1);
  REQUIRE(attention::quantized(codes, per_token).block() == 64);
  REQUIRE_THROWS_AS(attention::quantized(codes, uneven).validate(), precondition_error);
  REQUIRE_THROWS_WITH(
      attention::quantized(codes, narrow).validate(),
      "attention::quantized: 8 scales per row must divide dim (64) into blocks of a multiple of 16. See "
      "docs/reference/attention/quantized.md");
  REQUIRE_THROWS_AS(attention::quantized(codes, none).validate(), precondition_error);
  REQUIRE_THROWS_AS(attention::quantized(codes, longer).validate(), precondition_error);
  REQUIRE_THROWS_AS(attention::quantized(codes.view().transposed(2, 3), per_token.view().transposed(2, 3)).validate(),
                    precondition_error);
}
