// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/mask/rule.hpp>

#include <type_traits>

namespace seqprim::mask {

namespace detail {

/// One mask for each batch row or head, and that they are enough and fit.
template <class M>
constexpr void expect_masks(const subject& self, const tensor_view<const M, 1>& masks, index_t n, const char* things,
                            shape problem) {
  self.expects(masks.extent(0) >= n, masks.extent(0), " masks for ", n, " ", things);
  for (index_t i = 0; i < n; ++i) mask::validate(masks(i), problem);
}

// The host reads them when it validates a call.
template <class M, class Visit>
constexpr void visit_masks(const subject& self, const tensor_view<const M, 1>& masks, const Visit& visit) {
  visit(self, "masks", borrowed{masks, host_access::needed});
  for (index_t i = 0; i < masks.extent(0); ++i) seqprim::for_arrays(masks(i), visit);
}

}  // namespace detail

/// A mask of its own for each head: windows of different widths, keys that only some heads lose.
///
///     visible(b, h, q, k)  <=>  masks[h](q, k)
///
/// The masks are in memory that kernels and host code can read (on CUDA: managed or page-locked), and outlive the value.
///
/// Errors  precondition_error: fewer masks than heads; those of the masks.
/// Cost    that of the mask of the head.
template <bindable M> struct per_head {
  tensor_view<const M, 1> masks;  ///< [heads]

  static constexpr subject self{"mask::per_head", "mask/per_head"};

  SEQPRIM_HD constexpr bound<M> bind(index_t batch, index_t head) const noexcept {
    return mask::bind(masks(head), batch, head);
  }
  SEQPRIM_HD constexpr row_starts query_starts(index_t q_len, index_t k_len) const noexcept requires places_queries<M> {
    return mask::query_starts(masks(0), q_len, k_len);
  }
  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    detail::visit_masks(self, masks, visit);
  }
  constexpr void validate(const shape& problem) const {
    detail::expect_masks(self, masks, problem.heads, "heads", problem);
  }
};
template <class M, index_t Last> per_head(tensor_view<M, 1, Last>) -> per_head<std::remove_const_t<M>>;

/// A mask of its own for each batch row: tables of unequal size, trees of different requests.
///
///     visible(b, h, q, k)  <=>  masks[b](q, k)
///
/// Errors  precondition_error: fewer masks than batch rows; those of the masks.
template <bindable M> struct per_batch {
  tensor_view<const M, 1> masks;  ///< [batch]

  static constexpr subject self{"mask::per_batch", "mask/per_head"};

  SEQPRIM_HD constexpr bound<M> bind(index_t batch, index_t head) const noexcept {
    return mask::bind(masks(batch), batch, head);
  }
  SEQPRIM_HD constexpr row_starts query_starts(index_t q_len, index_t k_len) const noexcept requires places_queries<M> {
    return mask::query_starts(masks(0), q_len, k_len);
  }
  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    detail::visit_masks(self, masks, visit);
  }
  constexpr void validate(const shape& problem) const {
    detail::expect_masks(self, masks, problem.batch, "batch rows", problem);
  }
};
template <class M, index_t Last> per_batch(tensor_view<M, 1, Last>) -> per_batch<std::remove_const_t<M>>;

}  // namespace seqprim::mask
