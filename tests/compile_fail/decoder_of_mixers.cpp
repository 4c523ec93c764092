// SPDX-License-Identifier: Apache-2.0
// expect-error: a decoder is made of nn::block<Mixer, Mlp, Norm>, or of a type with its members
#include <seqprim/nn/nn.hpp>

using namespace seqprim;

#if defined(FIXED)
using layer = nn::block<nn::attention_mixer<>, nn::swiglu<>, nn::rms_norm<>>;
#else
using layer = nn::attention_mixer<>;
#endif
static_assert(sizeof(nn::decoder<layer>) > 0);
