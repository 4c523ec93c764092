// SPDX-License-Identifier: Apache-2.0
// expect-error: the third part of a block is a norm: nn::rms_norm, nn::srms_norm, or a type with the same members
#include <seqprim/nn/nn.hpp>

using namespace seqprim;

#if defined(FIXED)
using third = nn::rms_norm<>;
#else
using third = nn::linear<>;
#endif
static_assert(sizeof(nn::block<nn::attention_mixer<>, nn::swiglu<>, third>) > 0);
