// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/core/philox.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/rule.hpp>

#include <string>

namespace seqprim::mask {

/// What `check` found. `ok()` means that no answer contradicts the element rule; loose answers are allowed and cost speed.
struct check_report {
  index_t tiles = 0;  ///< tiles whose classification was compared
  index_t loose = 0;  ///< tiles called partial that are empty or full
  index_t wrong = 0;  ///< answers that contradict the element rule: tiles, runs and bounds
  std::string first_wrong;
  std::string first_loose;

  [[nodiscard]] bool ok() const noexcept { return wrong == 0; }
  /// True when classify() was never loose on the tiles tried.
  [[nodiscard]] bool exact() const noexcept { return wrong == 0 && loose == 0; }

  [[nodiscard]] std::string summary() const {
    std::string text = message(tiles, " tiles compared, ", wrong, " wrong answers, ", loose, " loose tiles");
    if (wrong > 0) text += "; first wrong: " + first_wrong;
    if (loose > 0) text += "; first loose: " + first_loose;
    return text;
  }
};

namespace detail {

inline const char* word(tile_kind kind) noexcept {
  return kind == tile_kind::empty ? "empty" : kind == tile_kind::full ? "full" : "partial";
}

inline std::string words(range r) { return message("[", r.begin, ", ", r.end, ")"); }

/// The element rule written out, with prefix sums so that the class of any tile is four lookups.
class written_out {
 public:
  template <rule M>
  written_out(const M& m, index_t q_len, index_t k_len) : visible_(q_len, k_len), sums_(q_len + 1, k_len + 1) {
    for (index_t q = 0; q < q_len; ++q)
      for (index_t k = 0; k < k_len; ++k) {
        visible_(q, k) = m(q, k);
        sums_(q + 1, k + 1) = sums_(q, k + 1) + sums_(q + 1, k) - sums_(q, k) + (visible_(q, k) ? 1 : 0);
      }
  }

  [[nodiscard]] index_t count(range q, range k) const noexcept {
    return sums_(q.end, k.end) - sums_(q.begin, k.end) - sums_(q.end, k.begin) + sums_(q.begin, k.begin);
  }
  [[nodiscard]] tile_kind kind(range q, range k) const noexcept {
    const index_t seen = count(q, k);
    return seen == 0 ? tile_kind::empty : seen == q.size() * k.size() ? tile_kind::full : tile_kind::partial;
  }
  /// Names the first pair of the tile whose visibility is `visible`.
  [[nodiscard]] std::string witness(range q, range k, bool visible) const {
    for (index_t i = q.begin; i < q.end; ++i)
      for (index_t j = k.begin; j < k.end; ++j)
        if (visible_(i, j) == visible) return message("query ", i, visible ? " sees key " : " does not see key ", j);
    return "there is no such pair";
  }
  [[nodiscard]] bool operator()(index_t q, index_t k) const noexcept { return visible_(q, k); }

 private:
  tensor<bool, 2> visible_;
  tensor<index_t, 2> sums_;  // [q_len + 1, k_len + 1]: visible pairs above and left
};

template <rule M> class checker {
 public:
  checker(const M& m, index_t q_len, index_t k_len, std::string where)
      : mask_(m), truth_(m, q_len, k_len), q_len_(q_len), k_len_(k_len), where_(static_cast<std::string&&>(where)) {}

  void run(check_report& report) {
    if (q_len_ == 0 || k_len_ == 0) return;
    all_grids(report);
    random_tiles(report);
    if constexpr (one_range_per_row<M>) runs(report);
    bounds(report);
  }

 private:
  // Tiles as kernels cut them: from (0, 0), the last ones clipped. Small edges exhaustively, large ones where they bite.
  void all_grids(check_report& report) {
    constexpr index_t edges[] = {1, 2, 3, 4, 5, 7, 8, 13, 16, 31, 32, 33, 64, 65, 127, 128, 130};
    for (const index_t q_edge : edges) {
      for (const index_t k_edge : edges) {
        for (index_t q = 0; q < q_len_; q += q_edge)
          for (index_t k = 0; k < k_len_; k += k_edge)
            tile(report, {q, min(q + q_edge, q_len_)}, {k, min(k + k_edge, k_len_)});
        if (k_edge >= k_len_) break;
      }
      if (q_edge >= q_len_) break;
    }
  }

  // Tiles at any place: a kernel may start its keys at a bounds.
  void random_tiles(check_report& report) {
    for (std::uint32_t i = 0; i < 4000; ++i) {
      const philox_words words = philox({{i, 0, 0, 0}}, 0x6d61736bu, 0x74696c65u);
      tile(report, piece(words[0], words[1], q_len_), piece(words[2], words[3], k_len_));
    }
  }
  static range piece(std::uint32_t a, std::uint32_t b, index_t length) noexcept {
    const index_t begin = a % length;
    return {begin, begin + 1 + b % min<index_t>(length - begin, 130)};
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
      if (++report.wrong == 1) report.first_wrong = text() + " but " + truth_.witness(q, k, said == tile_kind::empty);
    }
  }

