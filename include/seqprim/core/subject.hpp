// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/core/index_array.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace seqprim {

/// A limit in a rule, with the name of the operand that sets it: "k_len (12)" instead of "12".
struct limit {
  index_t value;
  const char* name = nullptr;

  constexpr limit(index_t number, const char* set_by = nullptr) noexcept : value(number), name(set_by) {}  // NOLINT
};

/// The length that an axis must have, what messages call it, and the operand that sets it: {64, "head_dim", "q"}.
struct axis_length {
  index_t length;
  const char* name;
  const char* set_by;
};

/// What a check speaks for: the name of a primitive and its reference page, written once for all its messages.
///
///     static constexpr subject self{"mask::prefix_per_batch", "mask/prefix"};
///
///     constexpr void validate(const shape& problem) const {
///       self.expects_count("lengths", lengths, problem.batch, "batch rows");
///       self.expects_each("lengths", lengths.first(problem.batch), 0, {problem.k_len, "k_len"});
///     }
///
/// throws "mask::prefix_per_batch: lengths[1] (40) must be in [0, k_len (32)]. See docs/reference/mask/prefix.md". The parts
/// of a message are evaluated whether it is needed or not: pass values, not computations.
///
/// Errors  every function throws precondition_error when its rule is broken. Host code only; arrays that are on the device
///         are taken as they are.
/// Page docs/reference/core/error.md
struct subject {
  const char* name;  ///< "family::primitive"
  const char* page;  ///< "family/stem", below docs/reference and without its ending

  /// The rule holds; else the parts, joined, say what is wrong.
  template <class... Parts> SEQPRIM_INLINE constexpr void expects(bool condition, const Parts&... parts) const;

  /// An array has an entry for each of n things: "lengths has 3 entries but there are 4 batch rows".
  SEQPRIM_INLINE constexpr void expects_count(const char* operand, const index_array& array, index_t n,
                                              const char* things) const;

  /// low <= entry <= high for every entry.
  SEQPRIM_INLINE constexpr void expects_each(const char* operand, const index_array& array, limit low,
                                             limit high) const;

  /// Offsets of packed sequences: they begin with 0 and never decrease; n sequences have n + 1.
  SEQPRIM_INLINE constexpr void expects_offsets(const char* operand, const index_array& offsets) const;

  /// One axis of an operand has the length that another sets: "k has head_dim 64 (axis 3), but q has head_dim 128".
  template <class View>
  SEQPRIM_INLINE constexpr void expects_extent(const char* operand, const View& view, int axis, const char* axis_name,
                                               index_t expected, const char* set_by) const;

  /// The same for all axes of an operand.
  template <class View>
  SEQPRIM_INLINE constexpr void expects_shape(const char* operand, const View& view,
                                              const axis_length (&shape)[static_cast<std::size_t>(View::rank)]) const;

  /// No axis has a negative length, as that of a slice that ends before it begins.
  template <class View> SEQPRIM_INLINE constexpr void expects_lengths(const char* operand, const View& view) const;

  /// The elements of the last axis are neighbors in memory; no length is negative.
  template <class View> SEQPRIM_INLINE constexpr void expects_contiguous(const char* operand, const View& view) const;

  /// No two elements share memory: no axis steps within the reach of another, in either direction.
  template <class View> SEQPRIM_INLINE constexpr void expects_distinct(const char* operand, const View& view) const;

  /// Working memory has what a call needs, in one piece, from a multiple of `alignment` bytes on.
  template <class View>
  SEQPRIM_INLINE void expects_workspace(const View& workspace, index_t needed, const char* unit, int alignment) const;

  /// Two operands share no memory.
  template <class First, class Second>
  SEQPRIM_INLINE constexpr void expects_apart(const char* first_name, const First& first, const char* second_name,
                                              const Second& second) const;
};
static_assert(std::is_aggregate_v<subject>);

