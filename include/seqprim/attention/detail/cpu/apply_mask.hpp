// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/simd.hpp>
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/by_label.hpp>
#include <seqprim/mask/concat.hpp>
#include <seqprim/mask/row_words.hpp>
#include <seqprim/mask/shifted_rows.hpp>
#include <seqprim/mask/transposed.hpp>

#include <concepts>
#include <cstdint>
#include <utility>

namespace seqprim::attention::detail {

/// Which side of the problem runs along the columns (lanes) of a tile.
enum class columns_are { queries, keys };

/// The answers of a mask for one register of pairs at a time, pair by pair: lanes are columns [first, first + live) of the tile, at(i)
/// answers for row rows.begin + i. Either side may be empty.
template <class Isa, class T, columns_are Columns, class Mask> class pairwise_lanes {
  using v = arch::simd<Isa, T>;

 public:
  pairwise_lanes(const Mask& mask, range rows, index_t first, index_t live) noexcept
      : mask_(mask), row_(rows.begin), first_(first), live_(live) {}

  [[nodiscard]] typename v::lane_mask at(index_t i) const noexcept {
    unsigned char visible[16] = {};
    for (index_t lane = 0; lane < live_; ++lane)
      visible[lane] = Columns == columns_are::queries ? mask_(first_ + lane, row_ + i) : mask_(row_ + i, first_ + lane);
    return v::lanes_of(visible);
  }

 private:
  const Mask& mask_;
  index_t row_, first_, live_;
};

/// The same answers by the best way that the hints of the mask allow; pair by pair where it gives none.
template <class Isa, class T, columns_are Columns, class Mask>
class mask_lanes : public pairwise_lanes<Isa, T, Columns, Mask> {
 public:
  using pairwise_lanes<Isa, T, Columns, Mask>::pairwise_lanes;
};

/// An end of a range brought into [0, length] before it becomes 32 bits: an empty range may lie anywhere.
[[nodiscard]] SEQPRIM_INLINE std::int32_t within(index_t index, index_t begin, index_t length) noexcept {
  return static_cast<std::int32_t>(max_of(index_t{0}, min_of(index - begin, length)));
}

/// One range of keys per row, keys along the lanes: the range of row i cut out of the register.
template <class Isa, class T, mask::one_range_per_row Mask> class mask_lanes<Isa, T, columns_are::keys, Mask> {
  using v = arch::simd<Isa, T>;

 public:
  mask_lanes(const Mask& mask, range rows, index_t first, index_t) noexcept
      : mask_(mask), row_(rows.begin), first_(first) {}

  [[nodiscard, gnu::always_inline]] typename v::lane_mask at(index_t i) const noexcept {
    const range run = mask_.visible_keys(row_ + i);
    return v::lanes_in(within(run.begin, first_, v::lanes), within(run.end, first_, v::lanes));
  }

 private:
  const Mask& mask_;
  index_t row_, first_;
};

/// One range of keys per row, queries along the lanes: two bounds per lane, compared with the key.
template <class Isa, class T, mask::one_range_per_row Mask> class mask_lanes<Isa, T, columns_are::queries, Mask> {
  using v = arch::simd<Isa, T>;

 public:
  mask_lanes(const Mask& mask, range rows, index_t first, index_t live) noexcept {
    for (index_t lane = 0; lane < live; ++lane) {
      const range run = mask.visible_keys(first + lane);
      lower_[lane] = within(run.begin, rows.begin, rows.size());
      upper_[lane] = within(run.end, rows.begin, rows.size());
    }
  }

  [[nodiscard, gnu::always_inline]] typename v::lane_mask at(index_t i) const noexcept {
    return v::in_run(static_cast<std::int32_t>(i), lower_, upper_);
  }

 private:
  std::int32_t lower_[v::lanes] = {}, upper_[v::lanes] = {};
};

/// One range of labels per row. Labels that are not in order lie in [-2^30, 2^30), and so do the ends of what is left of a range.
template <class Mask> concept compares_labels = !mask::one_range_per_row<Mask> && requires(const Mask& m, index_t q) {
  { m.visible_labels(q) } -> std::same_as<range>;
  requires mask::label_map<decltype(m.keys)>;
};
[[nodiscard]] SEQPRIM_INLINE std::int32_t label_end(index_t label) noexcept {
  constexpr index_t end = index_t{1} << 30;
  return static_cast<std::int32_t>(max_of(-end, min_of(label, end)));
}

/// Keys along the lanes: their labels in a register, compared with the bounds of row i.
template <class Isa, class T, compares_labels Mask> class mask_lanes<Isa, T, columns_are::keys, Mask> {
  using v = arch::simd<Isa, T>;
  using labels_of_rows = decltype(mask::walk(std::declval<const Mask&>().queries, range{}));

 public:
  mask_lanes(const Mask& mask, range rows, index_t first, index_t live) noexcept
      : mask_(mask), query_(mask::walk(mask.queries, rows)) {
    const auto key = mask::walk(mask.keys, {first, first + live});
    for (index_t lane = 0; lane < live; ++lane) labels_[lane] = static_cast<std::int32_t>(key(lane));
  }

  [[nodiscard, gnu::always_inline]] typename v::lane_mask at(index_t i) const noexcept {
    const range seen = mask_.inner.visible_keys(query_(i));
    return v::labels_in(labels_, label_end(seen.begin), label_end(seen.end));
  }

 private:
  const Mask& mask_;
  labels_of_rows query_;
  std::int32_t labels_[v::lanes] = {};
};

/// Queries along the lanes: two bounds per lane, compared with the label of key i.
template <class Isa, class T, compares_labels Mask> class mask_lanes<Isa, T, columns_are::queries, Mask> {
  using v = arch::simd<Isa, T>;
  using labels_of_rows = decltype(mask::walk(std::declval<const Mask&>().keys, range{}));

 public:
  mask_lanes(const Mask& mask, range rows, index_t first, index_t live) noexcept : key_(mask::walk(mask.keys, rows)) {
    const auto query = mask::walk(mask.queries, {first, first + live});
    for (index_t lane = 0; lane < live; ++lane) {
      const range seen = mask.inner.visible_keys(query(lane));
      lower_[lane] = label_end(seen.begin);
      upper_[lane] = label_end(seen.end);
    }
  }

  [[nodiscard, gnu::always_inline]] typename v::lane_mask at(index_t i) const noexcept {
    return v::in_run(static_cast<std::int32_t>(key_(i)), lower_, upper_);
  }

 private:
  labels_of_rows key_;
  std::int32_t lower_[v::lanes] = {}, upper_[v::lanes] = {};
};

/// Bits of a row, keys along the lanes: as many bits as lanes.
template <class Isa, class T> class mask_lanes<Isa, T, columns_are::keys, mask::row_words> {
  using v = arch::simd<Isa, T>;

 public:
  mask_lanes(const mask::row_words& mask, range rows, index_t first, index_t) noexcept
      : mask_(mask), row_(rows.begin), first_(first) {}

  [[nodiscard]] typename v::lane_mask at(index_t i) const noexcept {
    return v::lanes_of_bits(static_cast<std::uint32_t>(mask_.bits(row_ + i, first_)));
  }

 private:
  const mask::row_words& mask_;
  index_t row_, first_;
};

/// Bits of a row, queries along the lanes: a word per lane holds 64 keys, which are asked in order.
template <class Isa, class T> class mask_lanes<Isa, T, columns_are::queries, mask::row_words> {
  using v = arch::simd<Isa, T>;

 public:
  mask_lanes(const mask::row_words& mask, range rows, index_t first, index_t live) noexcept
      : mask_(mask), row_(rows.begin), first_(first), live_(live) {}

  [[nodiscard]] typename v::lane_mask at(index_t i) const noexcept {
    if (i / 64 != group_) {
      group_ = i / 64;
      for (index_t lane = 0; lane < live_; ++lane) words_[lane] = mask_.bits(first_ + lane, row_ + group_ * 64);
    }
    return v::lanes_with_bit(words_, static_cast<int>(i % 64));
  }

 private:
  const mask::row_words& mask_;
  index_t row_, first_, live_;
  mutable index_t group_ = -1;  // of the keys in words_
  mutable std::uint64_t words_[v::lanes] = {};
};

/// A mask asked in rows of the call: the rows move.
template <class Isa, class T, columns_are Columns, class Inner>
requires(!mask::one_range_per_row<Inner> &&
         !mask::composed<mask::shifted_rows<Inner>>) class mask_lanes<Isa, T, Columns, mask::shifted_rows<Inner>>
    : public mask_lanes<Isa, T, Columns, Inner> {
  static constexpr bool in_lanes = Columns == columns_are::queries;

 public:
  mask_lanes(const mask::shifted_rows<Inner>& mask, range rows, index_t first, index_t live) noexcept
      : mask_lanes<Isa, T, Columns, Inner>(mask.inner,
                                           in_lanes ? rows : range{rows.begin + mask.start, rows.end + mask.start},
                                           in_lanes ? first + mask.start : first, live) {}
};

/// Queries and keys exchanged.
template <class Isa, class T, columns_are Columns, class Inner>
class mask_lanes<Isa, T, Columns, mask::transposed<Inner>>
    : public mask_lanes<Isa, T, Columns == columns_are::queries ? columns_are::keys : columns_are::queries, Inner> {
 public:
  mask_lanes(const mask::transposed<Inner>& mask, range rows, index_t first, index_t live) noexcept
      : mask_lanes < Isa,
  T, Columns == columns_are::queries ? columns_are::keys : columns_are::queries, Inner >
                                                                                     (mask.inner, rows, first, live) {}
};

/// Two masks one after the other: each answers on its side of the border; a register across the border is asked pair by pair.
template <class Isa, class T, columns_are Columns, mask::side Along, class First, class Second>
class mask_lanes<Isa, T, Columns, mask::concat<Along, First, Second>> {
  using v = arch::simd<Isa, T>;
  using whole = mask::concat<Along, First, Second>;
  static constexpr bool in_lanes = (Along == mask::side::keys) == (Columns == columns_are::keys);

