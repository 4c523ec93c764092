// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index_array.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor_view.hpp>

/// The arrays that masks, scores, encodings and page tables borrow, so that an entry point can check, before it reads any of them,
/// that they lie where it reads: in host memory for the CPU, in memory of the device for CUDA.
///
/// A part that borrows an array shows it by a member, and one that wraps parts passes the visit on:
///
///     template <class Visit> constexpr void for_arrays(const Visit& visit) const {
///       visit(self, "lengths", lengths);      // an index_array or a view
///       seqprim::for_arrays(inner, visit);
///     }
///
/// A part of your own without that member works; its arrays are not checked.
/// Page: docs/reference/core/arrays.md
namespace seqprim {

/// What host code does with an array that an operator carries.
enum class host_access : unsigned char {
  checks,  ///< validation reads it: an index_array as it is
  never,   ///< marked as unreadable for host code: `on_device()`
  silent,  ///< a view: nothing says where it is, and validation does not read it on CUDA
  needed,  ///< host code reads it to find out about the call, on CUDA too
};

/// One of them, as a check sees it.
struct borrowed {
  const void* data;  ///< nullptr: there is none
  host_access host = host_access::silent;

  SEQPRIM_HD constexpr borrowed(const void* pointer, host_access access) noexcept : data(pointer), host(access) {}
  constexpr borrowed(const index_array& array) noexcept  // NOLINT: an array is one
      : data(array.size() > 0 ? array.address() : nullptr),
        host(array.host_readable() ? host_access::checks : host_access::never) {}
  template <class T, int Rank, index_t Last>
  constexpr borrowed(const tensor_view<T, Rank, Last>& view,
                     host_access access = host_access::silent) noexcept  // NOLINT
      : data(view.size() > 0 ? view.data : nullptr), host(access) {}
};

/// visit(subject, name, borrowed) for every array of a part; parts without arrays have no `for_arrays`.
template <class Part, class Visit> constexpr void for_arrays(const Part& part, const Visit& visit) {
  if constexpr (requires { part.for_arrays(visit); }) part.for_arrays(visit);
}

/// An operation on the CPU reads no array that is marked as unreadable for it.
///
/// Errors  precondition_error names the array.
template <class Part> constexpr void expect_arrays(const cpu&, const Part& part) {
  for_arrays(part, [](const subject& self, const char* name, const borrowed& array) {
    self.expects(array.host != host_access::never, name,
                 " is marked on_device(), but the operation runs on the CPU: pass an array in host memory, unmarked");
  });
}

/// Views of host code are what they point to.
template <class View> constexpr void expect_memory(const cpu&, const subject&, const char*, const View&) {}

}  // namespace seqprim
