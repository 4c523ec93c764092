// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/mask/check.hpp>
#include <seqprim/mask/rule.hpp>

#include <support/catch.hpp>

namespace seqprim::test {

/// The definition of classify().
template <class M> mask::tile_kind brute_force(const M& m, range q, range k) {
  bool any = false;
  bool all = true;
  for (index_t i = q.begin; i < q.end; ++i)
    for (index_t j = k.begin; j < k.end; ++j) {
      any = any || m(i, j);
      all = all && m(i, j);
    }
  return all ? mask::tile_kind::full : any ? mask::tile_kind::partial : mask::tile_kind::empty;
}

/// Tiles, runs and bounds agree with the element rule; no tile is called partial that is not.
template <class M> void require_exact(const M& m, const mask::shape& problem) {
  const mask::check_report report = mask::check(m, problem);
  INFO(report.summary());
  REQUIRE(report.tiles > 0);
  REQUIRE(report.exact());
}
template <class M> void require_exact(const M& m, index_t q_len, index_t k_len) {
  require_exact(m, mask::shape{.q_len = q_len, .k_len = k_len});
}

/// Tiles, runs and bounds agree with the element rule; tiles may be called partial that are not.
template <class M> void require_sound(const M& m, index_t q_len, index_t k_len) {
  const mask::check_report report = mask::check(m, q_len, k_len);
  INFO(report.summary());
  REQUIRE(report.tiles > 0);
  REQUIRE(report.ok());
}

template <class M> bool empty_row(const M& m, index_t q, index_t k_len) {
  for (index_t k = 0; k < k_len; ++k)
    if (m(q, k)) return false;
  return true;
}

}  // namespace seqprim::test
