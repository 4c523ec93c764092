// SPDX-License-Identifier: Apache-2.0
// expect-error: a stage that picks the token (draw, gumbel_max, greedy) must be the last of a sampling chain
#include <seqprim/sampling/sampling.hpp>

using namespace seqprim;

#if defined(FIXED)
inline constexpr auto chain = sampling::temperature{0.8f} | sampling::draw{};
#else
inline constexpr auto chain = sampling::temperature{0.8f} | sampling::greedy{} | sampling::draw{};
#endif
