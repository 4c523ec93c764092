// SPDX-License-Identifier: Apache-2.0
#include <seqprim/seqprim.hpp>

#include <cstdio>

int main() {
  using namespace seqprim;
  const auto mask = mask::causal{} & mask::sliding_window{.left = 1};
  const char* const expected[] = {"x...", "xx..", ".xx.", "..xx"};
  for (index_t q = 0; q < 4; ++q) {
    char row[5] = "....";
    for (index_t k = 0; k < 4; ++k)
      if (mask(q, k)) row[k] = 'x';
    std::puts(row);
    if (std::string(row) != expected[q]) return 1;
  }
  return 0;
}
