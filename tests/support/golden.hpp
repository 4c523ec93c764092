// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/io/safetensors_reader.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <string>
#include <support/golden_pattern.hpp>
#include <vector>

namespace seqprim {

/// One golden file: tests/golden/<family>/<stem>.safetensors. The README of the family says what the tensors mean.
///
///     const golden g("masks-text", "causal_append");
///     const mask::causal m{.offset = g.params.at("offset")};
///     const auto visible = g.load<bool, 2>("mask");
///
/// Write family and stem as literals: `golden_coverage` reads the test sources to tell which files no test uses. Tests of
/// primitives that use golden files link seqprim::io. Page: tests/golden/README.md
struct golden {
  golden(const std::string& family, const std::string& stem)
      : file(std::string(SEQPRIM_GOLDEN_DIR "/") + family + '/' + stem + ".safetensors") {
    if (file.has_metadata("params")) params = nlohmann::json::parse(file.metadata("params"));
  }

  /// A copy; golden files pack tensors without padding, so a view may be misaligned.
  template <io::storable T, int Rank> [[nodiscard]] tensor<T, Rank> load(const std::string& name) const {
    return file.load<T, Rank>(name);
  }

  io::safetensors_file file;
  nlohmann::json params;  ///< parameters of the case
};

/// The stems of a family that match a name or "beginning_*", sorted: golden_stems("layers", "rmsnorm_*"). Never empty.
[[nodiscard]] inline std::vector<std::string> golden_stems(const std::string& family, const std::string& pattern) {
  std::vector<std::string> stems;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(SEQPRIM_GOLDEN_DIR "/") + family))
    if (entry.path().extension() == ".safetensors" && golden_matches(pattern, entry.path().stem().string()))
      stems.push_back(entry.path().stem().string());
  if (stems.empty()) throw io_error(message("no golden file of ", family, " matches ", pattern));
  std::sort(stems.begin(), stems.end());
  return stems;
}

}  // namespace seqprim
