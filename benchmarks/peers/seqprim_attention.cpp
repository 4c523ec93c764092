// SPDX-License-Identifier: Apache-2.0
// Attention on one thread as a C function, so that attention_server.py can call it as it calls the other libraries.
#include <seqprim/attention/decode.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/core/raw.hpp>
#include <seqprim/mask/causal.hpp>

#include <cstdio>
#include <exception>

using namespace seqprim;

namespace {

template <class T>
void run(bool decodes, bool causal, index_t heads, index_t q_len, index_t k_len, index_t dim, const void* q,
         const void* k, const void* v, void* out) {
  constexpr cpu one{.threads = 1};
  const auto view = [&](const void* data, index_t len) {
    return from_raw(static_cast<const T*>(data), {index_t{1}, heads, len, dim});
  };
  const auto result = from_raw(static_cast<T*>(out), {index_t{1}, heads, q_len, dim});
  if (decodes) {
    attention::decode(one, attention::softmax{}, view(q, q_len), view(k, k_len), view(v, k_len), result);
  } else if (causal) {
    attention::forward(one, attention::softmax{mask::causal{}}, view(q, q_len), view(k, k_len), view(v, k_len), result);
  } else {
    attention::forward(one, attention::softmax{}, view(q, q_len), view(k, k_len), view(v, k_len), result);
  }
}

}  // namespace

/// q, out [1, heads, q_len, dim]; k, v [1, heads, k_len, dim], dense. 0, or 1 and the reason in `message`.
extern "C" int seqprim_attention(int is_bfloat16, int decodes, int causal, std::int64_t heads, std::int64_t q_len,
                                 std::int64_t k_len, std::int64_t dim, const void* q, const void* k, const void* v,
                                 void* out, char* message, int capacity) try {
  (is_bfloat16 != 0 ? run<bfloat16> : run<float>)(decodes != 0, causal != 0, heads, q_len, k_len, dim, q, k, v, out);
  return 0;
} catch (const std::exception& error) {
  std::snprintf(message, static_cast<std::size_t>(capacity), "%s", error.what());
  return 1;
}

/// The instruction set that the kernels were compiled for.
extern "C" const char* seqprim_isa() { return arch::native_isa::name; }