namespace detail {
inline namespace SEQPRIM_TARGET_NAMESPACE {

template <class... Parts> [[noreturn, gnu::cold, gnu::noinline]] void fail(const subject& self, const Parts&... parts) {
  throw precondition_error(message(self.name, ": ", parts..., ". See docs/reference/", self.page, ".md"));
}

[[nodiscard]] inline std::string words_of(const limit& x) {
  return x.name == nullptr ? message(x.value) : message(x.name, " (", x.value, ")");
}

constexpr void expect_each(const subject& self, const char* operand, const index_array& array, limit low, limit high) {
  for (index_t i = 0; i < array.size(); ++i)
    if (array[i] < low.value || array[i] > high.value)
      fail(self, operand, "[", i, "] (", array[i], ") must be in [", words_of(low), ", ", words_of(high), "]");
}

[[gnu::noinline]] constexpr void expect_offsets(const subject& self, const char* operand, const index_array& offsets) {
  if (offsets[0] != 0) fail(self, operand, "[0] (", offsets[0], ") must be 0");
  for (index_t d = 1; d < offsets.size(); ++d)
    if (offsets[d] < offsets[d - 1])
      fail(self, operand, "[", d, "] (", offsets[d], ") must be >= ", operand, "[", d - 1, "] (", offsets[d - 1], ")");
}

}  // namespace SEQPRIM_TARGET_NAMESPACE
}  // namespace detail

template <class... Parts> constexpr void subject::expects(bool condition, const Parts&... parts) const {
  if (!condition) detail::fail(*this, parts...);
}

constexpr void subject::expects_count(const char* operand, const index_array& array, index_t n,
                                      const char* things) const {
  expects(array.size() >= n, operand, " has ", array.size(), " entries but there are ", n, " ", things);
}

constexpr void subject::expects_each(const char* operand, const index_array& array, limit low, limit high) const {
  if (array.host_readable()) detail::expect_each(*this, operand, array, low, high);
}

constexpr void subject::expects_offsets(const char* operand, const index_array& offsets) const {
  expects(offsets.size() >= 1, operand, " is empty; n sequences need n + 1 offsets");
  if (offsets.host_readable()) detail::expect_offsets(*this, operand, offsets);
}

template <class View>
constexpr void subject::expects_extent(const char* operand, const View& view, int axis, const char* axis_name,
                                       index_t expected, const char* set_by) const {
  expects(view.extent(axis) == expected, operand, " has ", axis_name, " ", view.extent(axis), " (axis ", axis,
          "), but ", set_by, " has ", axis_name, " ", expected);
}

template <class View>
constexpr void subject::expects_shape(const char* operand, const View& view,
                                      const axis_length (&shape)[static_cast<std::size_t>(View::rank)]) const {
  for (int axis = 0; axis < View::rank; ++axis)
    expects_extent(operand, view, axis, shape[axis].name, shape[axis].length, shape[axis].set_by);
}

template <class View> constexpr void subject::expects_lengths(const char* operand, const View& view) const {
  for (int axis = 0; axis < View::rank; ++axis)
    expects(view.extent(axis) >= 0, "axis ", axis, " of ", operand, " has the negative length ", view.extent(axis));
}

template <class View> constexpr void subject::expects_contiguous(const char* operand, const View& view) const {
  expects_lengths(operand, view);
  constexpr int last = View::rank - 1;
  expects(view.stride(last) == 1 || view.extent(last) <= 1, "the last axis of ", operand,
          " must be contiguous, its stride is ", view.stride(last));
}

template <class View> constexpr void subject::expects_distinct(const char* operand, const View& view) const {
  if (view.size() == 0) return;
  const auto step = [&](int axis) { return view.stride(axis) < 0 ? -view.stride(axis) : view.stride(axis); };
  bool taken[View::rank] = {};
  index_t reach = 0;  // of the axes taken so far, shortest steps first
  for (int n = 0; n < View::rank; ++n) {
    int next = -1;
    for (int axis = 0; axis < View::rank; ++axis)
      if (!taken[axis] && (next < 0 || step(axis) < step(next))) next = axis;
    taken[next] = true;
    if (view.extent(next) <= 1) continue;
    expects(step(next) > reach, "elements of ", operand, " share memory: axis ", next, " steps by ", view.stride(next));
    reach += (view.extent(next) - 1) * step(next);
  }
}

template <class View>
void subject::expects_workspace(const View& workspace, index_t needed, const char* unit, int alignment) const {
  expects(workspace.extent(0) >= needed, "the workspace has ", workspace.extent(0), " ", unit, ", ", needed,
          " are required");
  expects_contiguous("the workspace", workspace);
  expects(reinterpret_cast<std::uintptr_t>(workspace.data) % static_cast<unsigned>(alignment) == 0,
          "the workspace must be aligned to ", alignment, " bytes");
}

template <class First, class Second>
constexpr void subject::expects_apart(const char* first_name, const First& first, const char* second_name,
                                      const Second& second) const {
  expects(!may_overlap(first, second), first_name, " overlaps ", second_name);
}

}  // namespace seqprim
