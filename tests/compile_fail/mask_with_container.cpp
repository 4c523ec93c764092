// SPDX-License-Identifier: Apache-2.0
// expect-error: a mask must be trivially copyable so that it can travel to a kernel; hold views, not containers
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/mask/rule.hpp>

#include <vector>

using namespace seqprim;

struct listed_keys {
#if defined(FIXED)
  tensor_view<const index_t, 1> first;
  bool operator()(index_t q, index_t k) const noexcept { return k >= first(q); }
#else
  std::vector<index_t> first;
  bool operator()(index_t q, index_t k) const noexcept { return k >= first[static_cast<std::size_t>(q)]; }
#endif
  mask::tile_kind classify(range, range) const noexcept { return mask::tile_kind::partial; }
};
static_assert(mask::require_mask<listed_keys>());
