// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/simd.hpp>
#include <seqprim/mask/algebra.hpp>

#include <cstdint>
#include <utility>

namespace seqprim::attention::detail {

/// Which side of the problem runs along the columns (lanes) of a tile.
enum class columns_are { queries, keys };

/// A mask asked for one register of pairs at a time: lanes are columns [first, first + live) of the tile, at(i) answers for
/// row rows.begin + i. This one asks pair by pair; those below know better.
template <class Isa, class T, columns_are Columns, class Mask> class mask_lanes {
  using v = arch::simd<Isa, T>;

 public:
  mask_lanes(const Mask& mask, range rows, index_t first, index_t live) noexcept
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

/// Both ends of a run brought into [0, length] before they become 32 bits: an empty run may lie anywhere.
[[nodiscard]] SEQPRIM_INLINE std::int32_t within(index_t index, index_t begin, index_t length) noexcept {
  return static_cast<std::int32_t>(max(index_t{0}, min(index - begin, length)));
}

/// One run of keys a row, keys along the lanes: the run of row i cut out of the register.
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

/// One run of keys a row, queries along the lanes: two elements a lane, compared with the key.
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

/// A mask that is the same as a composition of others.
template <class Isa, class T, columns_are Columns, class Mask>
requires requires(const Mask& m) { m.composition(); }
class mask_lanes<Isa, T, Columns, Mask> {
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
                                                    min<index_t>(v::lanes, columns.size() - j));
    for (index_t i = 0; i < rows.size(); ++i) {
      T* const at = tile + i * tile_row + j;
      v::store(at, v::select(visible.at(i), v::load(at), otherwise));
    }
  }
}

}  // namespace seqprim::attention::detail
