// SPDX-License-Identifier: Apache-2.0
// expect-error: layers are trained in 'float', or in 'double' for gradient checks
#include <seqprim/nn/linear.hpp>

using namespace seqprim;

#if defined(FIXED)
using number = float;
#else
using number = float16;
#endif
nn::linear<number> layer;
