// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/lanes.hpp>
#include <seqprim/core/arrays.hpp>
#include <seqprim/core/element.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/scratch.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/linalg/rows.hpp>
#include <seqprim/position/rule.hpp>
#include <seqprim/position/sequential.hpp>

#include <type_traits>

namespace seqprim::position {

namespace detail {

enum class direction { forward, backward };

/// out[0 .. count) = in[0 .. count), widened to T or rounded from it. Other types go through T.
template <class Isa, class T, class X, class Y> void convert_row(const X* in, index_t count, Y* out) noexcept {
  linalg::for_lanes<arch::lanes<Isa, T>>(count, [&](index_t d, auto part) { part.store(out + d, part.load(in + d)); });
}

/// Encodes vectors one by one. Arithmetic is in T; rows of other types pass through two buffers of buffer_size() numbers.
template <class Isa, class T, direction Way, class E> struct row_encoder {
  const E& encoding;
  side which;
  index_t head_dim;
  T* buffer;

  [[nodiscard]] static index_t buffer_size(const E& encoding, index_t head_dim) noexcept {
    return 2 * max(head_dim, position::encoded_dim(encoding, head_dim));
  }

  template <class X, class Y> void operator()(const X* x, Y* y, const T* table) const noexcept {
    const index_t width = position::encoded_dim(encoding, head_dim);
    const index_t in = Way == direction::forward ? head_dim : width, out = Way == direction::forward ? width : head_dim;
    if constexpr (std::is_same_v<X, T> && std::is_same_v<Y, T>) {
      run(x, y, table);
    } else if constexpr (std::is_same_v<Y, T>) {
      convert_row<Isa, T>(x, in, buffer);
      run(buffer, y, table);
    } else {
      T* const result = in == out ? buffer : buffer + max(in, out);
      if constexpr (std::is_same_v<X, T>) {
        run(x, result, table);
      } else {
        convert_row<Isa, T>(x, in, buffer);
        run(buffer, result, table);
      }
      convert_row<Isa, T>(result, out, y);
    }
  }

 private:
  void run(const T* x, T* y, const T* table) const noexcept {
    if constexpr (Way == direction::forward) {
      position::apply(encoding, which, x, y, table, head_dim);
    } else {
      position::apply_transposed(encoding, which, x, y, table, head_dim);
    }
  }
};

/// One tensor to encode, checked. Tensors that are encoded together line their rows up: rows with the same `first` + row are
/// worked on at the same time, and share a table where their coordinates agree.
template <class Map, class X, class Y> struct encoded_part {
  side which;
  const Map& map;
  tensor_view<const X, 4> x;
  tensor_view<Y, 4> y;
  index_t first = 0;

  [[nodiscard]] range rows() const noexcept { return {first, first + x.extent(2)}; }
  [[nodiscard]] bool in_place() const noexcept {
    bool same = std::is_same_v<X, Y> && static_cast<const void*>(x.data) == y.data && x.extent(3) == y.extent(3);
    for (int axis = 0; axis < 4; ++axis) same = same && (x.extent(axis) == 1 || x.stride(axis) == y.stride(axis));
    return same;
  }
};

/// Tables of a few neighboring rows, each reused until its row is asked for at another coordinate.
template <class E, class T> class row_tables {
  using coordinate_type = typename E::coordinate;

 public:
  static constexpr index_t count = 16;

  row_tables(const E& encoding, T* memory) noexcept : encoding_(encoding), memory_(memory) {}

  [[nodiscard]] const T* get(index_t slot, const coordinate_type& at, index_t head) noexcept {
    T* const table = memory_ + slot * encoding_.table_size();
    if (!(filled_[slot] && at_[slot] == at && (!per_head<E> || head_[slot] == head))) {
      position::fill_table(encoding_, at, head, table);
      filled_[slot] = true;
      at_[slot] = at;
      head_[slot] = head;
    }
    return table;
  }

 private:
  const E& encoding_;
  T* memory_;
  bool filled_[count] = {};
  coordinate_type at_[count];
  index_t head_[count];
};

/// Encodes the rows of one part that lie in `rows`, of one batch row if the part differs between them, else of all.
template <class Isa, direction Way, class E, class T, class Map, class X, class Y>
void encode_block(const E& encoding, index_t head_dim, const encoded_part<Map, X, Y>& part, index_t batch, range rows,
                  row_tables<E, T>& tables, T* buffer) noexcept {
  const row_encoder<Isa, T, Way, E> encode_row{encoding, part.which, head_dim, buffer};
  const range mine = intersect(rows, part.rows());
  // A table serves all heads, and all batch rows too, unless encoding or coordinates differ between them.
  for (index_t h = 0; h < part.x.extent(1); ++h) {
    const auto at = position::bind(part.map, batch, h);
    for (index_t row = mine.begin; row < mine.end; ++row) {
      const index_t i = row - part.first;
      const T* const table = tables.get(row - rows.begin, static_cast<typename E::coordinate>(at(i)), h);
      encode_row(&part.x(batch, h, i, 0), &part.y(batch, h, i, 0), table);
    }
  }
}

/// Encodes parts of the same batch together.
template <class Isa, direction Way, class E, class First, class... Rest>
void encode_parts(const cpu& executor, const E& encoding, index_t head_dim, const First& first, const Rest&... rest) {
  using T = accumulator<typename decltype(First::x)::value_type>;
  using tables = row_tables<E, T>;
  range rows = first.rows();
  ((rows = bounding_range(rows, rest.rows())), ...);
  // Batch rows are worked on one after the other where they may share tables.
  const bool by_batch = varies_by_batch(first.map) || (varies_by_batch(rest.map) || ...);
  const index_t batch = first.x.extent(0), owners = by_batch ? batch : 1, sharers = by_batch ? 1 : batch;
  const index_t blocks = ceil_div(rows.size(), tables::count), table_size = encoding.table_size() * tables::count;
  const scratch<T> memory(static_cast<int>(min<index_t>(max<index_t>(owners * blocks, 1), thread_count(executor))),
                          table_size + row_encoder<Isa, T, Way, E>::buffer_size(encoding, head_dim));
  parallel_for(executor, owners * blocks, [&](index_t piece, int thread) {
    const index_t owner = piece / blocks, begin = rows.begin + piece % blocks * tables::count;
    const range block{begin, min(begin + tables::count, rows.end)};
    T* const buffer = memory.slab(thread) + table_size;
    tables of_block(encoding, memory.slab(thread));
    for (index_t b = owner; b < owner + sharers; ++b) {
      encode_block<Isa, Way>(encoding, head_dim, first, b, block, of_block, buffer);
      (encode_block<Isa, Way>(encoding, head_dim, rest, b, block, of_block, buffer), ...);
    }
  });
}

template <class Isa, class X, class Y>
void copy_rows(const cpu& executor, const tensor_view<const X, 4>& x, const tensor_view<Y, 4>& y) {
  const index_t heads = x.extent(1);
  parallel_for(executor, x.extent(0) * heads, [&](index_t piece, int) {
    const index_t b = piece / heads, h = piece % heads;
    for (index_t i = 0; i < x.extent(2); ++i)
      convert_row<Isa, accumulator<X>>(&x(b, h, i, 0), x.extent(3), &y(b, h, i, 0));
  });
}

/// Every coordinate of the call is one that the encoding has a table for.
template <class E, class Map>
void expect_covered(const char* name, const E& encoding, const Map& map, index_t batch, index_t heads, index_t len) {
  if constexpr (requires(const typename E::coordinate& c) { encoding.covers(c); }) {
    constexpr const char* page = ". See docs/reference/position/table.md";
    for (index_t b = 0; b < (varies_by_batch(map) ? batch : 1); ++b)
      for (index_t h = 0; h < (depends_on_head<Map> ? heads : 1); ++h) {
        const auto at = position::bind(map, b, h);
        for (index_t i = 0; i < len; ++i) {
          const auto c = at(i);
          if constexpr (is_point<std::remove_const_t<decltype(c)>>) {
            SEQPRIM_EXPECTS(encoding.covers(c), name, ": the point of row ", i, " is not in the table of the encoding",
                            page);
          } else {
            SEQPRIM_EXPECTS(encoding.covers(c), name, ": position ", c, " of row ", i,
                            " is not in the table of the encoding", page);
          }
        }
      }
  }
}

template <class E> consteval bool require_no_side() {
  if constexpr (encoding<E>)
    static_assert(!sided<E>,
                  "seqprim: this encoding treats queries and keys differently: say 'position::side::query' or "
                  "'position::side::key' before x. See docs/reference/position/encode.md");
  return true;
}

/// Checks one tensor that `name` is about to encode with an encoding for head_dim. An executor of the host also asks the map for
/// its coordinates.
template <direction Way, class Executor, class E, class Map, class X, class Y>
[[nodiscard]] encoded_part<Map, X, Y> checked_part(const Executor&, const char* name, const E& encoding, side which,
                                                   const Map& map, index_t head_dim, const tensor_view<const X, 4>& x,
                                                   const tensor_view<Y, 4>& y) {
  static_assert(require_map<Map>() && require_coordinates<E, Map>());
  static_assert(std::is_same_v<accumulator<X>, accumulator<Y>>,
                "seqprim: position::encode reads and writes double, or neither");
  const subject self{name, "position/encode"};
  self.expects_lengths("x", x);
  position::validate(encoding, head_dim);
  const index_t width = position::encoded_dim(encoding, head_dim);
  constexpr const char* axis_names[] = {"batch", "heads", "len"};
  for (int axis = 0; axis < 3; ++axis) self.expects_extent("y", y, axis, axis_names[axis], x.extent(axis), "x");
  const index_t encoded = Way == direction::forward ? y.extent(3) : x.extent(3);
  self.expects(encoded == width, "vectors of head_dim ", head_dim, " are encoded into ", width, " elements, not ",
               encoded);
  position::validate_map(map, x.extent(0), x.extent(2));
  const encoded_part<Map, X, Y> part{which, map, x, y};
  if (x.size() == 0 && y.size() == 0) return part;
  self.expects_contiguous("x", x);
  self.expects_contiguous("y", y);
  self.expects(part.in_place() || !may_overlap(x, y), "x and y overlap without being the same view");
  if constexpr (encodes<E> && std::is_same_v<Executor, cpu>)
    expect_covered(name, encoding, map, x.extent(0), x.extent(1), x.extent(2));
  return part;
}

template <class Isa, direction Way, class E, class Map, class X, class Y>
void encode(const char* name, const cpu& executor, const E& given, side which, const Map& map, const X& input,
            Y&& output) {
  static_assert(require_encoding<E>());
  const tensor_view<const element_of<X>, 4> x = as_view(input);
  const tensor_view<element_of<Y>, 4> y = as_view(output);
  executor.validate();
  expect_arrays(executor, given);
  expect_arrays(executor, map);
  const index_t head_dim = Way == direction::forward ? x.extent(3) : y.extent(3);
  const auto encoding = position::for_head_dim(given, head_dim);
  const auto part = checked_part<Way>(executor, name, encoding, which, map, head_dim, x, y);
  if (x.size() == 0 && y.size() == 0) return;
  if constexpr (encodes<E>) {
    encode_parts<Isa, Way>(executor, encoding, head_dim, part);
  } else if (!part.in_place()) {
    copy_rows<Isa>(executor, x, y);
  }
}

}  // namespace detail

/// Encodes the coordinate of every token into its vectors: y = encode(x, map(row)). An encoding that treats queries and keys
/// differently needs to be told which side x is.
///
/// Shapes   x [batch, heads, len, head_dim]; y [batch, heads, len, encoded_dim], for most encodings the same; any extent may be 0
/// Types    float, float16, bfloat16, each side its own: tables and arithmetic in float, one rounding. double: all in double.
/// Layout   head_dim contiguous, other strides free; y may be x where the width stays, or not overlap it
/// Errors   precondition_error: shapes disagree, the encoding does not fit head_dim, the map has fewer rows, y overlaps x
///          in part, a position outside of a table
/// Repeat   same bits for any number of threads
/// Cost     one table per token (per batch row or head as well, where map or encoding depend on it), then memory-bound;
///          allocates 16 tables and two vectors per thread
/// Page docs/reference/position/encode.md
template <class Isa = arch::native_isa, class E, class Map, viewable<4> X, viewable<4> Y>
void encode(const cpu& executor, const E& encoding, const Map& map, side which, const X& x, Y&& y) {
  detail::encode<Isa, detail::direction::forward>("position::encode", executor, encoding, which, map, x, y);
}
template <class Isa = arch::native_isa, class E, class Map, viewable<4> X, viewable<4> Y>
void encode(const cpu& executor, const E& encoding, const Map& map, const X& x, Y&& y) {
  static_assert(detail::require_no_side<E>());
  detail::encode<Isa, detail::direction::forward>("position::encode", executor, encoding, side::query, map, x, y);
}

/// The gradient of encode: dx = (d encode / d x)^T dy, for a rotation the rotation by the opposite angles. Same rules as encode.
template <class Isa = arch::native_isa, class E, class Map, viewable<4> DY, viewable<4> DX>
void encode_backward(const cpu& executor, const E& encoding, const Map& map, side which, const DY& dy, DX&& dx) {
  detail::encode<Isa, detail::direction::backward>("position::encode_backward", executor, encoding, which, map, dy, dx);
}
template <class Isa = arch::native_isa, class E, class Map, viewable<4> DY, viewable<4> DX>
void encode_backward(const cpu& executor, const E& encoding, const Map& map, const DY& dy, DX&& dx) {
  static_assert(detail::require_no_side<E>());
  detail::encode<Isa, detail::direction::backward>("position::encode_backward", executor, encoding, side::query, map,
                                                   dy, dx);
}

}  // namespace seqprim::position
