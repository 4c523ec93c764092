// SPDX-License-Identifier: Apache-2.0
// expect-error: an activation needs static templates 'X value(X x)' and 'X derivative(X x)'
#include <seqprim/nn/gated_mlp.hpp>

using namespace seqprim;

struct minus_itself {
#if defined(FIXED)
  template <class X> static X value(X x) noexcept { return -x; }
  template <class X> static X derivative(X) noexcept { return X(-1); }
#else
  float operator()(float x) const { return -x; }
#endif
};
nn::gated_mlp<minus_itself> layer;
