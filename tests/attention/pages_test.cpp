// SPDX-License-Identifier: Apache-2.0
// The code of docs/reference/attention: what stands between example-begin and example-end is quoted there.
#include <seqprim/attention/attention.hpp>
#include <seqprim/attention/reference.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/position/position.hpp>
#include <seqprim/score/score.hpp>

#include <support/catch.hpp>
#include <support/random.hpp>
#include <vector>

using namespace seqprim;

namespace {
// example-begin policy
struct long_cache_policy {
  template <class Isa> static constexpr attention::tile_policy choose() noexcept { return {.split_keys = 2048}; }
};
// example-end policy

// example-begin number
/// Keys further away than `reach` fade: the logit loses up to `depth`, smoothly.
struct fading {
  float reach;
  float depth;

  template <class X, class Site = score::site> SEQPRIM_HD constexpr X operator()(X logit, Site at) const noexcept {
    using score::magnitude;  // for float and double; arch::lanes brings its own
    const X distance = magnitude(at.template ahead<X>());
    return logit - X(depth) * score::tanh_of(distance * X(1.0f / reach));
  }
  template <class X, class Site = score::site> SEQPRIM_HD constexpr X derivative(X, Site) const noexcept {
    return X(1.0f);
  }
};
static_assert(score::modifier<fading> && score::takes_lanes<fading, arch::lanes<arch::native_isa, float>>);
// example-end number
}  // namespace

