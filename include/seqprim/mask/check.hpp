// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/philox.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/rule.hpp>

#include <string>

namespace seqprim::mask {

/// What `check` found. `ok()` means that no answer contradicts the pair rule; loose answers are allowed and cost speed.
struct check_report {
  index_t tiles = 0;  ///< tiles whose classification was compared
  index_t loose = 0;  ///< tiles called partial that are empty or full
  index_t wrong = 0;  ///< answers that contradict the pair rule: tiles and hints
  std::string first_wrong;
  std::string first_loose;
  std::string hints;    ///< the hints that the mask gives; kernels are slower without, and no less right
  std::string missing;  ///< the hints that it does not give

  [[nodiscard]] bool ok() const noexcept { return wrong == 0; }
  /// True when classify() was never loose on the tiles tried.
  [[nodiscard]] bool exact() const noexcept { return wrong == 0 && loose == 0; }

  [[nodiscard]] std::string summary() const {
    std::string text = message(tiles, " tiles compared, ", wrong, " wrong answers, ", loose, " loose tiles");
    if (wrong > 0) text += "; first wrong: " + first_wrong;
    if (loose > 0) text += "; first loose: " + first_loose;
    return text + "; hints: " + (hints.empty() ? "none" : hints) + "; without: " + (missing.empty() ? "none" : missing);
  }
};

namespace detail {

inline const char* word(tile_kind kind) noexcept {
  return kind == tile_kind::empty ? "empty" : kind == tile_kind::full ? "full" : "partial";
}

inline std::string words(range r) { return message("[", r.begin, ", ", r.end, ")"); }

/// The pair rule written out, with prefix sums so that the class of any tile is four lookups.
class written_out {
 public:
  template <rule M>
  written_out(const M& m, range queries, index_t k_len)
      : first_(queries.begin), visible_(queries.size(), k_len), sums_(queries.size() + 1, k_len + 1) {
    for (index_t i = 0; i < queries.size(); ++i)
      for (index_t k = 0; k < k_len; ++k) {
        visible_(i, k) = m(first_ + i, k);
        sums_(i + 1, k + 1) = sums_(i, k + 1) + sums_(i + 1, k) - sums_(i, k) + (visible_(i, k) ? 1 : 0);
      }
  }

  [[nodiscard]] index_t count(range q, range k) const noexcept {
    const index_t begin = q.begin - first_, end = q.end - first_;
    return sums_(end, k.end) - sums_(begin, k.end) - sums_(end, k.begin) + sums_(begin, k.begin);
  }
  [[nodiscard]] tile_kind kind(range q, range k) const noexcept {
    const index_t seen = count(q, k);
    return seen == 0 ? tile_kind::empty : seen == q.size() * k.size() ? tile_kind::full : tile_kind::partial;
  }
  /// Names the first pair of the tile whose visibility is `visible`.
  [[nodiscard]] std::string witness(range q, range k, bool visible) const {
    for (index_t i = q.begin; i < q.end; ++i)
      for (index_t j = k.begin; j < k.end; ++j)
        if ((*this)(i, j) == visible)
          return message("query ", i, visible ? " attends to key " : " does not attend to key ", j);
    return "there is no such pair";
  }
  [[nodiscard]] bool operator()(index_t q, index_t k) const noexcept { return visible_(q - first_, k); }

