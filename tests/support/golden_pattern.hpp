// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace seqprim {

/// True when `pattern` names the golden file `stem`: the same text, or its beginning followed by one '*' at the end.
[[nodiscard]] inline bool golden_matches(std::string_view pattern, std::string_view stem) {
  if (pattern.empty() || pattern.back() != '*') return pattern == stem;
  return stem.starts_with(pattern.substr(0, pattern.size() - 1));
}

}  // namespace seqprim
