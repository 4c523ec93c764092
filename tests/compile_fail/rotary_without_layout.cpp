// SPDX-License-Identifier: Apache-2.0
// expect-error: a rotary encoding needs its layout: 'rotary<half_split>'
#include <seqprim/position/rotary.hpp>

using namespace seqprim;

#if defined(FIXED)
inline const auto encoding = position::rotary<position::half_split>{.rotary_dim = 64};
#else
inline const auto encoding = position::rotary<>{.rotary_dim = 64};
#endif
