// SPDX-License-Identifier: Apache-2.0
#include <seqprim/io/safetensors_reader.hpp>

#include <filesystem>
#include <support/catch.hpp>

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
