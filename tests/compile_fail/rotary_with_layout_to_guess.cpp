// SPDX-License-Identifier: Apache-2.0
// Compilers that deduce arguments of aggregates print the sentence of rotary_without_layout.cpp, the others that they cannot.
// expect-error: rotary
#include <seqprim/position/rotary.hpp>

using namespace seqprim;

#if defined(FIXED)
inline const auto encoding = position::rotary<position::half_split>{.rotary_dim = 64};
#else
inline const auto encoding = position::rotary{.rotary_dim = 64};
#endif
