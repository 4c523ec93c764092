// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/index_array.hpp>
#include <seqprim/mask/key_range.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// The side of the real keys on which the padding is.
enum class padding_side : unsigned char { right, left };

/// Key padding: batch row b has lengths[b] real keys, the other columns are padding that no query attends to.
///
///     right padding:  visible(b, q, k)  <=>  k < lengths[b]
///     left padding:   visible(b, q, k)  <=>  k >= k_len - lengths[b]
///
/// Padded query rows keep the mask of their batch row; their output means nothing and is the caller's to drop. Left
/// padding with a causal mask leaves rows without any key: out = 0, lse = -inf. Binds to key_range.
///
/// Errors  precondition_error: a length < 0 or > k_len; fewer lengths than batch rows; k_len is not that of the call.
/// Cost    O(1) per pair and per tile; classify() is exact for tiles of any size.
struct key_padding {
  index_array lengths;                      ///< [batch] real keys of each batch row
  index_t k_len;                            ///< columns, padding included [tokens]
  padding_side side = padding_side::right;  ///< side of the padding

  static constexpr bool ignores_queries = true;
  SEQPRIM_HD constexpr key_range bind(index_t batch, index_t) const noexcept {
    const index_t length = lengths[batch];
    return side == padding_side::right ? key_range{.begin = 0, .end = length}
                                       : key_range{.begin = k_len - length, .end = k_len};
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    visit(subject{"mask::key_padding", "mask/key_padding"}, "lengths", lengths);
  }

  constexpr void validate() const {
    SEQPRIM_EXPECTS(k_len >= 0, "mask::key_padding: k_len (", k_len,
                    ") must be >= 0. See docs/reference/mask/key_padding.md");
    if (!lengths.host_readable()) return;
    for (index_t b = 0; b < lengths.size(); ++b)
      SEQPRIM_EXPECTS(0 <= lengths[b] && lengths[b] <= k_len, "mask::key_padding: lengths[", b, "] (", lengths[b],
                      ") must be in [0, k_len (", k_len, ")]. See docs/reference/mask/key_padding.md");
  }
  constexpr void validate(const shape& problem) const {
    SEQPRIM_EXPECTS(lengths.size() >= problem.batch, "mask::key_padding: lengths has ", lengths.size(),
                    " entries but there are ", problem.batch, " batch rows. See docs/reference/mask/key_padding.md");
    SEQPRIM_EXPECTS(k_len == problem.k_len, "mask::key_padding: k_len (", k_len, ") is not the number of keys (",
                    problem.k_len, "). See docs/reference/mask/key_padding.md");
  }
};
static_assert(depends_on_batch_or_head<key_padding>);

}  // namespace seqprim::mask
