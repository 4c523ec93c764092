// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index.hpp>

namespace seqprim::loss {

/// The lengths of one fused head.
struct linear_cross_entropy_shape {
  index_t rows, dim, vocab;
};

/// Tuning numbers of the fused head: they change speed and memory, never the meaning.
struct linear_cross_entropy_policy {
  index_t chunk_rows;  ///< rows whose logits exist at a time, >= 1
};

/// Default choice, for an instruction set and a problem; pass a type of your own with the same call operator to override it.
struct default_linear_cross_entropy_policy {
  template <class Isa>
  constexpr linear_cross_entropy_policy operator()(Isa, const linear_cross_entropy_shape& problem) const noexcept {
    constexpr index_t chunk_logits = index_t{1} << 20;  // 4 MiB of floats
    constexpr index_t least_rows = 64;                  // below, products with the weights would read them too often
    return {.chunk_rows = max_of(least_rows, chunk_logits / max_of<index_t>(problem.vocab, 1))};
  }
};

}  // namespace seqprim::loss
