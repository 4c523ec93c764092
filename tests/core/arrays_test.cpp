// SPDX-License-Identifier: Apache-2.0
#include <seqprim/attention/append.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/attention/paged.hpp>
#include <seqprim/core/arrays.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/position/position.hpp>
#include <seqprim/score/score.hpp>

#include <string>
#include <support/catch.hpp>
#include <vector>

using namespace seqprim;

namespace {

/// "name of the part: operand", in order, for every array that a visit shows.
template <class Part> std::string arrays_of(const Part& part) {
  std::string text;
  for_arrays(part, [&](const subject& self, const char* name, const borrowed& array) {
    if (array.data == nullptr) return;
    text += text.empty() ? "" : ", ";
    text += std::string(self.name) + ": " + name;
    text += array.host == host_access::never ? " (device)" : array.host == host_access::needed ? " (needed)" : "";
  });
  return text;
}

const std::vector<std::int32_t> four{0, 1, 2, 3};
const index_array some(four);
const tensor<float, 3> rows(1, 1, 4);

// A part of the caller.
struct every_other {
  index_array offsets;
  constexpr bool operator()(index_t q, index_t k) const noexcept { return (q + k) % 2 == 0; }
  constexpr mask::tile_kind classify(range, range) const noexcept { return mask::tile_kind::partial; }
  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    visit(subject{"every_other", "none"}, "offsets", offsets);
  }
};

}  // namespace

TEST_CASE("arrays: every mask shows what it borrows", "[core][mask]") {
  REQUIRE(arrays_of(mask::causal{}).empty());
  REQUIRE(arrays_of(mask::key_padding{some, 4}) == "mask::key_padding: lengths");
  REQUIRE(arrays_of(mask::prefix_per_batch{some.on_device()}) == "mask::prefix_per_batch: lengths (device)");
  REQUIRE(arrays_of(mask::last_queries{some, mask::key_padding{some, 4}}) ==
          "mask::last_queries: lengths, mask::key_padding: lengths");
  REQUIRE(arrays_of(mask::row_ranges{some, some}) == "mask::row_ranges: begin, mask::row_ranges: end");
  const tensor<std::uint64_t, 2> words(4, 1);
  REQUIRE(arrays_of(mask::row_words{words.view()}) == "mask::row_words: words");
  const tensor<bool, 4> visible(1, 1, 4, 4);
  REQUIRE(arrays_of(mask::dense_per_head{visible.view()}) == "mask::dense_per_head: visible");
  REQUIRE(arrays_of(mask::dense{visible.view()[0][0]}) == "mask::dense: visible");
  REQUIRE(arrays_of(mask::documents(some)) == "packing: q_offsets, packing: k_offsets");
  REQUIRE(arrays_of(mask::packed_prefix(some, some)) ==
          "packing: q_offsets, packing: k_offsets, mask::packed_prefix: prefix_ends, mask::packed_prefix: offsets");
  const mask::block_grid grid(cpu{}, mask::dense{visible.view()[0][0]}, 4, 4, 2, 2);
  REQUIRE(arrays_of(grid.over(mask::dense{visible.view()[0][0]})) == "mask::dense: visible, mask::block_map: kinds");
  const tensor<mask::key_padding, 1> masks(1);
  REQUIRE(arrays_of(mask::per_head{masks.view()}) == "mask::per_head: masks (needed)");
  REQUIRE(arrays_of(mask::per_batch{masks.view()}) == "mask::per_batch: masks (needed)");
  const mask::labels frames(four);
  REQUIRE(arrays_of(mask::by_label{mask::causal{}, frames.rows(), frames.rows_in(&four[0])}) ==
          "mask::labels: block, mask::labels: block (device)");
  REQUIRE(arrays_of(mask::by_label{mask::causal{}, frames.row(), frames.row()}) ==
          "mask::label_view: values, mask::label_view: values");
  REQUIRE(arrays_of(mask::by_label{mask::row_ranges{some, some}, frames.row(), mask::own{}}) ==
          "mask::row_ranges: begin, mask::row_ranges: end, mask::label_view: values (needed)");
}

TEST_CASE("arrays: wrappers pass the visit on", "[core][mask][score]") {
  const mask::key_padding padding{some, 4};
  const std::string one = "mask::key_padding: lengths";
  REQUIRE(arrays_of(padding & mask::causal{}) == one);
  REQUIRE(arrays_of(mask::causal{} | padding) == one);
  REQUIRE(arrays_of(~padding) == one);
  REQUIRE(arrays_of(mask::transposed{padding}) == one);
  REQUIRE(arrays_of(mask::key_concat(padding, 4, mask::key_padding{some, 4})) == one + ", " + one);
  REQUIRE(arrays_of(mask::packed{packing{some, some}, padding}) == "packing: q_offsets, packing: k_offsets, " + one);
  REQUIRE(arrays_of(every_other{some} & mask::causal{}) == "every_other: offsets");
}

