// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

namespace detail {

/// One past the last of the keys that one of the queries attends to; k.begin where there is none.
template <rule M> [[nodiscard]] constexpr index_t reach(const M& m, range q, range k) noexcept {
  constexpr index_t step = 64;
  const limits table = mask::table_limits(m);
  q = intersect(q, table.queries);
  if (q.empty()) return k.begin;
  index_t end = mask::key_bounds(m, q, min_of(k.end, table.keys.end)).end;
  while (end > k.begin) {
    const range tile{max_of(k.begin, end - step), end};
    const tile_kind kind = m.classify(q, tile);
    if (kind == tile_kind::full) return end;
    for (; kind == tile_kind::partial && end > tile.begin; --end)
      for (index_t row = q.end; row-- > q.begin;)
        if (m(row, end - 1)) return end;
    end = tile.begin;
  }
  return k.begin;
}

}  // namespace detail

/// Where a sequence may be cut, so that a long prompt is read in chunks: the first position c >= from such that queries and keys
/// before c can be computed, and cached, before the rest of the call arrives.
///
///     no query in [start, c) attends to a key in [c, k_len)          from <= c <= k_len;  k_len where there is no such c before
///
/// Pass problem.start = where the chunk to be ended begins: 0, or a result of next_cut. A causal mask may be cut everywhere, `prefix`
/// behind its prefix, packed sequences that look ahead between two of them, `full` nowhere. Nothing is checked. Unlike `may_cut`, which asks
/// about any later key and trusts hints alone, the answer is exact for the keys of the call and for every mask.
///
/// Shapes  queries at [start, start + q_len), keys [0, k_len) of `problem`; start <= from <= k_len.
/// Cost    key_bounds() where they prove the cut; else one classify() per 64 keys, and pairs where a tile is partial: at most the
///         pairs that attention evaluates. Times batch and heads where the mask differs between them.
template <bindable M>
[[nodiscard]] constexpr index_t next_cut(const M& m, const shape& problem, index_t from) noexcept {
  const range queries{problem.start, problem.start + problem.q_len};
  index_t cut = from;
  const auto move_behind = [&](const auto& rule) {
    for (index_t done = problem.start; done < cut;) {  // queries before `done` attend to no key from `cut` on
      const index_t next = detail::reach(rule, intersect(queries, {done, cut}), {cut, problem.k_len});
      done = cut;
      cut = next;
    }
  };
  if constexpr (depends_on_batch_or_head<M>) {
    for (index_t before = -1; before != cut;) {
      before = cut;
      for (index_t b = 0; b < problem.batch; ++b)
        for (index_t h = 0; h < problem.heads; ++h) move_behind(m.bind(b, h));
    }
  } else {
    move_behind(m);
  }
  return cut;
}

}  // namespace seqprim::mask
