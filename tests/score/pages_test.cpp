// SPDX-License-Identifier: Apache-2.0
// The examples of docs/reference/score, compiled and run.
#include <seqprim/core/tensor.hpp>
#include <seqprim/score/score.hpp>

#include <support/catch.hpp>

using namespace seqprim;

namespace {

// example-begin rule
/// Keys further away than `reach` lose one logit unit.
struct distance_step {
  index_t reach;

  SEQPRIM_HD constexpr float operator()(float logit, score::site at) const noexcept {
    return at.q - at.k > reach ? logit - 1.0f : logit;
  }
  SEQPRIM_HD constexpr float derivative(float, score::site) const noexcept { return 1.0f; }
};
static_assert(score::modifier<distance_step>);
// example-end rule

}  // namespace

TEST_CASE("pages: scores", "[score]") {
  REQUIRE(distance_step{.reach = 4}(2.0f, {9, 4}) == 1.0f);
  {
    // example-begin soft_cap
    const score::soft_cap cap{.cap = 50};
    const float logit = cap(80.0f, {});             // 46.1
    const float slope = cap.derivative(80.0f, {});  // 0.15
    // example-end soft_cap
    REQUIRE(logit > 46.0f);
    REQUIRE(logit < 46.2f);
    REQUIRE(slope > 0.15f);
    REQUIRE(slope < 0.16f);
  }
  {
    const index_t heads = 8;
    // example-begin alibi
    const score::alibi m{.heads = heads};
    const score::distance_bias third = score::bind(m, 0, 2);  // batch row 0, head 2: slope 1/8

    tensor<float, 1> slopes(heads);  // your own, learned for one
    const score::alibi_table table{.slopes = slopes.view()};
    // example-end alibi
    REQUIRE(third(1.0f, {99, 91}) == 0.0f);
    REQUIRE(score::bind(table, 0, 2)(1.0f, {99, 91}) == 1.0f);
  }
  {
    // example-begin chain
    const auto capped = score::soft_cap{.cap = 50} | score::alibi{.heads = 8};  // cap first, then the bias
    const auto head = score::bind(capped, 0, 2);
    // example-end chain
    REQUIRE(head(0.0f, {8, 0}) == -1.0f);
  }
}
