// SPDX-License-Identifier: Apache-2.0
// One file, several object files: see the CMakeLists.txt beside it.
// example-begin define
#include "dispatched.hpp"

#include <seqprim/attention/attention.hpp>
#include <seqprim/mask/causal.hpp>

template <class Isa> std::string causal_attention::run(const view& q, const view& k, const view& v, const view& out) {
  namespace attention = seqprim::attention;
  attention::forward<Isa>(seqprim::cpu{}, attention::softmax{seqprim::mask::causal{}}, q, k, v, out);
  return Isa::name;
}

// This object file holds the copy for its own flags.
template std::string causal_attention::run<seqprim::arch::native_isa>(const view&, const view&, const view&,
                                                                      const view&);
// example-end define
