// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/error.hpp>

#include <cstdint>
#include <limits>
#include <support/catch.hpp>

using namespace seqprim;

TEST_CASE("message: joins text and numbers so that they can be told apart", "[core]") {
  REQUIRE(message("q_len (", 3, ")") == "q_len (3)");
  REQUIRE(message(std::string("a"), std::string_view("b"), 'c', true, false) == "abctruefalse");
  REQUIRE(message(std::numeric_limits<std::int64_t>::min()) == "-9223372036854775808");
  REQUIRE(message(std::numeric_limits<std::uint64_t>::max()) == "18446744073709551615");
  REQUIRE(message(std::uint8_t{7}) == "7");
  REQUIRE(message(0.5f, " ", 1e-8, " ", -2.5) == "0.5 1e-08 -2.5");
  REQUIRE(message(0.1f) != message(0.10000001f));
  REQUIRE(message(std::numeric_limits<float>::infinity()) == "inf");
  REQUIRE(message().empty());
}

TEST_CASE("SEQPRIM_EXPECTS: evaluates the condition once and throws the joined message when it is false",
          "[core][errors]") {
  int evaluated = 0;
  SEQPRIM_EXPECTS(++evaluated > 0, "never seen");
  REQUIRE(evaluated == 1);
  const int heads = 6, kv_heads = 4;
  const auto check = [&] {
    SEQPRIM_EXPECTS(heads % kv_heads == 0, "attention: heads (", heads, ") must be a multiple of kv_heads (", kv_heads,
                    ")");
  };
  REQUIRE_THROWS_WITH(check(), "attention: heads (6) must be a multiple of kv_heads (4)");
  REQUIRE_THROWS_AS(check(), precondition_error);
  if (heads == 6)
    SEQPRIM_EXPECTS(true, "the macro is one statement");
  else
    FAIL();
}

TEST_CASE("errors: each kind is caught as the standard exception it refines", "[core][errors]") {
  REQUIRE_THROWS_AS(throw precondition_error("x"), std::invalid_argument);
  REQUIRE_THROWS_AS(throw io_error("x"), std::runtime_error);
  REQUIRE_THROWS_AS(throw cuda_error("x"), std::runtime_error);
}
