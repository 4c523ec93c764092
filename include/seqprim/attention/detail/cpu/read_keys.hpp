// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cache.hpp>
#include <seqprim/attention/detail/cpu/decode_split.hpp>
#include <seqprim/position/encode.hpp>

#include <cstdint>
#include <type_traits>

/// How decode gets at the keys of a range of tokens: in place, or encoded into memory of the thread.
namespace seqprim::attention::detail {

/// Keys of one sequence and head from token `begin` on, whichever sequence and head they are asked for.
template <class T> struct encoded_range {
  tensor_view<const T, 4> store;  ///< [1, 1, tokens, dim], strides of 0 for sequence and head
  index_t begin;

  template <class Body> void for_ranges(index_t, range tokens, const Body& body) const {
    if (!tokens.empty()) body(index_t{0}, tokens.begin - begin, tokens);
  }
};

/// A cache that holds keys as they came: reading gives them their positions.
template <class Isa, class Keys, class Encoding, class Map> class unencoded_cache {
 public:
  /// Encoded keys have the storage type of the cache; those of a quantized cache are float.
  using element = std::conditional_t<std::is_same_v<cache_element<Keys>, std::int8_t>, float, cache_element<Keys>>;

  unencoded_cache(const Keys& keys, const Encoding& encoding, const Map& map, index_t head_dim) noexcept
      : keys_(keys),
        encoding_(encoding),
        map_(map),
        head_dim_(head_dim),
        encoded_dim_(position::encoded_dim(encoding, head_dim)) {}

  [[nodiscard]] index_t length(index_t b) const noexcept { return keys_.length(b); }

  /// Bytes that read() takes for `tokens` of them.
  [[nodiscard]] index_t memory_size(index_t tokens) const noexcept {
    workspace memory(nullptr);
    static_cast<void>(take(memory, tokens));
    return memory.used();
  }

  [[nodiscard]] encoded_range<element> read(index_t b, index_t g, range tokens, workspace& memory) const noexcept {
    const buffers to = take(memory, tokens.size());
    const position::detail::row_encoder<Isa, float, position::detail::direction::forward, Encoding> encode{
        encoding_, position::side::key, head_dim_, to.vectors};
    const auto at = position::bind(map_, b, g);
    keys_.for_ranges(b, tokens, [&](index_t first, index_t row, range part) {
      for (index_t j = part.begin; j < part.end; ++j) {
        position::fill_table(encoding_, static_cast<typename Encoding::coordinate>(at(j)), g, to.table);
        element* const key = to.keys + (j - tokens.begin) * encoded_dim_;
        if constexpr (is_quantized<decltype(keys_.store)>) {
          for (index_t d = 0; d < head_dim_; ++d) to.row[d] = keys_.store(first, g, row + j - part.begin, d);
          encode(to.row, key, to.table);
        } else {
          encode(&keys_.store(first, g, row + j - part.begin, 0), key, to.table);
        }
      }
    });
    return {tensor_view<const element, 4>(to.keys, {1, 1, tokens.size(), encoded_dim_}, {0, 0, encoded_dim_, 1}),
            tokens.begin};
  }

 private:
  struct buffers {
    element* keys;
    float *table, *vectors, *row;
  };
  [[nodiscard]] buffers take(workspace& memory, index_t tokens) const noexcept {
    return {memory.take<element>(tokens * encoded_dim_), memory.take<float>(encoding_.table_size()),
            memory.take<float>(2 * max(head_dim_, encoded_dim_)), memory.take<float>(head_dim_)};
  }

  Keys keys_;
  Encoding encoding_;
  Map map_;
  index_t head_dim_, encoded_dim_;
};

/// The keys of some tokens of a cache, and the memory that takes. Encoded ones are read where they are.
template <class Keys> [[nodiscard]] index_t read_memory(const Keys& keys, index_t tokens) noexcept {
  if constexpr (requires { keys.memory_size(tokens); }) {
    return keys.memory_size(tokens);
  } else {
    return 0;
  }
}
template <class Keys>
[[nodiscard]] auto read_keys(const Keys& keys, index_t b, index_t g, range tokens, workspace& memory) noexcept {
  if constexpr (requires { keys.read(b, g, tokens, memory); }) {
    return keys.read(b, g, tokens, memory);
  } else {
    return keys;
  }
}

}  // namespace seqprim::attention::detail
