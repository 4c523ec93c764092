// SPDX-License-Identifier: Apache-2.0
// The examples of docs/reference/core.
#include <seqprim/core/core.hpp>
#include <seqprim/core/dlpack.hpp>
#include <seqprim/core/raw.hpp>

#include <support/catch.hpp>

using namespace seqprim;

TEST_CASE("reference pages of core: the examples do what they say", "[core]") {
  SECTION("tensors") {
    constexpr index_t batch = 2, len = 3, heads = 4, dim = 8;
    // example-begin tensor_view
    tensor<float, 4> memory(batch, len, heads, dim);       // as a projection writes it
    const auto q = memory.view().transposed(1, 2);         // [batch, heads, len, dim], nothing moved
    const tensor_view<const float, 2> one_head = q[1][3];  // [len, dim] of batch row 1, head 3
    const auto last_token = q.slice(2, {q.extent(2) - 1, q.extent(2)});
    // example-end tensor_view
    REQUIRE(&one_head(2, 5) == &memory(1, 2, 3, 5));
    REQUIRE(&last_token(0, 0, 0, 0) == &memory(0, 2, 0, 0));
  }

  SECTION("adapters") {
    float buffer[24] = {};
    // example-begin raw
    const auto dense = from_raw(buffer, {2, 3, 4});         // [2, 3, 4], row-major
    const auto columns = from_raw(buffer, {4, 6}, {1, 4});  // strides count elements
    const auto checked = from_buffer(buffer, 24, {2, 12});  // and lies in these 24 elements
    // example-end raw
    REQUIRE((dense.size() == 24 && columns(3, 5) == 0.0f && checked.contiguous()));
    dlpack::described description(dense);
    dlpack::DLTensor& from_elsewhere = description.get();
    // example-begin dlpack
    const auto x = dlpack::from_dlpack<const float, 3>(from_elsewhere);  // a view; nothing is copied

    tensor<float, 2> result(4, 6);
    dlpack::DLManagedTensor* handed_over = dlpack::to_dlpack(std::move(result));  // the consumer calls its deleter
    // example-end dlpack
    REQUIRE(x.data == buffer);
    handed_over->deleter(handed_over);
  }

  SECTION("loops and random numbers") {
    // example-begin parallel
    const cpu executor{.threads = 2};
    tensor<float, 1> noise(1000);
    const random_stream stream{.seed = 7, .request = 3, .step = 0};
    parallel_for(executor, ceil_div(noise.size(), 100), [&](index_t piece, int) {
      for (index_t i = piece * 100; i < min<index_t>((piece + 1) * 100, noise.size()); ++i)
        noise(i) = uniform_open(stream.word(random_domain::caller, static_cast<std::uint32_t>(i)));
    });
    // example-end parallel
    for (const float u : noise) REQUIRE((u > 0.0f && u < 1.0f));
  }

  SECTION("numbers") {
    // example-begin numbers
    const bfloat16 a(1.0f / 3);           // rounds to nearest, ties to even
    const float b = a;                    // exact
    const float16 c = float16(65520.0f);  // infinity: halfway past the largest float16
    // example-end numbers
    REQUIRE((b == 0x1.56p-2f && c.bits == 0x7c00));
  }

  SECTION("errors") {
    const auto check = [](index_t heads, index_t kv_heads) {
      // example-begin error
      SEQPRIM_EXPECTS(heads % kv_heads == 0, "attention::forward: heads (", heads, ") must be a multiple of kv_heads (",
                      kv_heads, "). See docs/reference/attention/forward.md");
      // example-end error
    };
    REQUIRE_THROWS_AS(check(6, 4), precondition_error);

    const auto check_all = [](const index_array& lengths, index_t batch, index_t k_len) {
      // example-begin subject
      constexpr subject self{"mask::prefix_per_batch", "mask/prefix"};  // in a type: static constexpr
      self.expects_count("lengths", lengths, batch, "batch rows");
      self.expects_each("lengths", lengths, 0, {k_len, "k_len"});
      // example-end subject
    };
    const index_t lengths[] = {3, 40};
    check_all({lengths, 2}, 2, 40);
    REQUIRE_THROWS_WITH(check_all({lengths, 2}, 2, 32),
                        "mask::prefix_per_batch: lengths[1] (40) must be in [0, k_len (32)]. See "
                        "docs/reference/mask/prefix.md");
    REQUIRE_THROWS_AS(check_all({lengths, 2}, 3, 40), precondition_error);
  }
}
