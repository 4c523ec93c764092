// SPDX-License-Identifier: Apache-2.0
// expect-error: a position map needs 'operator()(index_t row) const'
#include <seqprim/position/position.hpp>

using namespace seqprim;

void encode(tensor_view<float, 4> x) {
  const position::rotary<position::half_split> encoding{.rotary_dim = 64};
#if defined(FIXED)
  const position::sequential map{.start = 3};
#else
  const index_t map = 3;
#endif
  position::encode(cpu{}, encoding, map, x, x);
}