  void runs(check_report& report) requires one_range_per_row<M> {
    for (index_t q = 0; q < q_len_; ++q) {
      const range run = mask_.visible_keys(q);
      for (index_t k = 0; k < k_len_; ++k)
        if (run.contains(k) != truth_(q, k)) {
          if (++report.wrong == 1)
            report.first_wrong = message("visible_keys(", q, ")", where_, " is ", words(run), " but query ", q,
                                         truth_(q, k) ? " sees key " : " does not see key ", k);
        }
      if (q == 0) continue;
      const range before = mask_.visible_keys(q - 1);
      if ((run.begin < before.begin || run.end < before.end) && ++report.wrong == 1)
        report.first_wrong = message("visible_keys(", q, ")", where_, " is ", words(run), " after ", words(before),
                                     ": the ends of the runs must never decrease");
    }
  }

  void bounds(check_report& report) {
    constexpr index_t edges[] = {1, 3, 16, 64, 128};
    for (const index_t edge : edges) {
      for (index_t q = 0; q < q_len_; q += edge) {
        const range rows{q, min(q + edge, q_len_)};
        const range bounds = intersect(mask::key_bounds(mask_, rows, k_len_), {0, k_len_});
        const range inside = bounds.empty() ? range{0, 0} : bounds;
        for (const range& outside : {range{0, inside.begin}, range{inside.end, k_len_}})
          if (truth_.count(rows, outside) > 0 && ++report.wrong == 1)
            report.first_wrong = message("key_bounds(q ", words(rows), ")", where_, " is ", words(bounds), " but ",
                                         truth_.witness(rows, outside, true));
      }
      for (index_t k = 0; k < k_len_; k += edge) {
        const range keys{k, min(k + edge, k_len_)};
        const range bounds = intersect(mask::query_bounds(mask_, keys, q_len_), {0, q_len_});
        const range inside = bounds.empty() ? range{0, 0} : bounds;
        for (const range& outside : {range{0, inside.begin}, range{inside.end, q_len_}})
          if (truth_.count(outside, keys) > 0 && ++report.wrong == 1)
            report.first_wrong = message("query_bounds(k ", words(keys), ")", where_, " is ", words(bounds), " but ",
                                         truth_.witness(outside, keys, true));
      }
    }
  }

  M mask_;
  written_out truth_;
  index_t q_len_;
  index_t k_len_;
  std::string where_;
};

}  // namespace detail

/// Compares what a mask says about tiles, runs and bounds with its own element rule, by brute force. Call it in the test of
/// every mask that you write, on lengths that are not multiples of anything:
///
///     const auto report = mask::check(my_mask{...}, 97, 131);
///     if (!report.ok()) puts(report.summary().c_str());   // "... classify(q [0, 16), k [8, 16)) says full but query 3 ..."
///
/// Tries tiles of many sizes cut from (0, 0) and 4000 tiles at places that are the same in every run, the bounds of row and
/// column groups, and the runs of all rows. A mask that depends on batch or head is checked for each.
///
/// Errors  precondition_error: a length < 0, or the mask's own rules are broken.
/// Cost    9 bytes and one call per pair, then about 4 * q_len * k_len tiles. Host only.
template <bindable M> [[nodiscard]] check_report check(const M& m, const shape& problem) {
  SEQPRIM_EXPECTS(problem.q_len >= 0 && problem.k_len >= 0, "mask::check: q_len (", problem.q_len, ") and k_len (",
                  problem.k_len, ") must be >= 0. See docs/reference/mask/check.md");
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
