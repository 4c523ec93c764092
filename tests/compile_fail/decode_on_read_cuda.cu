// SPDX-License-Identifier: Apache-2.0
// expect-error: decode on CUDA reads keys that append has encoded: it takes no 'position::on_read'
#include <seqprim/attention/decode.cuh>
#include <seqprim/position/on_read.hpp>
#include <seqprim/position/rotary.hpp>

using namespace seqprim;

void read(tensor_view<const bfloat16, 4, 64> q, tensor_view<bfloat16, 4> out) {
  const position::rotary<position::half_split> rope{};
#if defined(FIXED)
  const attention::softmax op{mask::full{}, score::identity{}, rope};
#else
  const attention::softmax op{mask::full{}, score::identity{}, position::on_read{rope}};
#endif
  attention::decode(gpu{}, op, q, q, q, out);
}
