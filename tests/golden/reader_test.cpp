// SPDX-License-Identifier: Apache-2.0
#include <support/catch.hpp>
#include <support/golden.hpp>

using namespace seqprim;

TEST_CASE("golden: tensors and parameters of a case arrive", "[golden]") {
  const golden g("masks-text", "causal_append");
  REQUIRE(g.source() == "masks-text/causal_append");
  const index_t offset = g.params.at("offset");
  const auto mask = g.load<bool, 2>("mask");
  REQUIRE(g.shape("mask") == std::vector<index_t>{mask.extent(0), mask.extent(1)});
  REQUIRE(mask.extent(1) == mask.extent(0) + offset);
  for (index_t q = 0; q < mask.extent(0); ++q)
    for (index_t k = 0; k < mask.extent(1); ++k) REQUIRE(mask(q, k) == (k <= q + offset));
  REQUIRE(g.params.at("align").get<std::string>() == "bottom_right");
  REQUIRE(g.params.value("offset", index_t{-1}) == offset);
  REQUIRE(g.params.value("nothing", index_t{-1}) == -1);
  REQUIRE_FALSE(g.params.contains("nothing"));
}

TEST_CASE("golden: lists of parameters, rows of tensors and single elements", "[golden]") {
  const golden documents("masks-text", "doc_causal_a");
  const auto lengths = documents.params.at("lengths").get<std::vector<index_t>>();
  REQUIRE(static_cast<index_t>(lengths.size()) == documents.params.at("lengths").size());
  const index_t first = documents.params.at("lengths").at(0);
  REQUIRE(lengths.at(0) == first);
  const auto intervals = documents.load<std::int32_t, 3>("row_intervals");
  const auto rows = documents.load_rows<std::int32_t>("row_intervals");
  REQUIRE(rows.extent(0) == intervals.extent(0) * intervals.extent(1));
  REQUIRE(rows.extent(1) == intervals.extent(2));
  for (index_t i = 0; i < rows.size(); ++i) REQUIRE(rows.data()[i] == intervals.data()[i]);

  const golden loss("layers", "cross_entropy_0");
  REQUIRE(loss.scalar<float>("loss") == loss.load_rows<float>("loss")(0, 0));
}

TEST_CASE("golden: what a file does not hold is an error that names it", "[golden][errors]") {
  const golden g("masks-text", "causal_append");
  tensor<bool, 2> other(1, 1);
  REQUIRE_THROWS_WITH(golden("masks-text", "no_such_case"), ContainsSubstring("no_such_case"));
  REQUIRE_THROWS_WITH((g.load<bool, 2>("nothing")), ContainsSubstring("nothing"));
  REQUIRE_THROWS_WITH((g.load<float, 2>("mask")), ContainsSubstring("holds BOOL, the test reads F32"));
  REQUIRE_THROWS_WITH((g.load<bool, 3>("mask")), ContainsSubstring("has rank 2, the test reads 3"));
  REQUIRE_THROWS_WITH(g.load_into("mask", other), ContainsSubstring("axis 0"));
  REQUIRE_THROWS_WITH(g.scalar<bool>("mask"), ContainsSubstring("elements"));
  REQUIRE_THROWS_WITH(g.params.at("nothing"),
                      ContainsSubstring("masks-text/causal_append: params: has no entry 'nothing'"));
  REQUIRE_THROWS_WITH(g.params.at("offset").get<std::string>(), ContainsSubstring("params.offset: is no text"));
  REQUIRE_THROWS_WITH(g.params.at("align").get<index_t>(), ContainsSubstring("is no integer"));
  REQUIRE_THROWS_WITH(g.params.at("offset").at(0), ContainsSubstring("has no entry 0"));
}
