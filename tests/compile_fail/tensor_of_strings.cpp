// SPDX-License-Identifier: Apache-2.0
// expect-error: a tensor holds numbers; its element type must be trivial
#include <seqprim/core/tensor.hpp>

#include <string>

#if defined(FIXED)
using cell = float;
#else
using cell = std::string;
#endif
template class seqprim::tensor<cell, 1>;
