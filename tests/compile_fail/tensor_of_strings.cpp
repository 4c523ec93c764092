// SPDX-License-Identifier: Apache-2.0
// expect-error: the element type of a tensor must be trivial
#include <seqprim/core/tensor.hpp>

#include <string>

#if defined(FIXED)
using cell = float;
#else
using cell = std::string;
#endif
template class seqprim::tensor<cell, 1>;