TEST_CASE("the pages of attention: their code runs", "[attention][docs]") {
  test::random_numbers random(1);
  const index_t len = 40;
  tensor<float, 4> q(2, 4, len, 16), k(2, 2, len, 16), v(2, 2, len, 16), out(2, 4, len, 16);
  tensor<float, 3> lse(2, 4, len);
  random.fill(q);
  random.fill(k);
  random.fill(v);
  const cpu executor{};
  {
    // example-begin softmax
    const attention::softmax plain{};  // everybody sees everybody
    const attention::softmax causal{mask::causal{}};
    const attention::softmax capped{mask::causal_window(4096), score::soft_cap{.cap = 50}};
    const attention::softmax rotary{mask::causal{}, score::identity{},
                                    position::rotary<position::half_split>{.rotary_dim = 16}};
    const auto t5 = attention::softmax{}.scaled(1.0f);  // another softmax scale than 1 / sqrt(head_dim)
    // example-end softmax
    attention::forward(executor, plain, q, k, v, out);
    attention::forward(executor, causal, q, k, v, out);
    attention::forward(executor, capped, q, k, v, out);
    attention::forward(executor, rotary, q, k, v, out);
    attention::forward(executor, t5, q, k, v, out);
    // example-begin sink
    tensor<float, 1> logits(4);  // of the sinks, one for each query head
    logits.fill(0.5f);
    const auto learned = causal.with_sinks(logits.view());
    const auto shared = causal.with_sink(0.5f);  // the same for all heads
    attention::forward(executor, learned, q, k, v, out, lse);
    // example-end sink
    tensor<double, 4> exact(2, 4, len, 16);
    tensor<double, 3> exact_lse(2, 4, len);
    attention::reference::forward(shared, q, k, v, exact, exact_lse);
    REQUIRE(out(1, 3, 0, 5) == Approx(exact(1, 3, 0, 5)).margin(1e-6));
    REQUIRE(lse(1, 3, 0) == Approx(exact_lse(1, 3, 0)).margin(1e-6));
  }
  {
    attention::forward(executor, attention::softmax{mask::causal{}, fading{.reach = 8, .depth = 2}}, q, k, v, out);
    // example-begin forward
    const attention::softmax op{mask::causal{}};
    attention::forward(executor, op, q, k, v, out, lse);  // lse may be left out
    // example-end forward
    tensor<float, 4> dout(2, 4, len, 16);
    random.fill(dout);
    // example-begin backward
    tensor<float, 4> dq(2, 4, len, 16), dk(2, 2, len, 16), dv(2, 2, len, 16);
    attention::backward(executor, op, q, k, v, out, lse, dout, attention::gradients{}.dq(dq).dk(dk).dv(dv));
    // example-end backward
    // example-begin reference
    tensor<double, 4> exact(2, 4, len, 16);
    tensor<double, 3> exact_lse(2, 4, len);
    attention::reference::forward(op, q, k, v, exact, exact_lse);
    // example-end reference
    REQUIRE(out(1, 3, 20, 5) == Approx(exact(1, 3, 20, 5)).margin(1e-6));
  }
  {
    tensor<float, 4> q_new(2, 4, 1, 16), k_new(2, 2, 1, 16), v_new(2, 2, 1, 16), out_new(2, 4, 1, 16);
    tensor<bfloat16, 4> k_cache(2, 2, 64, 16), v_cache(2, 2, 64, 16);
    index_t n_past = 0;
    // example-begin decode
    const auto op =
        attention::softmax{mask::causal{}, score::identity{}, position::rotary<position::half_split>{.rotary_dim = 16}}
            .starting_at(n_past);
    attention::append(executor, op, k_new, v_new, n_past, k_cache, v_cache);
    const range filled{0, n_past + 1};
    attention::decode(executor, op, q_new, k_cache.view().slice(2, filled), v_cache.view().slice(2, filled), out_new);
    // example-end decode
    {
      const index_t batch = 2, kv_heads = 2, page_size = 16, pages = 8, dim = 16;
      // example-begin append
      tensor<bfloat16, 4> k_pages(pages, kv_heads, page_size, dim), v_pages(pages, kv_heads, page_size, dim);
      tensor<std::int32_t, 2> entries(batch, 4);  // page of each 16 tokens of a sequence
      std::vector<std::int32_t> lengths{20, 3};   // with the tokens that come now
      entries(0, 0) = 5;
      entries(0, 1) = 2;
      entries(1, 0) = 7;
      const attention::page_table table{entries, lengths};
      attention::append(executor, op, k_new, v_new, attention::paged{k_pages, table}, attention::paged{v_pages, table});
      // example-end append
      random.fill(k_pages);
      random.fill(v_pages);
      random.fill(q_new);
      // example-begin paged
      const attention::softmax all{mask::full{}, score::identity{}, op.position};  // the new token sees its sequence
      attention::decode(executor, all, q_new, attention::paged{k_pages, table}, attention::paged{v_pages, table},
                        out_new);
      // example-end paged
      const index_t new_len = 3;
      tensor<float, 4> q_last(batch, 4, new_len, dim), out_last(batch, 4, new_len, dim);
      for (index_t b = 0; b < batch; ++b)
        for (index_t h = 0; h < 4; ++h)
          for (index_t d = 0; d < dim; ++d) q_last(b, h, new_len - 1, d) = q_new(b, h, 0, d);
      // example-begin last_queries
      const attention::softmax last{mask::last_queries{lengths, mask::causal{}}, score::identity{}, op.position};
      attention::decode(executor, last, q_last, attention::paged{k_pages, table}, attention::paged{v_pages, table},
                        out_last);
      // example-end last_queries
      for (index_t h = 0; h < 4; ++h)
        for (index_t d = 0; d < dim; ++d) {
          for (index_t b = 0; b < batch; ++b)
            REQUIRE(out_last(b, h, new_len - 1, d) == Approx(out_new(b, h, 0, d)).margin(1e-6));
          // The first of three queries of a sequence of three tokens sees its own.
          REQUIRE(out_last(1, h, 0, d) == static_cast<float>(v_pages(7, h / 2, 0, d)));
        }
      // example-begin paged-quantized
      tensor<std::int8_t, 4> k_codes(pages, kv_heads, page_size, dim), v_codes(pages, kv_heads, page_size, dim);
      tensor<float, 4> k_scales(pages, kv_heads, page_size, 1), v_scales(pages, kv_heads, page_size, 1);
      const attention::paged k_coded{attention::quantized{k_codes, k_scales}, table};
      const attention::paged v_coded{attention::quantized{v_codes, v_scales}, table};
      attention::append(executor, all, k_new, v_new, k_coded, v_coded);
      attention::decode(executor, all, q_new, k_coded, v_coded, out_new);
      // example-end paged-quantized
    }
    {
      const index_t batch = 2, kv_heads = 2, capacity = 64, dim = 16;
      // example-begin quantized
      tensor<std::int8_t, 4> k_codes(batch, kv_heads, capacity, dim), v_codes(batch, kv_heads, capacity, dim);
      tensor<float, 4> k_scales(batch, kv_heads, capacity, 1), v_scales(batch, kv_heads, capacity, 1);
      const attention::quantized k_coded{k_codes, k_scales}, v_coded{v_codes, v_scales};
      attention::append(executor, op, k_new, v_new, n_past, k_coded, v_coded);
      attention::decode(executor, op, q_new, k_coded.slice(2, {0, n_past + 1}), v_coded.slice(2, {0, n_past + 1}),
                        out_new);
      // example-end quantized
    }
    // example-begin use_policy
    attention::decode<arch::native_isa, long_cache_policy>(executor, op, q_new, k_cache.view().slice(2, filled),
                                                           v_cache.view().slice(2, filled), out_new);
    // example-end use_policy
  }
  {
    tensor<float, 4> part(2, 4, len, 16);
    tensor<float, 3> part_lse(2, 4, len);
    // example-begin merge
    attention::forward(executor, attention::softmax{mask::key_range{0, 25}}, q, k, v, out, lse);
    attention::forward(executor, attention::softmax{mask::key_range{25, len}}, q, k, v, part, part_lse);
    attention::merge(executor, out, lse, part, part_lse);  // (out, lse) now covers all keys
    // example-end merge
    tensor<double, 4> exact(2, 4, len, 16);
    tensor<double, 3> exact_lse(2, 4, len);
    attention::reference::forward(attention::softmax{}, q, k, v, exact, exact_lse);
    REQUIRE(out(1, 3, 20, 5) == Approx(exact(1, 3, 20, 5)).margin(1e-6));
  }
}
