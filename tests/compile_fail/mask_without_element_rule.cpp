// SPDX-License-Identifier: Apache-2.0
// expect-error: a mask needs 'bool operator()(index_t q, index_t k) const'. See docs/reference/mask/rule.md
#include <seqprim/mask/rule.hpp>

using namespace seqprim;

struct even_keys {
#if defined(FIXED)
  SEQPRIM_HD constexpr bool operator()(index_t, index_t k) const noexcept { return k % 2 == 0; }
#endif
  SEQPRIM_HD constexpr mask::tile_kind classify(range, range) const noexcept { return mask::tile_kind::partial; }
};
static_assert(mask::require_mask<even_keys>());
