// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cache.hpp>
#include <seqprim/attention/detail/cpu/decode_rows.hpp>
#include <seqprim/attention/detail/cpu/logits.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/attention/tuning.hpp>
#include <seqprim/core/scratch.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

/// One piece of decode: the query rows that share a key head against one run of keys.
namespace seqprim::attention::detail {

/// The query rows of key head g, one query after the other: row r is query i = queries.begin + r / group of head
/// query_head(g, r % group).
struct folded_rows {
  problem shape;
  index_t b, g;
  range queries;

  [[nodiscard]] index_t count() const noexcept { return shape.group() * queries.size(); }
  [[nodiscard]] index_t head(index_t r) const noexcept { return shape.query_head(g, r % shape.group()); }
  [[nodiscard]] index_t query(index_t r) const noexcept { return queries.begin + r / shape.group(); }
  /// The part of `keys` outside of which no row attends to a key.
  template <class Mask> [[nodiscard]] range seen_by_any(const Mask& mask, range keys) const noexcept {
    range seen{};
    for (index_t n = 0; n < shape.group(); ++n) {
      const auto of_head = mask::bind(mask, b, shape.query_head(g, n));
      seen = bounding_range(seen, intersect(mask::key_bounds(of_head, queries, shape.k_len), keys));
    }
    return seen;
  }
};

/// Where the results of rows lie: of each row the weighted values [value_dim], not yet divided, the largest logit (units of
/// log 2) and the sum of weights 2^(logit - top); `step` numbers from row to row.
struct part_rows {
  float* data;
  index_t step;

