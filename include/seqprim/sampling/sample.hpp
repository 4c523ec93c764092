// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/isa.hpp>
#include <seqprim/core/element.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/scratch.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/sampling/detail/row.hpp>
#include <seqprim/sampling/gumbel_max.hpp>
#include <seqprim/sampling/stage.hpp>

#include <cstddef>
#include <cstdint>

namespace seqprim::sampling {

/// The result of one row: the token, or -1 and the reason.
struct sampled {
  index_t token = -1;
  row_status status = row_status::ok;
};

namespace detail {

/// Bytes of working memory for one row at a time, a multiple of 64.
template <class S> [[nodiscard]] constexpr index_t row_bytes(index_t vocab) noexcept {
  const index_t floats = round_up(vocab * index_t{sizeof(float)}, 64);
  return drops_tokens<S> ? 2 * floats : floats;
}

template <class S, class Isa> [[nodiscard]] row_buffer<Isa> row_in(std::byte* memory, index_t vocab) noexcept {
  const index_t floats = round_up(vocab * index_t{sizeof(float)}, 64);
  return {reinterpret_cast<float*>(memory),
          drops_tokens<S> ? reinterpret_cast<std::int32_t*>(memory + floats) : nullptr};
}

inline void expect_vocab(const char* who, index_t vocab) {
  SEQPRIM_EXPECTS(vocab > 0 && vocab <= std::numeric_limits<std::int32_t>::max(), who, ": vocab (", vocab,
                  ") must be in [1, 2147483647]. See docs/reference/sampling/sample.md");
}

/// The stages of S that change the row, applied; the last, terminal one picks.
template <class S, class Row> void transform_row(const S& s, Row& row) {
  if constexpr (transforms<S>) row.apply(s);
}
template <class First, class Second, class Row> void transform_row(const chain<First, Second>& c, Row& row) {
  detail::transform_row(c.first, row);
  detail::transform_row(c.second, row);
}

template <class S> [[nodiscard]] constexpr const auto& terminal_of(const S& s) noexcept {
  if constexpr (is_chain<S>) {
    return detail::terminal_of(s.second);
  } else {
    return s;
  }
}

template <class Chain, class Row, class T>
[[nodiscard]] sampled pick(const Chain& chain, Row& row, const tensor_view<const T, 1>& logits,
                           const random_stream& stream) {
  row.load(logits);
  detail::transform_row(chain, row);
  const candidates left = row.view();
  if (!row.ok()) return {.token = -1, .status = left.summary.status};
  return {.token = detail::terminal_of(chain).choose(left, stream), .status = row_status::ok};
}

inline constexpr subject sample_self{"sampling::sample", "sampling/sample"};

template <class Output, class X, class Request, class Step>
void expect_apart_from_inputs(const char* name, const Output& out, const X& x, const Request& request,
                              const Step& step) {
  sample_self.expects_apart(name, out, "logits", x);
  sample_self.expects_apart(name, out, "requests", request);
  sample_self.expects_apart(name, out, "steps", step);
}

/// Transforms one row and lets `write` store the result in place of `otherwise`.
template <class Isa, class Chain, class Logits, class Out, class Write>
row_status rewrite(const char* who, const cpu& executor, const Chain& chain, const Logits& logits, Out& out,
                   float otherwise, const Write& write) {
  using T = element_of<Logits>;
  static_assert(element<T> && !std::is_same_v<T, double>, "seqprim: sampling takes float, float16 or bfloat16 logits");
  const tensor_view<const T, 1> x = as_view(logits);
  const tensor_view<float, 1> to = as_view(out);
  executor.validate();
  sampling::validate(chain);
  detail::expect_vocab(who, x.extent(0));
  SEQPRIM_EXPECTS(to.extent(0) == x.extent(0), who, ": out (", to.extent(0), ") must have the ", x.extent(0),
                  " tokens of logits. See docs/reference/sampling/sample.md");
  const scratch<std::byte> memory(1, row_bytes<Chain>(x.extent(0)));
  auto row = row_in<Chain, Isa>(memory.slab(0), x.extent(0));
  row.load(x);
  detail::transform_row(sampling::bind(chain, 0), row);
  for (index_t i = 0; i < to.extent(0); ++i) to(i) = otherwise;
  if (row.ok()) write(row.view(), to);
  return row.view().summary.status;
}

}  // namespace detail

/// Bytes of working memory that sample() needs for this chain: 4 per token of the vocabulary and thread, 8 with a
/// filter.
template <stage Chain>
[[nodiscard]] index_t workspace_bytes(const cpu& executor, const Chain&, index_t rows, index_t vocab) {
  detail::expect_vocab("sampling::workspace_bytes", vocab);
  executor.validate();
  return min<index_t>(thread_count(executor), max<index_t>(rows, 1)) * detail::row_bytes<Chain>(vocab);
}

/// Picks one token for each row of logits with a chain of stages.
///
/// Shapes  logits [rows, vocab]; tokens, status, requests, steps [rows]; workspace [>= workspace_bytes(...)].
/// Types   logits: float, float16, bfloat16. tokens: index_t or int32_t. status: row_status. requests, steps: uint32_t.
///         Arithmetic is float and integer.
/// Layout  any strides; outputs overlap neither each other nor an input. Workspace: contiguous, 64-byte aligned.
/// Edge    a row with NaN, with +inf or with nothing but -inf gets token -1 and its status; other rows are not
///         affected.
/// Errors  precondition_error before anything is written: shapes disagree, vocab outside [1, 2^31 - 1], outputs
///         overlap, parameters of a stage out of range, workspace too small or misaligned.
/// Repeat  bit exact: a token depends on its logits and on (seed, request, step) only - not on the position or number
///         of rows, the number of threads, the instruction set, the compiler or its flags. `step` is the position of
///         the token that is drawn, `request` identifies the sequence; skipping a step changes no other step.
/// Cost    a few passes over the row, the first over its memory, the others over working memory; one thread per row.
///         One allocation of workspace_bytes(...) per call where no workspace is given.
template <class Isa = arch::native_isa, class Chain, viewable<2> Logits, viewable<1> Tokens, viewable<1> Status,
          viewable<1> Requests, viewable<1> Steps>
void sample(const cpu& executor, const Chain& chain, const Logits& logits, Tokens&& tokens, Status&& status,
            std::uint64_t seed, const Requests& requests, const Steps& steps,
            const tensor_view<std::byte, 1>& workspace) {
  static_assert(require_sampler<Chain>());
  using T = element_of<Logits>;
  using token_type = element_of<Tokens>;
  static_assert(element<T> && !std::is_same_v<T, double>, "seqprim: sampling takes float, float16 or bfloat16 logits");
  static_assert(std::is_same_v<token_type, index_t> || std::is_same_v<token_type, std::int32_t>,
                "seqprim: sampling writes tokens of type index_t or int32");
  static_assert(std::is_same_v<element_of<Status>, row_status>, "seqprim: sampling writes a status of type row_status");
  static_assert(std::is_same_v<element_of<Requests>, std::uint32_t> && std::is_same_v<element_of<Steps>, std::uint32_t>,
                "seqprim: sampling takes requests and steps of type uint32");
  const tensor_view<const T, 2> x = as_view(logits);
  const tensor_view<token_type, 1> out = as_view(tokens);
  const tensor_view<row_status, 1> out_status = as_view(status);
  const tensor_view<const std::uint32_t, 1> request = as_view(requests);
  const tensor_view<const std::uint32_t, 1> step = as_view(steps);

  const index_t rows = x.extent(0), vocab = x.extent(1);
  executor.validate();
  sampling::validate(chain);
  detail::expect_vocab("sampling::sample", vocab);
  detail::sample_self.expects_lengths("logits", x);
  detail::sample_self.expects_extent("tokens", out, 0, "rows", rows, "logits");
  detail::sample_self.expects_extent("status", out_status, 0, "rows", rows, "logits");
  detail::sample_self.expects_extent("requests", request, 0, "rows", rows, "logits");
  detail::sample_self.expects_extent("steps", step, 0, "rows", rows, "logits");
  detail::sample_self.expects_apart("tokens", out, "status", out_status);
  detail::expect_apart_from_inputs("tokens", out, x, request, step);
  detail::expect_apart_from_inputs("status", out_status, x, request, step);
  const index_t bytes = detail::row_bytes<Chain>(vocab);
  const index_t slots = min<index_t>(thread_count(executor), max<index_t>(rows, 1));
  detail::sample_self.expects_workspace(workspace, slots * bytes, "bytes", 64);
  detail::expect_apart_from_inputs("workspace", workspace, x, request, step);
  detail::sample_self.expects_apart("workspace", workspace, "tokens", out);
  detail::sample_self.expects_apart("workspace", workspace, "status", out_status);

  parallel_for(executor, rows, [&](index_t i, int thread) {
    const auto stages = sampling::bind(chain, i);
    auto row = detail::row_in<Chain, Isa>(workspace.data + thread * bytes, vocab);
    const random_stream stream{.seed = seed, .request = request(i), .step = step(i)};
    const sampled result = detail::pick(stages, row, x[i], stream);
    out(i) = static_cast<token_type>(result.token);
    out_status(i) = result.status;
  });
}

/// The same, allocating its working memory.
template <class Isa = arch::native_isa, class Chain, viewable<2> Logits, viewable<1> Tokens, viewable<1> Status,
          viewable<1> Requests, viewable<1> Steps>
void sample(const cpu& executor, const Chain& chain, const Logits& logits, Tokens&& tokens, Status&& status,
            std::uint64_t seed, const Requests& requests, const Steps& steps) {
  static_assert(require_sampler<Chain>());
  const auto x = as_view(logits);
  const index_t bytes = sampling::workspace_bytes(executor, chain, x.extent(0), x.extent(1));
  const scratch<std::byte> memory(1, bytes);
  sampling::sample<Isa>(executor, chain, logits, tokens, status, seed, requests, steps,
                        tensor_view<std::byte, 1>(memory.slab(0), bytes));
}

/// Picks the token of one row: logits [vocab]. Stages that depend on the row are bound to row 0.
template <class Isa = arch::native_isa, class Chain, viewable<1> Logits>
[[nodiscard]] sampled sample(const cpu& executor, const Chain& chain, const Logits& logits,
                             const random_stream& stream) {
  static_assert(require_sampler<Chain>());
  const tensor_view<const element_of<Logits>, 1> x = as_view(logits);
  executor.validate();
  sampling::validate(chain);
  detail::expect_vocab("sampling::sample", x.extent(0));
  const scratch<std::byte> memory(1, detail::row_bytes<Chain>(x.extent(0)));
  auto row = detail::row_in<Chain, Isa>(memory.slab(0), x.extent(0));
  return detail::pick(sampling::bind(chain, 0), row, x, stream);
}

/// The distribution that a chain picks from, after all its stages: for draw{} that of its integer weights, for
/// gumbel_max{} or no terminal stage the softmax, for greedy{} a single one. Speculative decoding needs exactly this
/// vector.
///
/// Shapes  logits, out [vocab]; out: float, may be the logits themselves.
/// Edge    tokens that were dropped or excluded get exactly 0; a row whose status is not ok gets zeros.
/// Errors  precondition_error: lengths disagree, vocab < 1, parameters of a stage out of range.
/// Cost    the stages, then one or two exponentials per token; allocates one row of working memory.
template <class Isa = arch::native_isa, stage Chain, viewable<1> Logits, viewable<1> Out>
row_status probabilities(const cpu& executor, const Chain& chain, const Logits& logits, Out&& out) {
  return detail::rewrite<Isa>("sampling::probabilities", executor, chain, logits, out, 0.0f,
                              [&](const candidates& row, const tensor_view<float, 1>& to) {
                                if constexpr (detail::ends<Chain>) {
                                  detail::terminal_of(sampling::bind(chain, 0)).law(row, to);
                                } else {
                                  gumbel_max{}.law(row, to);
                                }
                              });
}

/// The logits after the stages of a chain without a terminal stage: -inf where a token was dropped.
///
/// Shapes  logits, out [vocab]; out: float, may be the logits themselves.
/// Edge    a row whose status is not ok gets -inf everywhere.
/// Errors  precondition_error: lengths disagree, vocab < 1, parameters of a stage out of range.
template <class Isa = arch::native_isa, class Chain, viewable<1> Logits, viewable<1> Out>
row_status apply(const cpu& executor, const Chain& stages, const Logits& logits, Out&& out) {
  static_assert(require_transforms<Chain>());
  return detail::rewrite<Isa>("sampling::apply", executor, stages, logits, out, excluding_logit,
                              [](const candidates& row, const tensor_view<float, 1>& to) {
                                for (index_t i = 0; i < row.count; ++i) to(row.token(i)) = row.logit(i);
                              });
}

}  // namespace seqprim::sampling
