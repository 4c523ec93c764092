// SPDX-License-Identifier: Apache-2.0
#include <seqprim/linalg/gather.hpp>

#include <support/catch.hpp>
#include <support/random.hpp>

using namespace seqprim;

TEST_CASE("gather and scatter: rows by index, and back", "[linalg][property]") {
  test::random_numbers random(73);
  tensor<float, 2> table(100, 7), picked(70, 7), back(100, 7);
  random.fill(table);
  std::vector<index_t> rows(70);
  for (index_t i = 0; i < 70; ++i) rows[static_cast<std::size_t>(i)] = (i * 37 + 5) % 100;  // none twice
  linalg::gather_rows(cpu{3}, tensor_view<const float, 2>(table.view()), rows.data(), picked.view());
  back.fill(-1);
  linalg::scatter_rows(cpu{3}, tensor_view<const float, 2>(picked.view()), rows.data(), back.view());
  std::vector<bool> chosen(100);
  for (index_t i = 0; i < 70; ++i) {
    const index_t row = rows[static_cast<std::size_t>(i)];
    chosen[static_cast<std::size_t>(row)] = true;
    for (index_t d = 0; d < 7; ++d) REQUIRE(picked(i, d) == table(row, d));
  }
  for (index_t row = 0; row < 100; ++row)
    for (index_t d = 0; d < 7; ++d)
      REQUIRE(back(row, d) == (chosen[static_cast<std::size_t>(row)] ? table(row, d) : -1.0f));
}

TEST_CASE("fill_rows: one row to all", "[linalg]") {
  tensor<float, 1> row(3);
  for (index_t d = 0; d < 3; ++d) row(d) = static_cast<float>(d);
  tensor<float, 2> all(65, 3);
  linalg::fill_rows(cpu{2}, tensor_view<const float, 1>(row.view()), all.view());
  for (index_t i = 0; i < 65; ++i)
    for (index_t d = 0; d < 3; ++d) REQUIRE(all(i, d) == row(d));
}
