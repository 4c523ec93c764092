// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace seqprim::position {

/// No position encoding (NoPE): vectors stay as they are. Kernels drop it at compile time: `encodes<none>` is false.
struct none {};

}  // namespace seqprim::position
