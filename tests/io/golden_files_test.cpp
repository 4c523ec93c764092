// SPDX-License-Identifier: Apache-2.0
#include <support/catch.hpp>
#include <support/golden.hpp>

using namespace seqprim;

TEST_CASE("safetensors: every golden file is accepted and covers its data", "[io][golden]") {
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(SEQPRIM_GOLDEN_DIR)) {
    if (entry.path().extension() != ".safetensors") continue;
    CAPTURE(entry.path().string());
    const io::safetensors_file file(entry.path());
    REQUIRE_FALSE(file.tensors().empty());
    REQUIRE(file.has_metadata("source"));
    ++files;
  }
  REQUIRE(files > 0);
}

TEST_CASE("golden: tensors and parameters of a case arrive", "[io][golden]") {
  const golden g("masks-text", "causal_append");
  REQUIRE(g.params.at("offset").get<index_t>() == 96);
  const auto mask = g.load<bool, 2>("mask");
  REQUIRE(mask.extent(0) == 37);
  REQUIRE(mask.extent(1) == 133);
  for (index_t q = 0; q < 37; ++q)
    for (index_t k = 0; k < 133; ++k) REQUIRE(mask(q, k) == (k <= q + 96));
}
