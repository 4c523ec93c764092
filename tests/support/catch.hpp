// SPDX-License-Identifier: Apache-2.0
#pragma once

// One include for Catch2 3 and for the 2.13 that Debian 12 ships.
#if defined(SEQPRIM_CATCH2_V3)
#  include <catch2/catch_all.hpp>
using Catch::Approx;  // global in 2.13
#else
#  include <catch2/catch.hpp>
namespace Catch::Matchers {
inline auto ContainsSubstring(const std::string& text) { return Contains(text); }
}  // namespace Catch::Matchers
#endif

using Catch::Matchers::ContainsSubstring;
