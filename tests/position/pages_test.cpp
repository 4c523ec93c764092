// SPDX-License-Identifier: Apache-2.0
// The examples of docs/reference/position, compiled and run.
#include <seqprim/core/core.hpp>
#include <seqprim/position/position.hpp>

#include <cmath>
#include <cstdint>
#include <support/catch.hpp>
#include <vector>

using namespace seqprim;

TEST_CASE("pages: positions", "[position]") {
  const index_t cached = 100;
  tensor<bfloat16, 4> q(2, 8, 5, 64), k(2, 2, 5, 64), dq(2, 8, 5, 64);
  {
    // example-begin encode
    // q [batch, heads, len, head_dim], k [batch, kv_heads, len, head_dim]: new tokens behind `cached` others
    const position::rotary<position::half_split> rotary{.rotary_dim = 64, .frequencies = {.theta = 500000}};
    position::encode(cpu{}, rotary, position::sequential{.start = cached}, q, q);  // in place
    position::encode(cpu{}, rotary, position::sequential{.start = cached}, k, k);
    position::encode_backward(cpu{}, rotary, position::sequential{.start = cached}, dq, dq);
    // example-end encode
  }
  {
    // example-begin rotary
    const position::rotary<position::half_split> whole{.rotary_dim = 64};
    const position::rotary<position::interleaved> first_half{.rotary_dim = 32};
    const position::rotary<position::interleaved> last_half{.rotary_dim = 32, .begin = 32};

    float table[64], x[64] = {1.0f}, y[64];
    whole.table(1000, table);                 // one token; for all of its heads
    whole.apply(x, y, table, 64);             // one vector
    whole.apply_transposed(y, x, table, 64);  // the transpose: back again
    // example-end rotary
    position::validate(first_half, 64);
    position::validate(last_half, 64);
    REQUIRE(x[0] > 0.99999f);
  }
  {
    // example-begin table
    const position::rotary<position::half_split> rotary{.rotary_dim = 64};
    const position::table table(cpu{}, rotary, 4096);                                    // once
    position::encode(cpu{}, table.view(), position::sequential{.start = cached}, q, q);  // each layer, each step
    // example-end table
    REQUIRE(table.positions() == 4096);
  }
  {
    // example-begin token_ids
    const std::vector<std::int32_t> restarting = {0, 1, 2, 0, 1};  // two packed documents
    const position::token_ids packed{.ids = restarting};

    tensor<index_t, 2> ids(2, 5);  // [batch, len]
    const position::token_ids_per_batch padded{.ids = ids.view()};
    // example-end token_ids
    REQUIRE(packed(4) == 1);
    REQUIRE(position::bind(padded, 1)(4) == 0);
  }
  {
    // example-begin sequential
    const position::sequential map{.start = cached};
    const index_t position_of_row_3 = map(3);  // 103
    // example-end sequential
    REQUIRE(position_of_row_3 == 103);
  }
  {
    const std::vector<std::int32_t> q_ids = {3, 4}, k_ids = {0, 1, 2, 3, 4};
    // example-begin placed
    const position::rotary<position::half_split> rotary{.rotary_dim = 64};
    const position::placed at{rotary, position::token_ids{.ids = q_ids}, position::token_ids{.ids = k_ids}};
    // attention::softmax{mask::causal{}, score::identity{}, at}
    // example-end placed
    REQUIRE(at.queries(1) == at.keys(4));
  }
  {
    const index_t pairs = 32;
    // example-begin frequencies
    const position::rotary<position::half_split> usual{.frequencies = {.theta = 500000}};

    tensor<double, 1> inv_freq(pairs);  // positions that count a quarter: linear interpolation by 4
    for (index_t c = 0; c < pairs; ++c) inv_freq(c) = std::pow(500000.0, -static_cast<double>(c) / pairs) / 4;
    const position::rotary<position::half_split, position::listed> slower{.frequencies = {.inv_freq = inv_freq.view()}};
    // example-end frequencies
    float a[64], b[64];
    usual.for_head_dim(64).table(1, a);
    slower.for_head_dim(64).table(4, b);
    for (int i = 0; i < 64; ++i) REQUIRE(std::fabs(a[i] - b[i]) <= 2e-7f);
  }
  {
    // example-begin coordinates
    tensor<double, 2> patches(12, 2);  // row and column of a grid of 3 x 4 patches
    for (index_t i = 0; i < 12; ++i) {
      patches(i, 0) = static_cast<double>(i / 4);
      patches(i, 1) = static_cast<double>(i % 4);
    }
    const position::coordinates<2> map{.values = patches.view()};  // map(7) is the point (1, 3)
    // example-end coordinates
    REQUIRE(map(7) == position::point<2>{{1, 3}});
  }
  {
    // example-begin none
    const bool works = position::encodes<position::none>;  // false: nothing to do
    // example-end none
    REQUIRE_FALSE(works);
  }
}
