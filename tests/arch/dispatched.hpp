// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/dispatch.hpp>
#include <seqprim/core/tensor_view.hpp>

#include <string>

/// Causal attention, compiled once for each instruction set (dispatched.cpp); this header needs no engine.
// example-begin declare
struct causal_attention {
  using isas = seqprim::arch::all_isas;
  using view = seqprim::tensor_view<float, 4>;

  /// Writes out; returns the name of the instruction set that it was compiled for.
  template <class Isa> static std::string run(const view& q, const view& k, const view& v, const view& out);
};
// example-end declare
