// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/isa.hpp>
#include <seqprim/core/error.hpp>

#include <string>
#include <type_traits>
#include <utility>

/// Opt-in choice of the instruction set at run time: one source file, compiled once for each instruction set, and a call that
/// takes the best copy that the machine can run.
///
///     struct my_attention {                                    // my_attention.hpp
///       using isas = arch::isa_list<arch::scalar, arch::avx2, arch::avx512>;
///       template <class Isa> static void run(...);
///     };
///
///     template <class Isa> void my_attention::run(...) { attention::forward<Isa>(...); }  // my_attention.cpp
///     template void my_attention::run<arch::native_isa>(...);
///
///     seqprim_compile_per_isa(my_program SOURCES my_attention.cpp ISAS scalar avx2 avx512)   # CMakeLists.txt
///
///     arch::dispatch<my_attention>(...);                       // anywhere
///
/// Page: docs/reference/arch/dispatch.md
namespace seqprim::arch {

/// Instruction sets in ascending order: the last one that runs is the best.
template <class... Isas> struct isa_list { static constexpr int size = sizeof...(Isas); };

/// All instruction sets that this library has engines for.
using all_isas = isa_list<scalar, avx2, avx512, avx512_bf16, amx_bf16>;

/// The result of `choose`.
template <int Size> struct isa_choice {
  struct unsupported {
    const char* isa;
    const char* reason;
  };

  int index = -1;                 ///< of the chosen one in the list; -1 when none runs here
  const char* isa = "none";       ///< its name
  unsupported better[Size] = {};  ///< those behind it in the list, best first, and why they are unsupported
  int better_count = 0;

  /// "avx2 (avx512: the processor has no AVX-512 F, BW, VL and DQ)"
  [[nodiscard]] SEQPRIM_INLINE std::string words() const {
    std::string text = isa;
    for (int n = 0; n < better_count; ++n) {
      text += n == 0 ? " (" : "; ";
      text += better[n].isa;
      text += ": ";
      text += better[n].reason;
    }
    if (better_count > 0) text += ')';
    return text;
  }
};

inline namespace SEQPRIM_TARGET_NAMESPACE {

/// The last instruction set of the list that runs on this machine, and why those behind it do not.
template <class... Isas> [[nodiscard]] isa_choice<sizeof...(Isas)> choose(isa_list<Isas...>) noexcept {
  static_assert(sizeof...(Isas) > 0, "seqprim: an isa_list names at least one instruction set");
  const char* const names[] = {Isas::name...};
  const char* const reasons[] = {unsupported_reason<Isas>()...};
  isa_choice<sizeof...(Isas)> choice;
  for (int n = static_cast<int>(sizeof...(Isas)) - 1; n >= 0; --n) {
    if (reasons[n] == nullptr) {
      choice.index = n;
      choice.isa = names[n];
      break;
    }
    choice.better[choice.better_count++] = {names[n], reasons[n]};
  }
  return choice;
}

namespace detail {

template <class Entry, class Result, class Isa, class... Rest, class... Args>
Result run_nth(int n, isa_list<Isa, Rest...>, Args&&... args) {
  if constexpr (sizeof...(Rest) > 0) {
    if (n > 0) return run_nth<Entry, Result>(n - 1, isa_list<Rest...>{}, std::forward<Args>(args)...);
  }
  return Entry::template run<Isa>(std::forward<Args>(args)...);
}

template <class Entry, class First, class... Rest, class... Args>
auto result_of_run(isa_list<First, Rest...>, Args&&... args)
    -> decltype(Entry::template run<First>(std::forward<Args>(args)...));

}  // namespace detail

/// Calls Entry::run<Isa>(args...) with the best instruction set of the list that this machine runs. `choose` reports which one
/// that is. A list of your own forces the choice: dispatch<my_attention, arch::isa_list<arch::avx2>>(...).
///
/// Errors  precondition_error when none of the list runs here, naming what each lacks. What is not compiled for an
///         instruction set of the list is missing when the program is linked.
/// Cost    a few loads and compares for each call.
template <class Entry, class List = typename Entry::isas, class... Args> decltype(auto) dispatch(Args&&... args) {
  const auto choice = choose(List{});
  SEQPRIM_EXPECTS(choice.index >= 0, "arch::dispatch: no instruction set of the list runs here: ", choice.words(),
                  ". See docs/reference/arch/dispatch.md");
  using result = decltype(detail::result_of_run<Entry>(List{}, std::forward<Args>(args)...));
  return detail::run_nth<Entry, result>(choice.index, List{}, std::forward<Args>(args)...);
}

}  // namespace SEQPRIM_TARGET_NAMESPACE

}  // namespace seqprim::arch
