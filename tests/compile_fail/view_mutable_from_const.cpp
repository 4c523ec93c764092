// SPDX-License-Identifier: Apache-2.0
// expect-error: conver
// A read-only view does not become a mutable one.
#include <seqprim/core/tensor_view.hpp>

using namespace seqprim;

#if defined(FIXED)
tensor_view<const float, 2> widen(tensor_view<const float, 2, 64> view) { return view; }
#else
tensor_view<float, 2> widen(tensor_view<const float, 2, 64> view) { return view; }
#endif