  /// Numbers of one row.
  [[nodiscard]] static constexpr index_t size(index_t value_dim) noexcept { return value_dim + 2; }
};

/// The tokens of a range of a cache that a row attends to, as segments of rows that lie one step apart: whole pages, and cut where a
/// token is hidden from all.
template <class Isa, class Store> class seen_rows {
  static constexpr bool codes = is_quantized<Store>;
  using element = typename store_traits<Store>::element;
  using segment = row_segment<element>;

 public:
  seen_rows(workspace& memory, index_t keys) noexcept : segments_(memory.take<segment>(keys)) {}

  /// Takes the tokens of `run` whose entry in `seen` is not 0 (all of them where seen is null). Returns how many there are.
  template <class Cache>
  index_t fill(const Cache& cache, index_t b, index_t g, range run, const std::uint16_t* seen) noexcept {
    index_t total = 0;
    used_ = 0;
    const auto rows = rows_of(cache.store);
    const bool empty_rows = rows.extent(3) == 0;  // and so maybe no memory
    row_step_ = empty_rows ? 0 : rows.stride(2);
    cache.for_ranges(b, run, [&](index_t first, index_t at, range part) {
      const auto take = [&](range tokens) {
        const index_t skipped = tokens.begin - part.begin;
        segment& next = segments_[used_++];
        next = {total, tokens.size(), empty_rows ? nullptr : &rows(first, g, at + skipped, 0), nullptr};
        if constexpr (codes) next.scales = &cache.store.scales(first, g, at + skipped, 0);
        total += tokens.size();
      };
      if (seen == nullptr) return take(part);
      for (index_t j = part.begin; j < part.end;) {
        while (j < part.end && seen[j - run.begin] == 0) ++j;
        const index_t begin = j;
        while (j < part.end && seen[j - run.begin] != 0) ++j;
        if (begin < j) take(range{begin, j});
      }
    });
    return total;
  }

  /// Calls body(rows, begin, count) for each segment, with the row type that the store needs.
  template <class Body> void visit(const Store& store, const Body& body) const noexcept {
    for (index_t n = 0; n < used_; ++n) {
      const segment& s = segments_[n];
      if constexpr (codes) {
        const index_t step = store.scales.stride(2);
        if (store.scales.extent(3) > 1) {
          body(code_rows<true>{s.row, row_step_, s.scales, step, store.block(), store.scales.stride(3)}, s.begin,
               s.count);
        } else {
          body(code_rows<false>{s.row, row_step_, s.scales, step, store.block(), 0}, s.begin, s.count);
        }
      } else {
        body(number_rows<element>{s.row, row_step_}, s.begin, s.count);
      }
    }
  }
  /// Asks memory for the scales and the first rows, and for the other rows as these are used.
  [[nodiscard]] read_ahead<Isa, element> read([[maybe_unused]] const Store& store, index_t dim) const noexcept {
    if constexpr (codes) {
      const index_t step = store.scales.stride(2);
      for (index_t n = 0; n < used_; ++n)
        for (index_t at = 0; at < segments_[n].count * step; at += 16) __builtin_prefetch(segments_[n].scales + at);
    }
    return {segments_, used_, row_step_, dim};
  }
  /// numbers[j, r] *= scale of token j, where tokens have one scale, which belongs to the logit or the weight.
  template <int Rows>
  void multiply_by_scales([[maybe_unused]] const Store& store, [[maybe_unused]] float* numbers) const noexcept {
    if constexpr (codes) {
      if (store.scales.extent(3) > 1) return;
      for (index_t n = 0; n < used_; ++n)
        multiply_scales<Isa, Rows>(segments_[n].scales, store.scales.stride(2), segments_[n].count,
                                   numbers + segments_[n].begin * Rows);
    }
  }
  /// True when every number of row j of `rows` is finite; codes may be called infinite when their scale is close to it.
  template <class Rows>
  [[nodiscard]] static bool finite_row(const Store& store, const Rows& rows, index_t j, index_t dim) noexcept {
    if constexpr (codes) {
      bool result = true;
      for (index_t n = 0; n < store.scales.extent(3); ++n)
        result = result && std::isfinite(128 * rows.scales(j)[n * store.scales.stride(3)]);  // -128: the largest code
      return result;
    } else {
      return finite<Isa, float>(rows.row(j), dim);
    }
  }

 private:
  segment* segments_;
  index_t used_ = 0, row_step_ = 0;
};

/// The rows of one piece, a register's lanes of them at a time.
template <class Isa, class Keys, class Values> class row_engine {
  using v = arch::simd<Isa, float>;
  using key_store = decltype(Keys::store);
  using value_store = decltype(Values::store);

 public:
  /// Bytes of memory for a split of so many keys.
  [[nodiscard]] static index_t memory_size(index_t split, index_t head_dim, index_t value_dim) noexcept {
    workspace memory(nullptr);
    const row_engine counted(memory, split, head_dim, value_dim);
    return memory.used();
  }

  row_engine(workspace& memory, index_t split, index_t head_dim, index_t value_dim) noexcept
      : head_dim_(head_dim),
        value_dim_(value_dim),
        acc_row_(round_up(max<index_t>(value_dim, 1), v::lanes)),
        keys_(memory, split),
        values_(memory, split),
        queries_(memory.take<float>(v::lanes * round_up(max<index_t>(head_dim, 1), v::lanes))),
        logits_(memory.take<float>(v::lanes * (split + 1))),
        acc_(memory.take<float>(v::lanes * acc_row_)),
        seen_(memory.take<std::uint16_t>(split)),
        token_(memory.take<std::int32_t>(split)) {}

  /// Writes the parts of all rows over the tokens of `run`. Rows that see none of the same tokens are not taken together: the
  /// queries of a packed batch cost what they see.
  template <class Op, class Q>
  void run(const Op& op, double scale, const folded_rows& rows, const tensor_view<const Q, 4>& q, const Keys& keys,
           const Values& values, range run, const part_rows& parts) noexcept {
    const auto seen_of = [&](index_t r) {
      const index_t i = rows.query(r);
      return intersect(run, mask::key_bounds(mask::bind(op.mask, rows.b, rows.head(r)), {i, i + 1}, rows.shape.k_len));
    };
    range next = rows.count() > 0 ? seen_of(0) : range{};
    for (index_t begin = 0, end = 0; begin < rows.count(); begin = end) {
      range seen = next;
      for (end = begin + 1; end < rows.count(); ++end) {
        next = seen_of(end);
        if (end - begin == v::lanes || intersect(seen, next).empty()) break;
        seen = bounding_range(seen, next);
      }
      run_block(op, scale, {rows, {begin, end}, seen}, q, keys, values, parts);
    }
  }

 private:
  /// Rows that are computed together, and the tokens they are computed over.
  struct joint_rows {
    folded_rows rows;
    range block, run;

    [[nodiscard]] index_t query(index_t r) const noexcept { return rows.query(block.begin + r); }
    [[nodiscard]] index_t head(index_t r) const noexcept { return rows.head(block.begin + r); }
    [[nodiscard]] std::uint16_t all_rows() const noexcept {
      return static_cast<std::uint16_t>((1u << block.size()) - 1u);
    }
  };

  template <class Op, class Q>
  void run_block(const Op& op, double scale, const joint_rows& group, const tensor_view<const Q, 4>& q,
                 const Keys& keys, const Values& values, const part_rows& parts) noexcept {
    const auto with = [&](auto rows) { run_rows<rows>(op, scale, group, q, keys, values, parts); };
    const index_t count = group.block.size();
    if constexpr (v::lanes >= 16)
      if (count > 8) return with(std::integral_constant<int, 16>{});
    if constexpr (v::lanes >= 8)
      if (count > 4) return with(std::integral_constant<int, 8>{});
    if constexpr (v::lanes >= 4)
      if (count > 2) return with(std::integral_constant<int, 4>{});
    if constexpr (v::lanes >= 2)
      if (count > 1) return with(std::integral_constant<int, 2>{});
    with(std::integral_constant<int, 1>{});
  }

  template <int Rows, class Op, class Q>
  void run_rows(const Op& op, double scale, const joint_rows& group, const tensor_view<const Q, 4>& q, const Keys& keys,
                const Values& values, const part_rows& parts) noexcept {
    const index_t count = gather_tokens(op, group, keys, values);
    if (count == 0) {
      for (index_t r = group.block.begin; r < group.block.end; ++r) write_empty(parts.data + r * parts.step);
      return;
    }
    multiply_keys<Rows>(group, q, keys.store);
    auto value_memory = values_.read(values.store, value_dim_);
    finish_logits<Rows>(op, scale, group, keys.store, count);
    float top[Rows], sum[Rows];
    exponentiate_rows<Isa, Rows>(logits_, round_up(count * Rows, v::lanes), top, sum);
    values_.template multiply_by_scales<Rows>(values.store, logits_);
    const bool woven = add_values<Rows>(group, values.store, value_memory);
    for (index_t r = 0; r < group.block.size(); ++r) {
      float* const part = parts.data + (group.block.begin + r) * parts.step;
      const float* const acc = acc_ + r * acc_row_;
      if (woven) {
        unweave<Isa, cache_element<Values>>(acc, value_dim_, part);
      } else {
        for (index_t d = 0; d < value_dim_; ++d) part[d] = acc[d];
      }
      part[value_dim_] = top[r];
      part[value_dim_ + 1] = sum[r];
    }
  }

  /// Finds the tokens of the run that a row of the group attends to, and returns how many: all of the run, or those of token_, each
  /// with the rows that attend to it in seen_. `mixed_` tells whether some rows attend to one and others do not.
  template <class Op>
  index_t gather_tokens(const Op& op, const joint_rows& group, const Keys& keys, const Values& values) noexcept {
    const folded_rows& rows = group.rows;
    bool any = false, all = true;
    for (index_t r = 0; r < group.block.size() && !group.run.empty(); ++r) {
      const index_t i = group.query(r);
      const auto kind = mask::bind(op.mask, rows.b, group.head(r)).classify(range{i, i + 1}, group.run);
      any = any || kind != mask::tile_kind::empty;
      all = all && kind == mask::tile_kind::full;
    }
    some_ = !all;
    mixed_ = false;
    if (!any) return 0;
    if (some_) mark_seen(op, group);
    const std::uint16_t* const seen = some_ ? seen_ : nullptr;
    const index_t count = keys_.fill(keys, rows.b, rows.g, group.run, seen);
    if (count == 0) return 0;
    values_.fill(values, rows.b, rows.g, group.run, seen);
    for (index_t j = 0, n = 0; j < group.run.size() && some_; ++j) {
      if (seen_[j] == 0) continue;
      mixed_ = mixed_ || seen_[j] != group.all_rows();
      token_[n] = static_cast<std::int32_t>(j);
      seen_[n++] = seen_[j];
    }
    return count;
  }

  /// seen_[j] has bit r set where row r of the group attends to token run.begin + j.
  template <class Op> void mark_seen(const Op& op, const joint_rows& group) const noexcept {
    for (index_t j = 0; j < group.run.size(); ++j) seen_[j] = 0;
    for (index_t r = 0; r < group.block.size(); ++r) {
      const auto mask = mask::bind(op.mask, group.rows.b, group.head(r));
      const index_t i = group.query(r);
      const auto bit = static_cast<std::uint16_t>(1u << r);
      const range keys = intersect(group.run, mask::key_bounds(mask, range{i, i + 1}, group.rows.shape.k_len));
      for (index_t j = keys.begin; j < keys.end; ++j) {
        std::uint16_t& seen = seen_[j - group.run.begin];
        if (mask(i, j)) seen = static_cast<std::uint16_t>(seen | bit);
      }
    }
  }

  /// logits_ [tokens, Rows] = keys queries.
  template <int Rows, class Q>
  void multiply_keys(const joint_rows& group, const tensor_view<const Q, 4>& q, const key_store& store) noexcept {
    auto memory = keys_.read(store, head_dim_);
    bool loaded = false;
    keys_.visit(store, [&](const auto& list, index_t begin, index_t n) {
      using list_type = std::remove_cvref_t<decltype(list)>;
      using element = typename list_type::element;
      // bfloat16 pairs are multiplied as they are, where the processor does; other narrow elements are widened, woven where that
      // is cheaper.
      constexpr weave best =
          arch::pair_products<Isa>::available && std::is_same_v<Q, bfloat16> && std::is_same_v<element, bfloat16>
              ? weave::pairs
          : arch::woven_load<Isa, element>::registers > 1 && !list_type::blocked ? weave::woven
                                                                                 : weave::none;
      const auto multiply = [&](auto how) {
        constexpr weave way = decltype(how)::value;
        if (!loaded) load_queries<Rows, way, element>(group, q);
        loaded = true;
        dots<Isa, Rows, way>(queries_, list, n, head_dim_, memory, logits_ + begin * Rows);
      };
      if (best != weave::none && head_dim_ % step_of<Isa, best, element> == 0) {
        multiply(std::integral_constant<weave, best>{});
      } else {
        multiply(std::integral_constant<weave, weave::none>{});
      }
    });
  }

  /// Products become logits in units of log 2: scales of keys, scale, score, mask; -inf up to a whole register.
  template <int Rows, class Op>
  void finish_logits(const Op& op, double scale, const joint_rows& group, const key_store& store,
                     index_t count) noexcept {
    using Score = std::remove_cvref_t<decltype(op.score)>;
    constexpr bool identity = std::is_same_v<Score, score::identity>;
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const index_t padded = round_up(count * Rows, v::lanes);
    keys_.template multiply_by_scales<Rows>(store, logits_);
    multiply_all<Isa>(logits_, padded, static_cast<float>(logit_factor<Score>(scale)));
    if constexpr (!identity) {
      for (index_t r = 0; r < group.block.size(); ++r) {
        const auto score = score::bind(op.score, group.rows.b, group.head(r));
        const index_t i = group.query(r);
        for (index_t n = 0; n < count; ++n) {
          float& logit = logits_[n * Rows + r];
          logit = static_cast<float>(score(logit, score::site{i, group.run.begin + (some_ ? token_[n] : n)})) *
                  static_cast<float>(log2_e);
        }
      }
    }
    if (mixed_) {
      for (index_t n = 0; n < count; ++n)
        for (int r = 0; r < Rows; ++r)
          if ((seen_[n] >> r & 1) == 0) logits_[n * Rows + r] = -infinity;
    }
    for (index_t i = count * Rows; i < padded; ++i) logits_[i] = -infinity;
  }

  /// acc_ [Rows, value_dim] = weights values; returns whether its channels lie woven.
  template <int Rows>
  bool add_values(const joint_rows& group, const value_store& store,
                  read_ahead<Isa, typename store_traits<value_store>::element>& memory) noexcept {
    for (index_t i = 0; i < Rows * acc_row_; ++i) acc_[i] = 0;
    bool woven = false;
    values_.visit(store, [&](const auto& list, index_t begin, index_t n) {
      using list_type = std::remove_cvref_t<decltype(list)>;
      constexpr weave best = value_weave<Isa, Rows, list_type>;
      const float* const weights = logits_ + begin * Rows;
      // Tokens that are hidden from some rows are added row by row where they are not finite, and that in order.
      woven = best != weave::none && !mixed_ && value_dim_ % step_of<Isa, best, typename list_type::element> == 0;
      if (mixed_) {
        add_mixed<Rows>(list, store, range{begin, begin + n}, group.all_rows(), memory);
      } else if (woven) {
        add_weighted<Isa, Rows, best>(list, range{0, n}, weights, value_dim_, memory, acc_, acc_row_);
      } else {
        add_weighted<Isa, Rows, weave::none>(list, range{0, n}, weights, value_dim_, memory, acc_, acc_row_);
      }
    });
    return woven;
  }

  /// The queries in the order of a weave with rows of type X; rows beyond the block are zeros.
  template <int Rows, weave How, class X, class Q>
  void load_queries(const joint_rows& group, const tensor_view<const Q, 4>& q) noexcept {
    for (int r = 0; r < Rows; ++r) {
      const bool live = r < group.block.size() && head_dim_ > 0;
      const Q* const from = live ? &q(group.rows.b, group.head(r), group.query(r), 0) : nullptr;
      if constexpr (How == weave::pairs) {
        constexpr index_t step = step_of<Isa, How, X>;
        for (index_t d = 0; d < head_dim_; d += step) {
          float* const to = queries_ + d / step * Rows * v::lanes + r * v::lanes;
          if (live) {
            __builtin_memcpy(to, from + d, step * sizeof(Q));
          } else {
            __builtin_memset(to, 0, step * sizeof(Q));
          }
        }
      } else if constexpr (How == weave::woven) {
        constexpr index_t registers = arch::woven_load<Isa, X>::registers;
        for (index_t d = 0; d < head_dim_; ++d) {
          const index_t begin = d / (registers * v::lanes) * registers * v::lanes, within = d - begin;
          queries_[(begin + within % registers * v::lanes) * Rows + r * v::lanes + within / registers] =
              live ? static_cast<float>(from[d]) : 0.0f;
        }
      } else {
        for (index_t d = 0; d < head_dim_; d += v::lanes)
          v::store(
              queries_ + d * Rows + r * v::lanes,
              live ? v::load_partial(from + d, static_cast<int>(min<index_t>(v::lanes, head_dim_ - d))) : v::zero());
      }
    }
  }

  /// Weighted values where some tokens are hidden from some rows, with weight 0: that must not meet infinity or NaN. `tokens`
  /// are those of the list.
  template <int Rows, class List>
  void add_mixed(const List& list, const value_store& store, range tokens, std::uint16_t all_rows,
                 read_ahead<Isa, typename List::element>& memory) noexcept {
    const std::uint16_t* const seen = seen_ + tokens.begin;
    const float* const weights = logits_ + tokens.begin * Rows;
    const auto special = [&](index_t n) {
      return seen[n] != all_rows && !values_.finite_row(store, list, n, value_dim_);
    };
    for (index_t begin = 0; begin < tokens.size();) {
      index_t end = begin;
      while (end < tokens.size() && !special(end)) ++end;
      add_weighted<Isa, Rows, weave::none>(list, range{begin, end}, weights, value_dim_, memory, acc_, acc_row_);
      if (end < tokens.size()) {
        for (int r = 0; r < Rows; ++r)
          if (seen[end] >> r & 1)
            add_weighted<Isa, 1, weave::none>(list, range{end, end + 1}, weights + end * (Rows - 1) + r, value_dim_,
                                              memory, acc_ + r * acc_row_, acc_row_);
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
  bool some_ = false, mixed_ = false;  ///< of the rows at hand: see gather_tokens
  seen_rows<Isa, key_store> keys_;
  seen_rows<Isa, value_store> values_;
  float *queries_, *logits_, *acc_;
  std::uint16_t* seen_;
  std::int32_t* token_;
};

}  // namespace seqprim::attention::detail
