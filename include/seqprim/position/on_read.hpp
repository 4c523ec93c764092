// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/position/rule.hpp>

#include <concepts>

namespace seqprim::position {

/// An encoding whose keys stay unencoded in a cache and are encoded each time that they are read: for frequencies that change
/// as a sequence grows (dynamic NTK, LongRoPE), and for caches whose tokens are numbered again (attention sinks with slots).
///
///     attention::softmax op{mask::causal{}, score::identity{}, position::on_read{rope}};
///     attention::append(...)      stores the keys as they are
///     attention::decode(...)      encodes queries, and keys range by range as it reads them
///
/// forward and backward give what the encoding itself gives. The positions of keys are those of the operator's key map over
/// cache rows, evaluated by every call.
///
/// Limits  decode on CUDA does not take it; append, forward and backward do there.
/// Cost  decode: encodes the visible keys in every call; a few times the work of one query, less the more queries share them.
/// Page  docs/reference/position/on_read.md
template <encoding E>
requires encodes<E>
struct on_read : E {
  [[nodiscard]] SEQPRIM_HD static constexpr bool keys_may_be_cached() noexcept { return false; }
  [[nodiscard]] SEQPRIM_HD constexpr on_read for_head_dim(index_t dim) const noexcept {
    return {position::for_head_dim(static_cast<const E&>(*this), dim)};
  }
};
template <class E> on_read(E) -> on_read<E>;

template <class E> inline constexpr bool is_on_read = false;
template <class E> inline constexpr bool is_on_read<on_read<E>> = true;

}  // namespace seqprim::position
