// SPDX-License-Identifier: Apache-2.0
// expect-error: the second part of a block mixes channels and has no 'state' or 'extend'
#include <seqprim/nn/nn.hpp>

using namespace seqprim;

#if defined(FIXED)
using second = nn::swiglu<>;
#else
using second = nn::attention_mixer<>;
#endif
static_assert(sizeof(nn::block<nn::attention_mixer<>, second, nn::rms_norm<>>) > 0);
