// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cache.hpp>
#include <seqprim/attention/detail/decode_rows.hpp>
#include <seqprim/attention/detail/online_softmax.hpp>
#include <seqprim/attention/detail/online_softmax_pairs.hpp>
#include <seqprim/attention/detail/tile.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/attention/tuning.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>
#include <type_traits>
#include <utility>

/// One piece of decode: the query rows that share a key head against one run of keys.
namespace seqprim::attention::detail {

/// The query rows of key head g, heads after heads: row r is query i = queries.begin + r % queries.size() of head
/// query_head(g, r / queries.size()).
struct folded_rows {
  problem shape;
  index_t b, g;
  range queries;

  [[nodiscard]] index_t count() const noexcept { return shape.group() * queries.size(); }
  [[nodiscard]] index_t head(index_t r) const noexcept { return shape.query_head(g, r / queries.size()); }
  [[nodiscard]] index_t query(index_t r) const noexcept { return queries.begin + r % queries.size(); }
};

/// Where the results of rows lie: of each row the weighted values [value_dim], not yet divided, the largest logit (units of
/// log 2) and the sum of weights 2^(logit - top); `step` numbers from row to row.
struct part_rows {
  float* data;
  index_t step;

  /// Numbers of one row.
  [[nodiscard]] static constexpr index_t size(index_t value_dim) noexcept { return value_dim + 2; }
};

/// Hands out pieces of one slab of memory, each on a cache line of its own. Without memory it only counts.
class slab_cursor {
 public:
  explicit slab_cursor(std::byte* memory) noexcept : memory_(memory) {}
  template <class X> [[nodiscard]] X* take(index_t count) noexcept {
    std::byte* const at = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += round_up(count * static_cast<index_t>(sizeof(X)), 64);
    return reinterpret_cast<X*>(at);
  }
  [[nodiscard]] index_t used() const noexcept { return used_; }