 private:
  index_t first_;
  tensor<bool, 2> visible_;
  tensor<index_t, 2> sums_;  // [queries + 1, k_len + 1]: visible pairs above and left
};

template <class M> concept has_key_bounds = requires(const M& m, range q) { m.key_bounds(q, index_t{}); };
template <class M> concept has_query_bounds = requires(const M& m, range k) { m.query_bounds(k, index_t{}); };
template <class M> concept has_composition = requires(const M& m) { m.composition(); };
template <class M> concept has_labels = requires(const M& m, index_t i) {
  { m.visible_labels(i) } -> std::same_as<range>;
  { m.key_label(i) } -> std::same_as<index_t>;
};

template <rule M> class checker {
 public:
  /// Queries from a few positions below 0 on: a call with more queries than keys asks there. Masks that read a table are evaluated
  /// within it.
  checker(const M& m, index_t q_len, index_t k_len, std::string where)
      : mask_(m),
        queries_{max_of(-min_of<index_t>(q_len, 17), min_of<index_t>(mask::table_limits(m).queries.begin, 0)), q_len},
        k_len_(k_len),
        truth_(m, queries_, k_len),
        where_(static_cast<std::string&&>(where)) {}

  void run(check_report& report) {
    list_hints(report);
    if (queries_.empty() || k_len_ == 0) return;
    all_grids(report);
    random_tiles(report);
    ranges(report);
    bounds(report);
    groups(report);
    composition(report);
  }

 private:
  static void list_hints(check_report& report) {
    report.hints = report.missing = "";
    const auto list = [&](bool given, const char* name) {
      std::string& text = given ? report.hints : report.missing;
      text += (text.empty() ? "" : ", ") + std::string(name);
    };
    list(one_range_per_row<M>, ordered_ranges<M> ? "visible_keys (ordered)" : "visible_keys");
    if (!one_range_per_row<M>) list(has_labels<M>, "visible_labels");
    if (!one_range_per_row<M>) list(composed<M>, "composition");
    list(has_key_bounds<M> || one_range_per_row<M>, "key_bounds");
    list(has_query_bounds<M>, "query_bounds");
    list(groups_rows<M>, "group_at");
    if (reads_table<M>) list(true, "table_limits");
  }

  template <class... Parts> void wrong(check_report& report, const Parts&... parts) const {
    if (++report.wrong == 1) report.first_wrong = message(parts...);
  }

  // Tiles as kernels cut them: from (0, 0), the last ones clipped. Small edges exhaustively, large ones where they bite.
  void all_grids(check_report& report) {
    constexpr index_t edges[] = {1, 2, 3, 4, 5, 7, 8, 13, 16, 31, 32, 33, 64, 65, 127, 128, 130};
    for (const index_t q_edge : edges) {
      for (const index_t k_edge : edges) {
        for (index_t q = 0; q < queries_.end; q += q_edge)
          for (index_t k = 0; k < k_len_; k += k_edge)
            tile(report, {q, min_of(q + q_edge, queries_.end)}, {k, min_of(k + k_edge, k_len_)});
        if (k_edge >= k_len_) break;
      }
      if (q_edge >= queries_.end) break;
    }
  }

  // Tiles at any place: a kernel may start its keys at a bound, and its queries anywhere.
  void random_tiles(check_report& report) {
    for (std::uint32_t i = 0; i < 4000; ++i) {
      const philox_words words = philox({{i, 0, 0, 0}}, 0x6d61736bu, 0x74696c65u);
      tile(report, piece(words[0], words[1], queries_), piece(words[2], words[3], {0, k_len_}));
    }
  }
  static range piece(std::uint32_t a, std::uint32_t b, range all) noexcept {
    const index_t begin = all.begin + a % all.size();
    return {begin, begin + 1 + b % min_of<index_t>(all.end - begin, 130)};
  }

  void tile(check_report& report, range q, range k) {
    ++report.tiles;
    const tile_kind said = mask_.classify(q, k);
    const tile_kind truth = truth_.kind(q, k);
    if (said == truth) return;
    const auto text = [&] {
      return message("classify(q ", words(q), ", k ", words(k), ")", where_, " says ", word(said));
    };
    if (said == tile_kind::partial) {
      if (++report.loose == 1) report.first_loose = text() + " but the tile is " + word(truth);
    } else {
      wrong(report, text(), " but ", truth_.witness(q, k, said == tile_kind::empty));
    }
  }

  // visible_keys and visible_labels, pair by pair.
  void ranges(check_report& report) {
    for (index_t q = queries_.begin; q < queries_.end; ++q) {
      if constexpr (one_range_per_row<M>) {
        const range seen = mask_.visible_keys(q);
        compare(report, q, "visible_keys", seen, [&](index_t k) { return seen.contains(k); });
        if constexpr (ordered_ranges<M>) {
          if (q == queries_.begin) continue;
          const range before = mask_.visible_keys(q - 1);
          if (seen.begin < before.begin || seen.end < before.end)
            wrong(report, "visible_keys(", q, ")", where_, " is ", words(seen), " after ", words(before),
                  ": the ends of ordered ranges must never decrease");
        }
      }
      if constexpr (has_labels<M>) {
        const range seen = mask_.visible_labels(q);
        compare(report, q, "visible_labels", seen, [&](index_t k) { return seen.contains(mask_.key_label(k)); });
      }
    }
  }
  template <class Answer>
  void compare(check_report& report, index_t q, const char* hint, range seen, const Answer& answer) const {
    for (index_t k = 0; k < k_len_; ++k)
      if (answer(k) != truth_(q, k))
        wrong(report, hint, "(", q, ")", where_, " is ", words(seen), " but query ", q,
              truth_(q, k) ? " attends to key " : " does not attend to key ", k);
  }

  void bounds(check_report& report) {
    constexpr index_t edges[] = {1, 3, 16, 64, 128};
    for (const index_t edge : edges) {
      for (index_t q = queries_.begin; q < queries_.end; q += edge) {
        const range rows{q, min_of(q + edge, queries_.end)}, bounds = mask::key_bounds(mask_, rows, k_len_);
        for_outside(bounds, {0, k_len_}, [&](range outside) {
          if (truth_.count(rows, outside) > 0)
            wrong(report, "key_bounds(q ", words(rows), ")", where_, " is ", words(bounds), " but ",
                  truth_.witness(rows, outside, true));
        });
      }
      for (index_t k = 0; k < k_len_; k += edge) {
        const range keys{k, min_of(k + edge, k_len_)}, bounds = mask::query_bounds(mask_, keys, queries_);
        for_outside(bounds, queries_, [&](range outside) {
          if (truth_.count(outside, keys) > 0)
            wrong(report, "query_bounds(k ", words(keys), ")", where_, " is ", words(bounds), " but ",
                  truth_.witness(outside, keys, true));
        });
      }
    }
  }
  template <class Body> static void for_outside(range part, range all, const Body& body) {
    const range inside = part.empty() ? range{all.begin, all.begin} : intersect(part, all);
    body(range{all.begin, inside.begin});
    body(range{inside.end, all.end});
  }

  void groups(check_report& report) requires groups_rows<M> {
    for (index_t q = queries_.begin; q < queries_.end; ++q) {
      const row_group group = mask_.group_at(q);
      if (group.end <= q)
        wrong(report, "group_at(", q, ")", where_, " ends at ", group.end, ", which must be behind the query");
      const range rows{q, max_of(q, min_of(group.end, queries_.end))};
      for_outside(group.keys, {0, k_len_}, [&](range outside) {
        if (truth_.count(rows, outside) > 0)
          wrong(report, "group_at(", q, ")", where_, " has queries ", words(rows), " and keys ", words(group.keys),
                " but ", truth_.witness(rows, outside, true));
      });
    }
  }
  void groups(check_report&) {}

  // Kernels obey a composition instead of the mask, and the hints of its parts.
  void composition(check_report& report) requires has_composition<M> {
    const auto composed = mask_.composition();
    for (index_t q = queries_.begin; q < queries_.end; ++q)
      for (index_t k = 0; k < k_len_; ++k)
        if (composed(q, k) != truth_(q, k))
          wrong(report, "composition()", where_, truth_(q, k) ? " hides key " : " shows key ", k, " but query ", q,
                truth_(q, k) ? " attends to it" : " does not attend to it");
    part(report, composed);
  }
  void composition(check_report& report) requires is_composition<M> {
    if constexpr (is_inverse<M>) {
      part(report, mask_.part);
    } else {
      part(report, mask_.first);
      part(report, mask_.second);
    }
  }
  void composition(check_report&) {}

  template <rule Part> void part(check_report& report, const Part& m) const {
    check_report of_part;
    checker<Part>(m, queries_.end, k_len_, where_ + " of a part").run(of_part);
    if (of_part.wrong > 0 && report.wrong == 0) report.first_wrong = of_part.first_wrong;
    report.wrong += of_part.wrong;
  }

  M mask_;
  range queries_;
  index_t k_len_;
  written_out truth_;
  std::string where_;
};

}  // namespace detail

/// Compares the tiles of a mask, and its hints, with its own pair rule, by brute force. Call it in the test of every mask
/// that you write, on lengths that are not multiples of anything:
///
///     const auto report = mask::check(my_mask{...}, 97, 131);
///     if (!report.ok()) puts(report.summary().c_str());   // "... classify(q [0, 16), k [8, 16)) says full but query 3 ..."
///
/// Tries tiles of many sizes cut from (0, 0) and 4000 tiles at positions that are the same every time, the bounds of groups of queries
/// and keys, the ranges and groups of all queries, a composition pair by pair and its parts. Queries just below position 0 are
/// asked too, except those of masks that read a table. A mask that depends on batch or head is checked for each. The report lists
/// the hints that the mask gives and those that it lacks.
///
/// Errors  precondition_error: a length < 0, or the mask's own rules are broken.
/// Cost    9 bytes and one call per pair, then about 4 * q_len * k_len tiles. Host only.
template <bindable M> [[nodiscard]] check_report check(const M& m, const shape& problem) {
  constexpr subject self{"mask::check", "mask/check"};
  self.expects(problem.q_len >= 0 && problem.k_len >= 0, "q_len (", problem.q_len, ") and k_len (", problem.k_len,
               ") must be >= 0");
  mask::validate(m, problem);
  check_report report;
  if constexpr (depends_on_batch_or_head<M>) {
    for (index_t b = 0; b < problem.batch; ++b)
      for (index_t h = 0; h < problem.heads; ++h)
        detail::checker(mask::bind(m, b, h), problem.q_len, problem.k_len, message(" of batch row ", b, ", head ", h))
            .run(report);
  } else {
    detail::checker(m, problem.q_len, problem.k_len, {}).run(report);
  }
  return report;
}

template <bindable M> [[nodiscard]] check_report check(const M& m, index_t q_len, index_t k_len) {
  return check(m, shape{.q_len = q_len, .k_len = k_len});
}

}  // namespace seqprim::mask
