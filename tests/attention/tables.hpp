// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/tensor.hpp>
#include <seqprim/score/score.hpp>

#include <attention/problem.hpp>

namespace seqprim::test {

/// Random tables for the scores of one problem, exactly as long as they must be for queries from `start` on.
struct score_tables {
  index_t start;
  tensor<float, 3> of_key, of_query;
  tensor<float, 2> of_distance;
  index_t least;

  template <class T>
  score_tables(random_numbers& random, const attention_problem<T>& p, index_t first)
      : start(first),
        of_key(random.integer(0, 1) == 0 ? 1 : p.batch, random.integer(0, 1) == 0 ? 1 : p.heads, p.k_len),
        of_query(random.integer(0, 1) == 0 ? 1 : p.batch, random.integer(0, 1) == 0 ? 1 : p.heads, start + p.q_len),
        of_distance(random.integer(0, 1) == 0 ? 1 : p.heads, random.integer(1, 60)),
        least(random.integer(-70, 10)) {
    random.fill(of_key);
    random.fill(of_query);
    random.fill(of_distance);
  }

  [[nodiscard]] score::key_bias key_bias() const { return {of_key.view()}; }
  [[nodiscard]] score::query_scale query_scale() const { return {of_query.view()}; }
  [[nodiscard]] score::relative_bias relative_bias() const { return {of_distance.view(), least}; }
};

/// f(score) for one of several scores that read tables.
template <class F> void with_table_score(const score_tables& tables, int which, const F& f) {
  switch (which % 5) {
    case 0: f(tables.key_bias()); break;
    case 1: f(tables.query_scale()); break;
    case 2: f(tables.relative_bias()); break;
    case 3: f(tables.query_scale() | tables.relative_bias()); break;
    default: f(score::soft_cap{.cap = 3.0f} | tables.key_bias());
  }
}

}  // namespace seqprim::test