 public:
  mask_lanes(const whole& mask, range rows, index_t first, index_t live) noexcept
      : mask_lanes(mask, rows, {first, first + live}) {}

  [[nodiscard]] typename v::lane_mask at(index_t i) const noexcept {
    if constexpr (in_lanes) {
      return border_ >= live_ ? first_.at(i) : border_ == 0 ? second_.at(i) : pairs_.at(i);
    } else {
      return i < border_ ? first_.at(i) : second_.at(i - border_);
    }
  }

 private:
  mask_lanes(const whole& mask, range rows, range lanes) noexcept
      : border_(max_of<index_t>(mask.before_border(in_lanes ? lanes : rows).size(), 0)),
        live_(lanes.size()),
        first_(mask.first, in_lanes ? rows : mask.before_border(rows), lanes.begin, in_lanes ? border_ : live_),
        second_(mask.second, in_lanes ? rows : mask.behind_border(rows),
                in_lanes ? mask.behind_border(lanes).begin : lanes.begin, in_lanes ? live_ - border_ : live_),
        pairs_(mask, rows, lanes.begin, live_) {}

  index_t border_, live_;
  mask_lanes<Isa, T, Columns, First> first_;
  mask_lanes<Isa, T, Columns, Second> second_;
  pairwise_lanes<Isa, T, Columns, whole> pairs_;
};

/// A mask that is the same as a composition of others.
template <class Isa, class T, columns_are Columns, mask::composed Mask>
requires(!mask::detail::is_composition<Mask>) class mask_lanes<Isa, T, Columns, Mask> {
  using v = arch::simd<Isa, T>;

 public:
  mask_lanes(const Mask& mask, range rows, index_t first, index_t live) noexcept
      : composition_(mask.composition()), rule_(composition_, rows, first, live) {}
  mask_lanes(const mask_lanes&) = delete;
  mask_lanes& operator=(const mask_lanes&) = delete;
  [[nodiscard, gnu::always_inline]] typename v::lane_mask at(index_t i) const noexcept { return rule_.at(i); }

 private:
  using composition = decltype(std::declval<const Mask&>().composition());
  composition composition_;
  mask_lanes<Isa, T, Columns, composition> rule_;
};

/// Compositions ask their parts.
template <class Isa, class T, columns_are Columns, class A, class B>
requires(!mask::one_range_per_row<mask::both<A, B>>) class mask_lanes<Isa, T, Columns, mask::both<A, B>> {
  using v = arch::simd<Isa, T>;

 public:
  mask_lanes(const mask::both<A, B>& mask, range rows, index_t first, index_t live) noexcept
      : first_(mask.first, rows, first, live), second_(mask.second, rows, first, live) {}
  [[nodiscard, gnu::always_inline]] typename v::lane_mask at(index_t i) const noexcept {
    return v::both(first_.at(i), second_.at(i));
  }

 private:
  mask_lanes<Isa, T, Columns, A> first_;
  mask_lanes<Isa, T, Columns, B> second_;
};
template <class Isa, class T, columns_are Columns, class A, class B>
class mask_lanes<Isa, T, Columns, mask::either<A, B>> {
  using v = arch::simd<Isa, T>;

