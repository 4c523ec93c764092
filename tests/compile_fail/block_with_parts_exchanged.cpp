// SPDX-License-Identifier: Apache-2.0
// expect-error: the first part of a block mixes tokens: nn::attention_mixer, or a type with its
#include <seqprim/nn/nn.hpp>

using namespace seqprim;

#if defined(FIXED)
using layer = nn::block<nn::attention_mixer<>, nn::swiglu<>, nn::rms_norm<>>;
#else
using layer = nn::block<nn::swiglu<>, nn::attention_mixer<>, nn::rms_norm<>>;
#endif
static_assert(sizeof(layer) > 0);
