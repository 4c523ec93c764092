// SPDX-License-Identifier: Apache-2.0
// expect-error: a mask needs 'tile_kind classify(range q, range k) const'; wrap a bare predicate in 'mask::where'
#include <seqprim/attention/forward.hpp>
#include <seqprim/mask/where.hpp>

using namespace seqprim;

struct even_keys {
  SEQPRIM_HD constexpr bool operator()(index_t, index_t k) const noexcept { return k % 2 == 0; }
};

void attend(tensor_view<const float, 4> q, tensor_view<const float, 4> k, tensor_view<const float, 4> v,
            tensor_view<float, 4> out) {
#if defined(FIXED)
  attention::forward(cpu{}, attention::softmax{mask::where{even_keys{}}}, q, k, v, out);
#else
  attention::forward(cpu{}, attention::softmax{even_keys{}}, q, k, v, out);
#endif
}
