// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/raw.hpp>

#include <concepts>
#include <cstddef>
#include <type_traits>

namespace seqprim {

/// Views of std::mdspan, cuda::std::mdspan, Kokkos::mdspan, or any type with their interface; no <mdspan> is included.
/// Elements must be plain memory: an accessor that computes its references has nothing to point at.
template <class M> concept mdspan_like = requires(const M& m) {
  typename M::element_type;
  { M::rank() } -> std::convertible_to<std::size_t>;
  { M::static_extent(0) } -> std::convertible_to<std::size_t>;
  { m.extent(0) } -> std::convertible_to<index_t>;
  { m.stride(0) } -> std::convertible_to<index_t>;
  requires std::same_as < std::remove_cvref_t<decltype(m.data_handle())>,
  typename M::element_type* > ;
  requires std::same_as<typename M::reference, typename M::element_type&>;
};

namespace detail {

template <class M> consteval index_t static_last_extent() {
  constexpr auto extent = static_cast<std::size_t>(M::static_extent(M::rank() - 1));
  return extent == static_cast<std::size_t>(-1) ? dynamic_extent : static_cast<index_t>(extent);
}

}  // namespace detail

/// View of an mdspan of rank 1 to 6: the same elements, strides and static last extent. The mdspan may be destroyed;
/// its data must outlive the view.
///
/// Errors  precondition_error: the layout has no strides; those of from_raw.  Page docs/reference/core/adapters.md
template <mdspan_like M> [[nodiscard]] auto from_mdspan(const M& m) {
  constexpr int rank = static_cast<int>(M::rank());
  static_assert(rank >= 1 && rank <= 6, "seqprim: views have rank 1 to 6. See docs/reference/core/adapters.md");
  if constexpr (requires { m.is_strided(); }) {
    SEQPRIM_EXPECTS(m.is_strided(), "from_mdspan: the layout of the mdspan has no strides");
  }
  using extent_type = decltype(m.extent(0));
  index_t extents[rank];
  index_t strides[rank];
  for (int axis = 0; axis < rank; ++axis) {
    extents[axis] = static_cast<index_t>(m.extent(static_cast<extent_type>(axis)));
    strides[axis] = static_cast<index_t>(m.stride(static_cast<extent_type>(axis)));
  }
  detail::expect_valid_array("from_mdspan", m.data_handle(), extents, strides);
  return tensor_view<typename M::element_type, rank, detail::static_last_extent<M>()>(m.data_handle(), extents,
                                                                                      strides);
}

}  // namespace seqprim
