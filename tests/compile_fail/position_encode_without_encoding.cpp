// SPDX-License-Identifier: Apache-2.0
// expect-error: a position encoding needs 'coordinate', 'table_size', 'table', 'apply' and 'apply_transposed'
#include <seqprim/position/position.hpp>

using namespace seqprim;

struct shift {};

void encode(tensor_view<float, 4> x) {
#if defined(FIXED)
  const position::rotary<position::half_split> encoding{.rotary_dim = 64};
#else
  const shift encoding;
#endif
  position::encode(cpu{}, encoding, position::sequential{}, x, x);
}
