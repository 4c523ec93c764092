// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/cuda/fragment.hpp>
#include <seqprim/core/element.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/position/encode.hpp>
#include <seqprim/position/rule.hpp>

#include <cstddef>
#include <cstdint>

/// One block of CUDA lanes that encodes vectors: rows are copied into shared memory, each lane encodes one there with the functor of
/// the CPU, and the results are stored. Written over the engine interface of arch/cuda/mma_sync.cuh, so that the host runs the same
/// algorithm on emulated lanes.
namespace seqprim::position::detail {

inline constexpr int encode_warps = 2, encode_lanes = encode_warps * arch::cuda::warp_lanes;
/// Shared memory that a block may take: three blocks and more on each multiprocessor of sm_80 and sm_90.
inline constexpr index_t encode_shared_bytes = 64 * 1024;

/// Two of the four indices of a row: those of the first and the third axis.
struct row_place {
  index_t first, row;
};

/// What is known about one token of a block.
struct token_slot {
  index_t batch, row;  ///< what its coordinate is asked for
  row_place from, to;
  bool live;
};

/// The tokens of a call with the same number of rows in each batch row.
struct dense_tokens {
  index_t batch, len;

  [[nodiscard]] SEQPRIM_HD constexpr index_t count() const noexcept { return batch * len; }
  /// The batch row of token n and its row there, and where its vectors are.
  [[nodiscard]] SEQPRIM_HD constexpr row_place of(index_t n) const noexcept { return {n / len, n % len}; }
  [[nodiscard]] SEQPRIM_HD constexpr row_place source(index_t n) const noexcept { return of(n); }
};

/// Where results go: row r of batch row b to the same row of y. A type of its own may have no place for a row, which then is neither
/// read nor written, and `prepare(rows in memory, lane)`, which changes encoded rows before they are stored.
template <class Y> struct dense_results {
  tensor_view<Y, 4> rows;
  bool aligned;

  [[nodiscard]] SEQPRIM_HD constexpr bool place(index_t batch, index_t row, row_place& to) const noexcept {
    to = {batch, row};
    return true;
  }
};

/// Every row of a view starts at a multiple of 16 bytes.
template <class View> [[nodiscard]] bool rows_at_16_bytes(const View& view) noexcept {
  bool aligned = reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0;
  for (int axis = 0; axis < View::rank - 1; ++axis)
    aligned = aligned && (view.extent(axis) <= 1 ||
                          view.stride(axis) * static_cast<index_t>(sizeof(typename View::value_type)) % 16 == 0);
  return aligned;
}

/// How the vectors of a call are divided. A block owns `tokens` neighboring tokens and `heads` heads; `rows` of their vectors, a
/// multiple of `tokens`, are in shared memory at once, one for each lane. Steps are odd: lanes with neighboring rows meet different
/// banks.
struct encode_tile {
  int tokens, rows, heads;
  int in, out;               ///< elements of a vector before and after
  int row_step, table_step;  ///< elements from one row of shared memory to the next
  std::size_t shared_bytes;
};

/// The largest tile that fits. `element_bytes`: of the type of the arithmetic.
[[nodiscard]] inline encode_tile encode_tile_of(const subject& self, index_t tokens, index_t heads, index_t in,
                                                index_t out, index_t table_size, bool table_per_head,
                                                std::size_t element_bytes) {
  constexpr index_t heads_of_block = 8;  // share the tables: a table costs as much as a few vectors
  const auto odd = [](index_t n) { return n | 1; };
  const index_t row_step = odd(in == out ? in : in + out), table_step = table_size == 0 ? 0 : odd(table_size);
  const auto size = static_cast<index_t>(element_bytes);
  index_t block_tokens = heads > 1 ? encode_lanes / 2 : encode_lanes, rows = 0, bytes = 0;
  while (block_tokens / 2 >= max<index_t>(tokens, 1)) block_tokens /= 2;
  for (index_t lanes = encode_lanes; lanes > 0; lanes /= 2) {
    block_tokens = min(block_tokens, lanes);
    rows = min(lanes, block_tokens * max<index_t>(heads, 1));
    bytes = block_tokens * static_cast<index_t>(sizeof(token_slot)) +
            (rows * row_step + (table_per_head ? rows : block_tokens) * table_step) * size;
    if (bytes <= encode_shared_bytes) break;
  }
  self.expects(bytes <= encode_shared_bytes, "a vector of ", in, " elements and its table take ", bytes,
               " bytes of shared memory on CUDA, more than ", encode_shared_bytes);
  const index_t block_heads = max(heads_of_block, rows / block_tokens);
  return {static_cast<int>(block_tokens), static_cast<int>(rows),         static_cast<int>(block_heads),
          static_cast<int>(in),           static_cast<int>(out),          static_cast<int>(row_step),
          static_cast<int>(table_step),   static_cast<std::size_t>(bytes)};
}

/// Everything that a block reads and writes.
template <class E, class Map, class Tokens, class X, class Results> struct encode_call {
  using encoding_type = E;
  using input = X;
  using arithmetic = accumulator<X>;

  E encoding;  ///< for_head_dim
  side which;
  Map map;
  Tokens tokens;
  tensor_view<const X, 4> x;
  Results to;
  index_t head_dim;  ///< of vectors that are not encoded
  encode_tile tile;
  bool x_aligned;

  [[nodiscard]] index_t blocks() const noexcept {
    return ceil_div(tokens.count(), tile.tokens) * ceil_div(x.extent(1), tile.heads);
  }
};

/// The call that encodes x; `encoding` is one for head_dim, operands are checked.
template <class E, class Map, class Tokens, class X, class Results>
[[nodiscard]] encode_call<E, Map, Tokens, X, Results> make_encode_call(const subject& self, const E& encoding,
                                                                       side which, const Map& map, const Tokens& tokens,
                                                                       index_t head_dim,
                                                                       const tensor_view<const X, 4>& x,
                                                                       const Results& to) {
  index_t table_size = 0;
  if constexpr (encodes<E>) table_size = encoding.table_size();
  const encode_tile tile = encode_tile_of(self, tokens.count(), x.extent(1), x.extent(3), to.rows.extent(3), table_size,
                                          encodes<E> && per_head<E>, sizeof(accumulator<X>));
  return {encoding, which, map, tokens, x, to, head_dim, tile, rows_at_16_bytes(x)};
}

/// 16 bytes of neighboring elements, read and written at once.
template <class T> struct alignas(16) sixteen_bytes {
  static constexpr int count = 16 / sizeof(T);
  T elements[count];
};

/// The vectors that a block has in shared memory, row after row: row r is the vector of token r % tokens and head
/// first_head + r / tokens.
template <class Call> struct rows_in_memory {
  using T = typename Call::arithmetic;
  static constexpr int lanes = encode_lanes;
  const Call& call;
  const token_slot* slots;
  T* memory;
  index_t first_head, end_head;

  [[nodiscard]] SEQPRIM_HD int count() const noexcept { return call.tile.rows; }
  [[nodiscard]] SEQPRIM_HD const token_slot& slot(int r) const noexcept { return slots[r % call.tile.tokens]; }
  [[nodiscard]] SEQPRIM_HD index_t head(int r) const noexcept { return first_head + r / call.tile.tokens; }
  [[nodiscard]] SEQPRIM_HD bool live(int r) const noexcept { return head(r) < end_head && slot(r).live; }
  [[nodiscard]] SEQPRIM_HD T* before(int r) const noexcept { return memory + r * call.tile.row_step; }
  /// The same memory where the width stays.
  [[nodiscard]] SEQPRIM_HD T* after(int r) const noexcept {
    return before(r) + (call.tile.in == call.tile.out ? 0 : call.tile.in);
  }

  /// body(row, first element, elements): parts of rows of at most `Part` elements, neighboring lanes at neighboring parts.
  template <int Part, class Body> SEQPRIM_HD void for_parts(int lane, int width, const Body& body) const noexcept {
    const int parts = (width + Part - 1) / Part;
    int across = 1;  // lanes at one row
    while (across < arch::cuda::warp_lanes && across < parts) across *= 2;
    for (int r = lane / across; r < count(); r += lanes / across) {
      if (!live(r)) continue;
      for (int n = lane % across; n < parts; n += across) body(r, n * Part, min(Part, width - n * Part));
    }
  }

  template <class Engine> SEQPRIM_HD void load(const Engine& engine, int lane) const noexcept {
    using X = typename Call::input;
    using chunk = sixteen_bytes<X>;
    for_parts<chunk::count>(lane, call.tile.in, [&](int r, int first, int elements) {
      const row_place& from = slot(r).from;
      const X* const x = &call.x(from.first, head(r), from.row, first);
      T* const to = before(r) + first;
      if (call.x_aligned && elements == chunk::count) {
        const chunk values = *reinterpret_cast<const chunk*>(x);
        SEQPRIM_UNROLL
        for (int n = 0; n < chunk::count; ++n) engine.store(to + n, static_cast<T>(values.elements[n]));
      } else {
        SEQPRIM_ROLLED
        for (int n = 0; n < elements; ++n) engine.store(to + n, static_cast<T>(x[n]));
      }
    });
  }

  SEQPRIM_HD void store(int lane) const noexcept {
    using Y = typename decltype(call.to.rows)::value_type;
    using chunk = sixteen_bytes<Y>;
    for_parts<chunk::count>(lane, call.tile.out, [&](int r, int first, int elements) {
      const row_place& at = slot(r).to;
      Y* const y = &call.to.rows(at.first, head(r), at.row, first);
      const T* const from = after(r) + first;
      if (call.to.aligned && elements == chunk::count) {
        chunk values;
        SEQPRIM_UNROLL
        for (int n = 0; n < chunk::count; ++n) values.elements[n] = static_cast<Y>(from[n]);
        *reinterpret_cast<chunk*>(y) = values;
      } else {
        SEQPRIM_ROLLED
        for (int n = 0; n < elements; ++n) y[n] = static_cast<Y>(from[n]);
      }
    });
  }
};

/// The table of one token; NaN where the encoding has none for its coordinate: the host could not see it.
template <class Call>
SEQPRIM_HD void fill_table(const Call& call, const token_slot& slot, index_t head,
                           typename Call::arithmetic* table) noexcept {
  using E = typename Call::encoding_type;
  const auto at = static_cast<typename E::coordinate>(position::bind(call.map, slot.batch, head)(slot.row));
  if constexpr (requires { call.encoding.covers(at); }) {
    if (!call.encoding.covers(at)) {
      for (index_t n = 0; n < call.encoding.table_size(); ++n)
        table[n] = static_cast<typename Call::arithmetic>(__builtin_nanf(""));
      return;
    }
  }
  position::fill_table(call.encoding, at, head, table);
}

/// One block of call.blocks().
template <direction Way, class Engine, class Call>
SEQPRIM_HD void encode_block(const Engine& engine, const Call& call, void* shared) noexcept {
  using E = typename Call::encoding_type;
  using T = typename Call::arithmetic;
  const encode_tile& tile = call.tile;
  const int lane = engine.warp() * arch::cuda::warp_lanes + engine.lane();
  const index_t heads = call.x.extent(1), head_blocks = ceil_div(heads, tile.heads);
  const index_t block = engine.block(), first_token = block / head_blocks * tile.tokens;
  const index_t first_head = block % head_blocks * tile.heads, end_head = min(first_head + tile.heads, heads);
  auto* const slots = static_cast<token_slot*>(shared);
  T* const rows = reinterpret_cast<T*>(slots + tile.tokens);
  T* const tables = rows + tile.rows * tile.row_step;

  for (int n = lane; n < tile.tokens; n += encode_lanes) {
    token_slot slot{};
    slot.live = first_token + n < call.tokens.count();
    if (slot.live) {
      const auto at = call.tokens.of(first_token + n), from = call.tokens.source(first_token + n);
      slot.batch = at.first;
      slot.row = at.row;
      slot.from = {from.first, from.row};
      slot.live = call.to.place(at.first, at.row, slot.to);
    }
    slots[n] = slot;
    if constexpr (encodes<E> && !per_head<E>) {
      if (slot.live) detail::fill_table(call, slot, 0, tables + n * tile.table_step);
    }
  }
  engine.sync_block();
  for (index_t head = first_head; head < end_head; head += tile.rows / tile.tokens) {
    const rows_in_memory<Call> here{call, slots, rows, head, end_head};
    here.load(engine, lane);
    if constexpr (encodes<E>) {
      engine.sync_block();
      for (int r = lane; r < tile.rows; r += encode_lanes) {
        if (!here.live(r)) continue;
        T* table = tables + r % tile.tokens * tile.table_step;
        if constexpr (per_head<E>) {
          table = tables + r * tile.table_step;
          detail::fill_table(call, here.slot(r), here.head(r), table);
        }
        if constexpr (Way == direction::forward) {
          position::apply(call.encoding, call.which, here.before(r), here.after(r), table, call.head_dim);
        } else {
          position::apply_transposed(call.encoding, call.which, here.before(r), here.after(r), table, call.head_dim);
        }
      }
    }
    if constexpr (requires { call.to.prepare(here, lane); }) {
      engine.sync_block();
      call.to.prepare(here, lane);
    }
    engine.sync_block();
    here.store(lane);
    engine.sync_block();  // the next vectors take the same memory
  }
}

}  // namespace seqprim::position::detail
