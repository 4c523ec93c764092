// SPDX-License-Identifier: Apache-2.0
// expect-error: mixer, mlp and norm of a block must compute in one number type
#include <seqprim/nn/nn.hpp>

using namespace seqprim;

#if defined(FIXED)
using number = float;
#else
using number = double;
#endif
static_assert(sizeof(nn::block<nn::attention_mixer<>, nn::gated_mlp<nn::silu>, nn::rms_norm<number>>) > 0);
