// SPDX-License-Identifier: Apache-2.0
// expect-error: an activation needs static 'value<V>(x)' and 'derivative<V>(x)'
#include <seqprim/nn/gated_mlp.hpp>

using namespace seqprim;

struct minus_itself {
#if defined(FIXED)
  template <class V> static typename V::reg value(typename V::reg x) noexcept { return V::sub(V::zero(), x); }
  template <class V> static typename V::reg derivative(typename V::reg) noexcept { return V::set(-1); }
#else
  float operator()(float x) const { return -x; }
#endif
};
nn::gated_mlp<minus_itself> layer;
