// SPDX-License-Identifier: Apache-2.0
// expect-error: a mask needs 'tile_kind classify(range q, range k) const'; wrap a bare predicate in 'mask::where'
#include <seqprim/mask/rule.hpp>

using namespace seqprim;

struct even_keys {
  SEQPRIM_HD constexpr bool operator()(index_t, index_t k) const noexcept { return k % 2 == 0; }
#if defined(FIXED)
  SEQPRIM_HD constexpr mask::tile_kind classify(range, range) const noexcept { return mask::tile_kind::partial; }
#endif
};
static_assert(mask::require_mask<even_keys>());