 public:
  mask_lanes(const mask::either<A, B>& mask, range rows, index_t first, index_t live) noexcept
      : first_(mask.first, rows, first, live), second_(mask.second, rows, first, live) {}
  [[nodiscard, gnu::always_inline]] typename v::lane_mask at(index_t i) const noexcept {
    return v::either(first_.at(i), second_.at(i));
  }

 private:
  mask_lanes<Isa, T, Columns, A> first_;
  mask_lanes<Isa, T, Columns, B> second_;
};
template <class Isa, class T, columns_are Columns, class A> class mask_lanes<Isa, T, Columns, mask::inverse<A>> {
  using v = arch::simd<Isa, T>;

 public:
  mask_lanes(const mask::inverse<A>& mask, range rows, index_t first, index_t live) noexcept
      : part_(mask.part, rows, first, live) {}
  [[nodiscard, gnu::always_inline]] typename v::lane_mask at(index_t i) const noexcept {
    return v::inverse(part_.at(i));
  }

 private:
  mask_lanes<Isa, T, Columns, A> part_;
};

/// Replaces what the mask hides in tile[row, column] by `hidden`. `rows` and `columns` are the absolute indices of
/// the tile; columns beyond the range, up to whole registers, may change.
template <class Isa, class T, columns_are Columns, class Mask>
void apply_mask(const Mask& mask, range rows, range columns, T* tile, index_t tile_row, T hidden) noexcept {
  using v = arch::simd<Isa, T>;
  const auto otherwise = v::set(hidden);
  for (index_t j = 0; j < columns.size(); j += v::lanes) {
    const mask_lanes<Isa, T, Columns, Mask> visible(mask, rows, columns.begin + j,
                                                    min_of<index_t>(v::lanes, columns.size() - j));
    for (index_t i = 0; i < rows.size(); ++i) {
      T* const at = tile + i * tile_row + j;
      v::store(at, v::select(visible.at(i), v::load(at), otherwise));
    }
  }
}

}  // namespace seqprim::attention::detail
