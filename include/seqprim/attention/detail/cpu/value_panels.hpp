// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/tile_unit.hpp>
#include <seqprim/attention/detail/cpu/logits.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/scratch.hpp>
#include <seqprim/core/tensor_view.hpp>

namespace seqprim::attention::detail {

/// The values of one key head as matrix registers load them: panel n [value_dim, keys / 2] holds keys [n * keys, (n + 1) * keys) as
/// pairs of neighbors, zeros beyond the last key. Keys whose values are not finite are zeros here and marked: a hidden pair has
/// weight 0, and 0 times infinity must not reach a row that does not attend to it.
struct value_panels {
  const arch::bfloat16_pair* pairs;
  const unsigned char* marked;  ///< [panels], 1 where a panel leaves keys out
  index_t keys;                 ///< of a panel
  tensor_view<const bfloat16, 2> rows;

  /// The panel that begins with this key.
  [[nodiscard]] const arch::bfloat16_pair* panel(index_t key) const noexcept {
    return pairs + key / keys * rows.extent(1) * (keys / 2);
  }
  /// The transposed values of a panel, or its first keys, as left operand; clears `clean` where keys are left out.
  [[nodiscard]] arch::strided_ref<const arch::bfloat16_pair> sum_operand(range part, bool& clean) const noexcept {
    clean = clean && marked[part.begin / keys] == 0;
    return arch::matrix_ref{panel(part.begin), keys / 2};
  }
};

/// Fills the panels of one key head: `pairs` [panels, value_dim, keys / 2] and `marked` [panels].
template <class Isa>
void fill_panels(const tensor_view<const bfloat16, 2>& values, index_t keys, arch::bfloat16_pair* pairs,
                 unsigned char* marked) noexcept {
  using products = arch::pair_products<Isa>;
  constexpr index_t edge = arch::tile_edge;
  const index_t k_len = values.extent(0), dim = values.extent(1);
  alignas(64) arch::bfloat16_pair block[edge * edge], transposed[edge * edge];
  for (index_t begin = 0; begin < k_len; begin += keys, pairs += dim * (keys / 2), ++marked) {
    *marked = 0;
    for (index_t n = 0; n < keys / 2; n += edge) {
      const bfloat16* rows[2 * edge];  // null where there is no usable key
      for (index_t i = 0; i < 2 * edge; ++i) {
        const index_t j = begin + 2 * n + i;
        const bfloat16* const row = values.data + j * values.stride(0);
        const bool usable = j < k_len && finite<Isa, float>(row, dim);
        rows[i] = usable ? row : nullptr;
        if (j < k_len && !usable) *marked = 1;
      }
      for (index_t d = 0; d < dim; d += edge) {
        const index_t live = min(edge, dim - d);
        for (index_t i = 0; i < edge; ++i) {
          const bfloat16 *const first = rows[2 * i], *const second = rows[2 * i + 1];
          arch::bfloat16_pair* const out = block + i * edge;
          for (index_t c = 0; c < edge; ++c) out[c] = {0};
          if (first != nullptr) {
            products::interleave_rows(first + d, second == nullptr ? nullptr : second + d, live, out);
          } else if (second != nullptr) {
            products::interleave_rows(second + d, nullptr, live, out);
            for (index_t c = 0; c < live; ++c) out[c].bits <<= 16;
          }
        }
        arch::transpose_pairs<Isa>({block, edge}, {transposed, edge});
        for (index_t c = 0; c < live; ++c)
          for (index_t i = 0; i < edge; ++i) pairs[(d + c) * (keys / 2) + n + i] = transposed[c * edge + i];
      }
    }
  }
}

/// The values of all key heads as the engine reads them: in place, or as panels that are filled once for all tiles of queries.
template <class Isa, class V, bool Panels> class prepared_values {
 public:
  prepared_values(const cpu& executor, const tensor_view<const V, 4>& values, index_t keys)
      : values_(values),
        keys_(keys),
        pairs_(Panels ? heads() : 0, panels() * values.extent(3) * (keys / 2)),
        marked_(Panels ? heads() : 0, panels()) {
    if constexpr (Panels) {
      parallel_for(executor, heads(), [&](index_t n, int) {
        fill_panels<Isa>(values_[n / values_.extent(1)][n % values_.extent(1)], keys_, pairs_.slab(static_cast<int>(n)),
                         marked_.slab(static_cast<int>(n)));
      });
    }
  }

  [[nodiscard]] auto of(index_t b, index_t g) const noexcept {
    if constexpr (Panels) {
      const auto n = static_cast<int>(b * values_.extent(1) + g);
      return value_panels{pairs_.slab(n), marked_.slab(n), keys_, values_[b][g]};
    } else {
      return values_[b][g];
    }
  }

 private:
  [[nodiscard]] int heads() const noexcept { return static_cast<int>(values_.extent(0) * values_.extent(1)); }
  [[nodiscard]] index_t panels() const noexcept { return ceil_div(values_.extent(2), keys_); }

  tensor_view<const V, 4> values_;
  index_t keys_;
  scratch<arch::bfloat16_pair> pairs_;
  scratch<unsigned char> marked_;
};

}  // namespace seqprim::attention::detail
