// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/attention/gradients.hpp>
#include <seqprim/score/chain.hpp>
#include <seqprim/score/packed.hpp>
#include <seqprim/score/rule.hpp>

#include <type_traits>
#include <utility>

/// The gradients of what a score learns, as backward is asked for them on the CPU and on CUDA.
namespace seqprim::attention::detail {
inline namespace SEQPRIM_TARGET_NAMESPACE {

/// Where they go: views without data where they are not requested.
template <class T, int Parameters, bool Table, bool Rows> struct score_gradients {
  static constexpr int parameters = Parameters;
  static constexpr bool table = Table, rows = Rows, any = Parameters > 0 || Table || Rows;

  tensor_view<T, 2> dscore;  ///< [heads, Parameters]
  tensor_view<T, 2> dtable;  ///< [heads, table_size]
  tensor_view<T, 3> drow;    ///< [batch, heads, q_len]
};

/// body(name, gradient) for each that is requested.
template <class T, int Parameters, bool Table, bool Rows, class Body>
void for_score_gradients(const score_gradients<T, Parameters, Table, Rows>& learned, const Body& body) {
  if constexpr (Parameters > 0) body("dscore", learned.dscore);
  if constexpr (Table) body("dtable", learned.dtable);
  if constexpr (Rows) body("drow", learned.drow);
}

/// The score modifier of one head: of a modifier, of an operator.
template <class Score>
using bound_modifier = std::remove_cvref_t<decltype(score::bind(std::declval<const Score&>(), 0, 0))>;
template <class Op> using bound_score = bound_modifier<decltype(Op::score)>;

/// Those of `wanted`, for sums of type T; one sentence where the score of the operator has nothing of the kind to learn.
template <class Op, class T, class Gradients>
[[nodiscard]] auto requested_score_gradients(const Gradients& wanted) noexcept {
  using score_type = bound_score<Op>;
  constexpr bool by_parameter = is_wanted<decltype(Gradients::score)>, by_table = is_wanted<decltype(Gradients::table)>,
                 by_row = is_wanted<decltype(Gradients::row)>;
  constexpr int parameters = score::parameters<score_type>;
  static_assert(!by_parameter || parameters > 0,
                "seqprim: this score modifier has no parameters to learn: it lacks 'static constexpr int "
                "parameters' and 'parameter_derivative'. See docs/reference/score/rule.md");
  static_assert(
      !by_table || score::differentiable_by_table<score_type>,
      "seqprim: this score modifier has no table to learn: it lacks 'static constexpr bool learns_table = true', "
      "'table_size', 'table_index' and 'table_derivative', or two of its parts have a table. See "
      "docs/reference/score/rule.md");
  static_assert(!by_row || score::differentiable_by_row<score_type>,
                "seqprim: this score modifier has no values of rows to learn: it lacks 'row_derivative', or two of its "
                "parts have one. See docs/reference/score/rule.md");
  score_gradients<T, by_parameter ? parameters : 0, by_table, by_row> learned{};
  const auto take = [](auto& to, const auto& from) {
    using View = std::remove_cvref_t<decltype(to)>;
    using Given = std::remove_cvref_t<decltype(from)>;
    static_assert(detail::require_result<Given, View::rank>());
    static_assert(std::is_same_v<element_of<Given>, T>,
                  "seqprim: the gradients of what a score learns are float (double when the queries are double). See "
                  "docs/reference/attention/backward.md");
    to = View(from);
  };
  if constexpr (by_parameter) take(learned.dscore, wanted.score);
  if constexpr (by_table) take(learned.dtable, wanted.table);
  if constexpr (by_row) take(learned.drow, wanted.row);
  return learned;
}

/// Entries of the table that a score learns for one head. Of a chain, only the part that has it is bound: others may read memory of
/// a device then.
template <class Score> [[nodiscard]] index_t table_size_of(const Score& score, index_t batch, index_t head) {
  return score::bind(score, batch, head).table_size();
}
template <class Inner>
[[nodiscard]] index_t table_size_of(const score::packed<Inner>& score, index_t batch, index_t head) {
  return table_size_of(score.inner, batch, head);
}
template <class First, class Second>
[[nodiscard]] index_t table_size_of(const score::chain<First, Second>& score, index_t batch, index_t head) {
  if constexpr (score::differentiable_by_table<bound_modifier<First>>) {
    return table_size_of(score.first, batch, head);
  } else {
    return table_size_of(score.second, batch, head);
  }
}

/// Their shapes, and memory that is theirs alone.
template <entry Entry, class Op, class Inputs, class Results>
void expect_score_gradients(const problem& p, const Op& op, const Inputs& in, const Results& to) {
  const auto& learned = to.learned;
  using Learned = std::remove_cvref_t<decltype(learned)>;
  const auto expect_own_memory = [&](const char* name, const auto& gradient, const auto&... others) {
    expect_distinct<Entry>(name, gradient);
    for_operands(in, [&](const char* other, const auto& x) { expect_apart<Entry>(name, gradient, other, x); });
    for_results(to, [&](const char* other, const auto& x) { expect_apart<Entry>(name, gradient, other, x); });
    (expect_apart<Entry>(name, gradient, "another gradient of the score", others), ...);
  };
  if constexpr (Learned::parameters > 0) {
    expect_shape<Entry>("dscore", learned.dscore, {p.heads_axis(), {Learned::parameters, "parameters", "the score"}});
    expect_own_memory("dscore", learned.dscore, learned.dtable, learned.drow);
  }
  if constexpr (Learned::table) {
    const auto expect_entries = [&](index_t table_size) {
      expect_shape<Entry>("dtable", learned.dtable,
                          {p.heads_axis(), {table_size, "entries", "the table of the score"}});
    };
    if (p.batch * p.heads == 0) expect_entries(learned.dtable.extent(1));
    for (index_t b = 0; b < p.batch; ++b)
      for (index_t h = 0; h < p.heads; ++h) expect_entries(table_size_of(op.score, b, h));
    expect_own_memory("dtable", learned.dtable, learned.drow);
  }
  if constexpr (Learned::rows) {
    expect_shape<Entry>("drow", learned.drow, {p.batch_axis(), p.heads_axis(), p.q_len_axis()});
    expect_own_memory("drow", learned.drow);
  }
}

}  // namespace SEQPRIM_TARGET_NAMESPACE
}  // namespace seqprim::attention::detail