 private:
  std::byte* memory_;
  index_t used_ = 0;
};

/// Addresses of the rows of a run of a cache that somebody sees.
template <class Isa, class Store> struct gathered {
  static constexpr bool codes = is_quantised<Store>;
  using element = typename store_traits<Store>::element;
  const element** row;
  const float** scales;  ///< of each row; null where the cache has none

  gathered(slab_cursor& memory, index_t keys) noexcept
      : row(memory.take<const element*>(keys)), scales(codes ? memory.take<const float*>(keys) : nullptr) {}

  /// Fills the lists with the tokens of `run` whose entry in `seen` is not 0 (all of them where seen is null); goes on with
  /// the last one up to a multiple of 16. Returns how many there are.
  template <class Cache>
  index_t fill(const Cache& cache, index_t b, index_t g, range run, const std::uint16_t* seen) const noexcept {
    index_t count = 0;
    const auto rows = rows_of(cache.store);
    cache.for_runs(b, run, [&](index_t first, index_t at, range part) {
      const element* from = &rows(first, g, at, 0);
      const float* scale = nullptr;
      index_t scale_step = 0;
      if constexpr (codes) {
        scale = &cache.store.scales(first, g, at, 0);
        scale_step = cache.store.scales.stride(2);
      }
      for (index_t j = part.begin; j < part.end; ++j) {
        row[count] = from;
        if constexpr (codes) scales[count] = scale;
        count += seen == nullptr || seen[j - run.begin] != 0 ? 1 : 0;
        from += rows.stride(2);
        scale += scale_step;
      }
    });
    for (index_t j = count; count > 0 && j < round_up(count, 16); ++j) {
      row[j] = row[count - 1];
      if constexpr (codes) scales[j] = scales[count - 1];
    }
    return count;
  }

  /// Calls body(list) with the list type that the store needs.
  template <class Body> void visit(const Store& store, const Body& body) const noexcept {
    if constexpr (codes) {
      if (store.scales.extent(3) > 1) {
        body(code_list<true>{row, scales, store.block(), store.scales.stride(3)});
      } else {
        body(code_list<false>{row, scales, store.block(), 0});
      }
    } else {
      body(number_list<element>{row});
    }
  }
  /// True where row j has one scale of its own, which belongs to the logit or the weight.
  [[nodiscard]] static bool scaled(const Store& store) noexcept {
    if constexpr (codes) return store.scales.extent(3) == 1;
    return false;
  }
  /// True when every number of row j is finite.
  [[nodiscard]] bool finite_row(const Store& store, index_t j, index_t dim) const noexcept {
    if constexpr (codes) {
      bool result = true;
      for (index_t n = 0; n < store.scales.extent(3); ++n)
        result = result && std::isfinite(scales[j][n * store.scales.stride(3)]);
      return result;
    } else {
      return finite<Isa, float>(row[j], dim);
    }
  }
};

/// Few rows: at most as many as a register has lanes, vectors along head_dim.
template <class Isa, class Keys, class Values> class row_engine {
  using v = arch::simd<Isa, float>;
  using key_store = decltype(Keys::store);
  using value_store = decltype(Values::store);

 public:
  /// Bytes of memory for a split of so many keys.
  [[nodiscard]] static index_t memory_size(index_t split, index_t head_dim, index_t value_dim) noexcept {
    slab_cursor memory(nullptr);
    const row_engine counted(memory, split, head_dim, value_dim);
    return memory.used();
  }

  row_engine(slab_cursor& memory, index_t split, index_t head_dim, index_t value_dim) noexcept
      : head_dim_(head_dim),
        value_dim_(value_dim),
        acc_row_(round_up(max<index_t>(value_dim, 1), v::lanes)),
        keys_(memory, round_up(split, 16)),
        values_(memory, round_up(split, 16)),
        queries_(memory.take<float>(v::lanes * round_up(max<index_t>(head_dim, 1), v::lanes))),
        logits_(memory.take<float>(v::lanes * round_up(split, 16))),
        acc_(memory.take<float>(v::lanes * acc_row_)),
        seen_(memory.take<std::uint16_t>(split)),
        token_(memory.take<std::int32_t>(split)) {}

  /// Writes the parts of all rows over the tokens of `run`.
  template <class Op, class Q>
  void run(const Op& op, double scale, const folded_rows& rows, const tensor_view<const Q, 4>& q, const Keys& keys,
           const Values& values, range run, const part_rows& parts) noexcept {
    for (index_t r = 0; r < rows.count(); r += v::lanes)
      run_block(op, scale, rows, range{r, min<index_t>(r + v::lanes, rows.count())}, q, keys, values, run, parts);
  }

 private:
  template <class Op, class Q>
  void run_block(const Op& op, double scale, const folded_rows& rows, range block, const tensor_view<const Q, 4>& q,
                 const Keys& keys, const Values& values, range run, const part_rows& parts) noexcept {
    const index_t count = block.size();
    if constexpr (v::lanes >= 16)
      if (count > 8) return run_rows<16>(op, scale, rows, block, q, keys, values, run, parts);
    if constexpr (v::lanes >= 8)
      if (count > 4) return run_rows<8>(op, scale, rows, block, q, keys, values, run, parts);
    if constexpr (v::lanes >= 4)
      if (count > 2) return run_rows<4>(op, scale, rows, block, q, keys, values, run, parts);
    if constexpr (v::lanes >= 2)
      if (count > 1) return run_rows<2>(op, scale, rows, block, q, keys, values, run, parts);
    run_rows<1>(op, scale, rows, block, q, keys, values, run, parts);
  }

  /// What the rows of a block see of a run.
  enum class sight { nothing, everything, some };

  template <class Op>
  [[nodiscard]] sight look(const Op& op, const folded_rows& rows, range block, range run) const noexcept {
    bool any = false, all = true;
    for (index_t r = block.begin; r < block.end;) {
      const index_t i = rows.query(r), more = min(rows.queries.end - i, block.end - r);
      const auto kind = mask::bind(op.mask, rows.b, rows.head(r)).classify(range{i, i + more}, run);
      any = any || kind != mask::tile_kind::empty;
      all = all && kind == mask::tile_kind::full;
      r += more;
    }
    return all ? sight::everything : any ? sight::some : sight::nothing;
  }

  /// seen_[j] has bit n set where row block.begin + n sees token run.begin + j.
  template <class Op> void mark_seen(const Op& op, const folded_rows& rows, range block, range run) const noexcept {
    for (index_t j = 0; j < run.size(); ++j) seen_[j] = 0;
    for (index_t r = block.begin; r < block.end; ++r) {
      const auto mask = mask::bind(op.mask, rows.b, rows.head(r));
      const index_t i = rows.query(r);
      const auto bit = static_cast<std::uint16_t>(1u << (r - block.begin));
      for (index_t j = 0; j < run.size(); ++j)
        if (mask(i, run.begin + j)) seen_[j] = static_cast<std::uint16_t>(seen_[j] | bit);
    }
  }

  template <int Rows, class Op, class Q>
  void run_rows(const Op& op, double scale, const folded_rows& rows, range block, const tensor_view<const Q, 4>& q,
                const Keys& keys, const Values& values, range run, const part_rows& parts) noexcept {
    using Score = std::remove_cvref_t<decltype(op.score)>;
    constexpr bool identity = std::is_same_v<Score, score::identity>;
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const sight sight_of_run = look(op, rows, block, run);
    const bool some = sight_of_run == sight::some;
    index_t count = 0;
    if (some) mark_seen(op, rows, block, run);
    if (sight_of_run != sight::nothing) count = keys_.fill(keys, rows.b, rows.g, run, some ? seen_ : nullptr);
    if (count == 0) {
      for (index_t r = block.begin; r < block.end; ++r) write_empty(parts.data + r * parts.step);
      return;
    }
    values_.fill(values, rows.b, rows.g, run, some ? seen_ : nullptr);
    keys_.visit(keys.store, [&](const auto& list) { prefetch(list, count, head_dim_); });
    // Token of each list entry, and whether some rows see it and others do not.
    bool mixed = false;
    if (some) {
      const auto everybody = static_cast<std::uint16_t>((1u << block.size()) - 1u);
      for (index_t j = 0, n = 0; j < run.size(); ++j) {
        if (seen_[j] == 0) continue;
        mixed = mixed || seen_[j] != everybody;
        token_[n] = static_cast<std::int32_t>(j);
        seen_[n++] = seen_[j];
      }
    }
    load_queries<Rows>(rows, block, q);

    const index_t padded = round_up(count * Rows, v::lanes);
    keys_.visit(keys.store, [&](const auto& list) { dots<Isa, Rows>(queries_, list, count, head_dim_, logits_); });
    values_.visit(values.store, [&](const auto& list) { prefetch(list, count, value_dim_); });
    if (keys_.scaled(keys.store)) multiply_scales<Rows>(keys_.scales, count, logits_);
    multiply_all<Isa>(logits_, padded, static_cast<float>(identity ? scale * log2_e : scale));
    if constexpr (!identity) {
      for (index_t r = block.begin; r < block.end; ++r) {
        const auto score = score::bind(op.score, rows.b, rows.head(r));
        const index_t i = rows.query(r);
        for (index_t n = 0; n < count; ++n) {
          float& logit = logits_[n * Rows + r - block.begin];
          logit = static_cast<float>(score(logit, score::site{i, run.begin + (some ? token_[n] : n)})) *
                  static_cast<float>(log2_e);
        }
      }
    }
    if (mixed) {
      for (index_t n = 0; n < count; ++n)
        for (int r = 0; r < Rows; ++r)
          if ((seen_[n] >> r & 1) == 0) logits_[n * Rows + r] = -infinity;
    }
    for (index_t i = count * Rows; i < padded; ++i) logits_[i] = -infinity;
    float top[Rows], sum[Rows];
    exponentiate_rows<Isa, Rows>(logits_, padded, top, sum);
    if (values_.scaled(values.store)) multiply_scales<Rows>(values_.scales, count, logits_);

    for (index_t i = 0; i < Rows * acc_row_; ++i) acc_[i] = 0;
    values_.visit(values.store, [&](const auto& list) {
      if (!mixed) {
        add_weighted<Isa, Rows>(list, range{0, count}, logits_, value_dim_, acc_, acc_row_);
      } else {
        add_mixed<Rows>(list, values.store, count, block.size());
      }
    });
    for (index_t r = block.begin; r < block.end; ++r) {
      const index_t n = r - block.begin;
      float* const part = parts.data + r * parts.step;
      for (index_t d = 0; d < value_dim_; ++d) part[d] = acc_[n * acc_row_ + d];
      part[value_dim_] = top[n];
      part[value_dim_ + 1] = sum[n];
    }
  }

  template <int Rows, class Q>
  void load_queries(const folded_rows& rows, range block, const tensor_view<const Q, 4>& q) noexcept {
    const index_t padded = round_up(head_dim_, v::lanes);
    for (int r = 0; r < Rows; ++r) {
      const bool live = block.begin + r < block.end;
      const Q* const from =
          live && head_dim_ > 0 ? &q(rows.b, rows.head(block.begin + r), rows.query(block.begin + r), 0) : nullptr;
      for (index_t d = 0; d < padded; d += v::lanes) {
        auto x = v::zero();
        if (live) x = v::load_partial(from + d, static_cast<int>(min<index_t>(v::lanes, head_dim_ - d)));
        v::store(queries_ + d * Rows + r * v::lanes, x);
      }
    }
  }

  template <int Rows> static void multiply_scales(const float* const* scales, index_t count, float* logits) noexcept {
    for (index_t n = 0; n < count; ++n)
      for (int r = 0; r < Rows; ++r) logits[n * Rows + r] *= *scales[n];
  }

  /// Weighted values where some tokens are hidden from some rows, with weight 0: that must not meet infinity or NaN.
  template <int Rows, class List>
  void add_mixed(const List& list, const value_store& store, index_t count, index_t live) noexcept {
    const auto special = [&](index_t n) {
      const auto everybody = static_cast<std::uint16_t>((1u << live) - 1u);
      return seen_[n] != everybody && !values_.finite_row(store, n, value_dim_);
    };
    for (index_t begin = 0; begin < count;) {
      index_t end = begin;
      while (end < count && !special(end)) ++end;
      add_weighted<Isa, Rows>(list, range{begin, end}, logits_, value_dim_, acc_, acc_row_);
      if (end < count) {
        for (int r = 0; r < Rows; ++r)
          if (seen_[end] >> r & 1)
            add_weighted<Isa, 1>(list, range{end, end + 1}, logits_ + end * (Rows - 1) + r, value_dim_,
                                 acc_ + r * acc_row_, acc_row_);
      }
      begin = end + 1;
    }
  }

  void write_empty(float* part) const noexcept {
    for (index_t d = 0; d < value_dim_; ++d) part[d] = 0;
    part[value_dim_] = -std::numeric_limits<float>::infinity();
    part[value_dim_ + 1] = 0;
  }

  index_t head_dim_, value_dim_, acc_row_;
  gathered<Isa, key_store> keys_;
  gathered<Isa, value_store> values_;
  float *queries_, *logits_, *acc_;
  std::uint16_t* seen_;
  std::int32_t* token_;
};

/// The masks of the heads of a group as one rule of folded rows, and their scores likewise.
template <class Mask> struct folded_mask {
  const Mask* of_head;
  range queries;

  bool operator()(index_t r, index_t j) const noexcept {
    return of_head[r / queries.size()](queries.begin + r % queries.size(), j);
  }
};
template <class Score> struct folded_score {
  const Score* of_head;
  range queries;

  float operator()(float logit, score::site at) const noexcept {
    return of_head[at.q / queries.size()](logit, score::site{queries.begin + at.q % queries.size(), at.k});
  }
};

/// Many rows: tiles of queries along the lanes, the engines of forward.
template <class Isa, class Policy, class Op, class Q, class Keys, class Values> class tile_engine {
  static constexpr tile_policy policy = Policy::template choose<Isa>();
  template <class Cache>
  using widened_element = std::conditional_t<is_quantised<decltype(Cache::store)>, float, cache_element<Cache>>;
  using key = widened_element<Keys>;
  using value = widened_element<Values>;
  static constexpr bool pairs = arch::pair_products<Isa>::available && std::is_same_v<Q, bfloat16> &&
                                std::is_same_v<key, bfloat16> && std::is_same_v<value, bfloat16>;
  using engine = std::conditional_t<pairs, online_softmax_pairs<Isa, float>, online_softmax<Isa, float>>;
  using mask_type = decltype(mask::bind(std::declval<const Op&>().mask, index_t{}, index_t{}));
  using score_type = decltype(score::bind(std::declval<const Op&>().score, index_t{}, index_t{}));
  static constexpr bool identity = std::is_same_v<score_type, score::identity>;

 public:
  [[nodiscard]] static index_t memory_size(const problem& p) noexcept {
    slab_cursor memory(nullptr);
    const tile_engine counted(memory, p);
    return memory.used();
  }

  tile_engine(slab_cursor& memory, const problem& p) noexcept
      : head_dim_(p.head_dim),
        value_dim_(p.value_dim),
        masks_(memory.take<mask_type>(p.group())),
        scores_(memory.take<score_type>(p.group())),
        queries_(memory.take<Q>(policy.q_tile * p.head_dim)),
        keys_(memory.take<key>(policy.k_tile * p.head_dim)),
        values_(memory.take<value>(policy.k_tile * p.value_dim)),
        softmax_memory_(memory.take<float>(engine::scratch_size(policy, p.head_dim, p.value_dim))) {}

  /// Writes the parts of all rows over the tokens of `run`.
  void run(const Op& op, double scale, const folded_rows& rows, const tensor_view<const Q, 4>& q, const Keys& keys,
           const Values& values, range run, const part_rows& parts) noexcept {
    for (index_t n = 0; n < rows.shape.group(); ++n) {
      const index_t h = rows.shape.query_head(rows.g, n);
      ::new (static_cast<void*>(masks_ + n)) mask_type(mask::bind(op.mask, rows.b, h));
      ::new (static_cast<void*>(scores_ + n)) score_type(score::bind(op.score, rows.b, h));
    }
    for (index_t r = 0; r < rows.count(); r += policy.q_tile)
      run_block(scale, rows, range{r, min<index_t>(r + policy.q_tile, rows.count())}, q, keys, values, run, parts);
  }

 private:
  [[nodiscard]] mask::tile_kind classify(const folded_rows& rows, range block, range tile) const noexcept {
    bool any = false, all = true;
    for (index_t r = block.begin; r < block.end;) {
      const index_t i = rows.query(r), more = min(rows.queries.end - i, block.end - r);
      const auto kind = masks_[r / rows.queries.size()].classify(range{i, i + more}, tile);
      any = any || kind != mask::tile_kind::empty;
      all = all && kind == mask::tile_kind::full;
      r += more;
    }
    return all ? mask::tile_kind::full : any ? mask::tile_kind::partial : mask::tile_kind::empty;
  }

  void run_block(double scale, const folded_rows& rows, range block, const tensor_view<const Q, 4>& q, const Keys& keys,
                 const Values& values, range run, const part_rows& parts) noexcept {
    for (index_t r = block.begin; r < block.end; ++r)
      for (index_t d = 0; d < head_dim_; ++d)
        queries_[(r - block.begin) * head_dim_ + d] = q(rows.b, rows.head(r), rows.query(r), d);
    const folded_mask<mask_type> visible{masks_, rows.queries};
    engine softmax(policy, head_dim_, value_dim_, softmax_memory_);
    softmax.begin(queries_, head_dim_, block, static_cast<float>(scale));
    for (index_t begin = run.begin; begin < run.end; begin += policy.k_tile) {
      const range tile{begin, min<index_t>(begin + policy.k_tile, run.end)};
      const mask::tile_kind kind = classify(rows, block, tile);
      if (kind == mask::tile_kind::empty) continue;
      const auto k = tile_of(keys, rows, tile, keys_, head_dim_);
      const auto v = tile_of(values, rows, tile, values_, value_dim_);
      const bool partial = kind == mask::tile_kind::partial;
      if constexpr (identity) {
        softmax.add(k.data, k.row, v.data, v.row, tile, visible, score::identity{}, partial);
      } else {
        softmax.add(k.data, k.row, v.data, v.row, tile, visible, folded_score<score_type>{scores_, rows.queries},
                    partial);
      }
    }
    float* const part = parts.data + block.begin * parts.step;
    softmax.finish_part(part, part + value_dim_, part + value_dim_ + 1, parts.step);
  }

  template <class X> struct tile_rows {
    const X* data;
    index_t row;
  };

  /// The rows of a tile where they lie, if they lie one step apart and are numbers; else gathered, and codes widened.
  template <class Cache, class X>
  [[nodiscard]] tile_rows<X> tile_of(const Cache& cache, const folded_rows& rows, range tile, X* buffer,
                                     index_t dim) const noexcept {
    const auto from = rows_of(cache.store);
    tile_rows<X> result{buffer, dim};
    cache.for_runs(rows.b, tile, [&](index_t first, index_t at, range part) {
      const auto* const data = &from(first, rows.g, at, 0);
      if constexpr (!is_quantised<decltype(cache.store)>) {
        if (part == tile) {
          result = {data, from.stride(2)};
          return;
        }
      }
      for (index_t j = 0; j < part.size(); ++j) {
        X* const to = buffer + (part.begin - tile.begin + j) * dim;
        if constexpr (is_quantised<decltype(cache.store)>) {
          const index_t block = cache.store.block();
          for (index_t begin = 0, n = 0; begin < dim; begin += block, ++n) {
            const float scale = cache.store.scales(first, rows.g, at + j, n);
            for (index_t d = begin; d < min(begin + block, dim); ++d)
              to[d] = static_cast<float>(data[j * from.stride(2) + d]) * scale;
          }
        } else {
          for (index_t d = 0; d < dim; ++d) to[d] = data[j * from.stride(2) + d];
        }
      }
    });
    return result;
  }

  index_t head_dim_, value_dim_;
  mask_type* masks_;
  score_type* scores_;
  Q* queries_;
  key* keys_;
  value* values_;
  float* softmax_memory_;
};

}  // namespace seqprim::attention::detail