TEST_CASE("arrays: scores and positions", "[core][score][position]") {
  const tensor<float, 2> table(1, 9);
  const score::relative_bias bias{table.view(), -4};
  REQUIRE(arrays_of(bias) == "score::relative_bias: table");
  REQUIRE(arrays_of(score::soft_cap{.cap = 5} | bias) == "score::relative_bias: table");
  REQUIRE(arrays_of(score::key_bias{rows.view()} | score::query_scale{rows.view()}) ==
          "score::key_bias: bias, score::query_scale: factors");
  REQUIRE(arrays_of(score::alibi_table{rows.view()[0][0]}) == "score::alibi_table: slopes");
  REQUIRE(arrays_of(score::packed<score::relative_bias>{packing{some, some}, bias}) ==
          "packing: q_offsets, packing: k_offsets, score::relative_bias: table");

  using position::half_split;
  const tensor<double, 1> frequencies(4);
  const position::rotary<half_split, position::listed> listed{.frequencies = {frequencies.view()}};
  REQUIRE(arrays_of(listed) == "position::listed: inv_freq");
  REQUIRE(arrays_of(position::on_read{listed}) == "position::listed: inv_freq");
  const position::table tables(cpu{}, position::rotary<half_split>{.rotary_dim = 8}, 4);
  REQUIRE(arrays_of(tables.view()) == "position::tabled: values");
  const tensor<double, 3> points(1, 4, 2);
  REQUIRE(arrays_of(position::coordinates<2>{points.view()[0]}) == "position::coordinates: values");
  REQUIRE(arrays_of(position::coordinates_per_batch<2>{points.view()}) == "position::coordinates_per_batch: values");
  const tensor<index_t, 2> ids(1, 4);
  REQUIRE(arrays_of(position::placed{listed, position::token_ids{some}, position::token_ids_per_batch{ids.view()}}) ==
          "position::listed: inv_freq, position::token_ids: ids, position::token_ids_per_batch: ids");
  REQUIRE(arrays_of(position::packed_queries{packing{some, some}}) == "packing: q_offsets, packing: k_offsets");
  REQUIRE(arrays_of(position::shifted_rows{position::token_ids{some}, row_starts{}}) == "position::token_ids: ids");

  const tensor<float, 1> sinks(2);
  REQUIRE(
      arrays_of(attention::softmax{mask::causal{}, bias,
                                   position::placed{listed, position::token_ids{some}, position::sequential{}}}
                    .with_sinks(sinks.view())
                    .starting_at(some)) ==
      "score::relative_bias: table, position::listed: inv_freq, position::token_ids: ids, attention::softmax: sinks, "
      "attention::softmax: starts");
  const tensor<std::int32_t, 2> pages(1, 2);
  REQUIRE(arrays_of(attention::page_table(pages, some)) ==
          "attention::page_table: entries, attention::page_table: lengths");
  REQUIRE(arrays_of(attention::page_table(pages, some).on_device()) ==
          "attention::page_table: entries (device), attention::page_table: lengths (device)");
}

TEST_CASE("arrays: the CPU reads none that is marked for a device", "[core][attention][errors]") {
  tensor<float, 4> x(1, 1, 4, 8), out(1, 1, 4, 8);
  out.fill(7.0f);
  const auto run = [&](const auto& op) { attention::forward(cpu{}, op, x, x, x, out); };
  const char* const rest =
      " is marked on_device(), but the operation runs on the CPU: pass an array in host memory, unmarked";
  REQUIRE_THROWS_WITH(run(attention::softmax{mask::causal{} & mask::key_padding{some.on_device(), 4}}),
                      ContainsSubstring(std::string("mask::key_padding: lengths") + rest));
  REQUIRE_THROWS_WITH(run(attention::softmax{every_other{some.on_device()}}),
                      ContainsSubstring(std::string("every_other: offsets") + rest));
  REQUIRE_THROWS_WITH(run(attention::softmax{}.starting_at(some.on_device())),
                      ContainsSubstring(std::string("attention::softmax: starts") + rest));
  const position::rotary<position::half_split> rope;
  REQUIRE_THROWS_WITH(position::encode(cpu{}, rope, position::token_ids{some.on_device()}, x, x),
                      ContainsSubstring(std::string("position::token_ids: ids") + rest));
  const attention::softmax placed{
      mask::causal{}, score::identity{},
      position::placed{rope, position::sequential{}, position::token_ids{some.on_device()}}};
  tensor<float, 4> cache(1, 1, 4, 8);
  REQUIRE_THROWS_WITH(attention::append(cpu{}, placed, x, x, 0, cache, out),
                      ContainsSubstring(std::string("position::token_ids: ids") + rest));
  for (const float each : std::vector<float>(out.data(), out.data() + out.size())) REQUIRE(each == 7.0f);
}
