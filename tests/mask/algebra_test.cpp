// SPDX-License-Identifier: Apache-2.0
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/mask.hpp>

#include <array>
#include <cstdint>
#include <mask/brute_force.hpp>
#include <support/random.hpp>
#include <type_traits>

using namespace seqprim;
using namespace seqprim::test;

namespace {

using namespace seqprim::mask::operators;  // the masks below live here, not in the library

constexpr index_t q_len = 41;
constexpr index_t k_len = 57;
constexpr std::array<std::int32_t, 6> offsets = {0, 5, 6, 30, 48, 57};

/// A mask chosen at run time, so that many compositions share one type.
struct any_run {  // one range per row, in order
  static constexpr bool ordered = true;
  int kind;
  index_t a, b, c;

  template <class F> constexpr auto visit(const F& f) const {
    switch (kind) {
      case 0: return f(mask::shifted(mask::causal{}, a));
      case 1: return f(mask::shifted(mask::sliding_window{.left = b, .right = c}, a));
      case 2: return f(mask::shifted(mask::prefix{.length = b}, a));
      case 3: return f(mask::key_range{b, b + c});
      case 4: return f(mask::shifted(mask::documents({offsets.data(), 6}), a));
      default: return f(mask::full{});
    }
  }
  constexpr bool operator()(index_t q, index_t k) const noexcept {
    return visit([&](const auto& m) { return m(q, k); });
  }
  constexpr mask::tile_kind classify(range q, range k) const noexcept {
    return visit([&](const auto& m) { return m.classify(q, k); });
  }
  constexpr range visible_keys(index_t q) const noexcept {
    return visit([&](const auto& m) { return m.visible_keys(q); });
  }
  constexpr range key_bounds(range q, index_t n) const noexcept {
    return visit([&](const auto& m) { return mask::key_bounds(m, q, n); });
  }
  constexpr range query_bounds(range k, index_t n) const noexcept {
    return visit([&](const auto& m) { return mask::query_bounds(m, k, range{-mask::unlimited, n}); });
  }
};
static_assert(mask::ordered_ranges<any_run>);

struct any_rule {  // any shape of rows
  int kind;
  index_t a, b, c;

  template <class F> constexpr auto visit(const F& f) const {
    switch (kind) {
      case 0: return f(mask::shifted(mask::attention_sinks{.sinks = b, .window = 1 + c}, a));
      case 1: return f(mask::where{[this](index_t q, index_t k) { return (q * b + k * c) % 5 < 2; }});
      default: return f(~mask::shifted(mask::causal{}, a));
    }
  }
  constexpr bool operator()(index_t q, index_t k) const noexcept {
    return visit([&](const auto& m) { return m(q, k); });
  }
  constexpr mask::tile_kind classify(range q, range k) const noexcept {
    return visit([&](const auto& m) { return m.classify(q, k); });
  }
  constexpr range key_bounds(range q, index_t n) const noexcept {
    return visit([&](const auto& m) { return mask::key_bounds(m, q, n); });
  }
};

/// A random expression of depth <= Depth whose shape follows from Shape and whose leaves from the random numbers, with the
/// matrix that plain booleans give.
template <class M> struct expression {
  M m;
  tensor<bool, 2> truth;
};

template <class M> expression<M> leaf(const M& m) {
  tensor<bool, 2> truth(q_len, k_len);
  for (index_t q = 0; q < q_len; ++q)
    for (index_t k = 0; k < k_len; ++k) truth(q, k) = m(q, k);
  return {m, truth};
}

constexpr unsigned mix(unsigned x) {
  x = (x ^ (x >> 15)) * 0x2c1b3c6du;
  x = (x ^ (x >> 12)) * 0x297a2d39u;
  return x ^ (x >> 15);
}

template <unsigned Shape, int Depth> auto random_expression(random_numbers& random) {
  constexpr unsigned choice = mix(Shape) % 8;
  if constexpr (Depth == 0 || choice == 0) {
    const index_t a = random.integer(-20, 30);
    const index_t b = random.integer(0, 40);
    const index_t c = random.integer(0, 20);
    if constexpr (mix(Shape + 77) % 3 != 0) {
      return leaf(any_run{static_cast<int>(random.integer(0, 5)), a, b, c});
    } else {
      return leaf(any_rule{static_cast<int>(random.integer(0, 2)), a, b, c});
    }
  } else if constexpr (choice <= 2) {
    auto x = random_expression<3 * Shape + 1, Depth - 1>(random);
    for (bool& v : x.truth) v = !v;
    return expression<decltype(~x.m)>{~x.m, x.truth};
  } else {
    auto x = random_expression<3 * Shape + 1, Depth - 1>(random);
    const auto y = random_expression<3 * Shape + 2, Depth - 1>(random);
    constexpr bool conjunction = choice <= 5;
    for (index_t q = 0; q < q_len; ++q)
      for (index_t k = 0; k < k_len; ++k)
        x.truth(q, k) = conjunction ? x.truth(q, k) && y.truth(q, k) : x.truth(q, k) || y.truth(q, k);
    if constexpr (conjunction) {
      return expression<decltype(x.m & y.m)>{x.m & y.m, x.truth};
    } else {
      return expression<decltype(x.m | y.m)>{x.m | y.m, x.truth};
    }
  }
}

template <unsigned Shape> void check_shape() {
  for (std::uint64_t draw = 0; draw < 5; ++draw) {
    random_numbers random(1000 * Shape + draw);
    const auto x = random_expression<Shape, 3>(random);
    CAPTURE(Shape, draw);
    index_t different = 0;
    for (index_t q = 0; q < q_len; ++q)
      for (index_t k = 0; k < k_len; ++k) different += x.m(q, k) != x.truth(q, k);
    REQUIRE(different == 0);
    require_sound(x.m, q_len, k_len);
  }
}

template <unsigned... Shapes> void check_shapes(std::integer_sequence<unsigned, Shapes...>) {
  (check_shape<Shapes + 1>(), ...);
}

}  // namespace

TEST_CASE("algebra: two hundred random compositions agree with booleans and with their own tiles", "[mask][property]") {
  check_shapes(std::make_integer_sequence<unsigned, 40>{});
}

TEST_CASE("algebra: three-valued logic follows the table of minima and maxima", "[mask]") {
  using mask::tile_kind;
  constexpr tile_kind kinds[] = {tile_kind::empty, tile_kind::partial, tile_kind::full};
  for (int a = 0; a < 3; ++a)
    for (int b = 0; b < 3; ++b) {
      CAPTURE(a, b);
      REQUIRE((kinds[a] & kinds[b]) == kinds[min_of(a, b)]);
      REQUIRE((kinds[a] | kinds[b]) == kinds[max_of(a, b)]);
      REQUIRE(~kinds[a] == kinds[2 - a]);
      REQUIRE(~(kinds[a] & kinds[b]) == (~kinds[a] | ~kinds[b]));
      REQUIRE(~(kinds[a] | kinds[b]) == (~kinds[a] & ~kinds[b]));
    }
}

TEST_CASE("algebra: De Morgan holds pair by pair and tile by tile", "[mask][property]") {
  const auto a = mask::shifted(mask::attention_sinks{.sinks = 3, .window = 7}, 12);
  const auto b = mask::shifted(mask::documents(offsets), 9);
  const auto left = ~(a & b);
  const auto right = ~a | ~b;
  for (index_t q = 0; q < q_len; ++q)
    for (index_t k = 0; k < k_len; ++k) {
      CAPTURE(q, k);
      REQUIRE(left(q, k) == right(q, k));
      const range rows{q, min_of(q + 6, q_len)}, keys{k, min_of(k + 9, k_len)};
      REQUIRE(left.classify(rows, keys) == right.classify(rows, keys));
    }
}

TEST_CASE("algebra: full, double negation and two causal masks vanish at compile time", "[mask]") {
  const auto d = mask::documents(offsets);
  STATIC_REQUIRE(std::is_same_v<decltype(mask::full{} & d), mask::packed<mask::full>>);
  STATIC_REQUIRE(std::is_same_v<decltype(d & mask::full{}), mask::packed<mask::full>>);
  STATIC_REQUIRE(std::is_same_v<decltype(d | mask::full{}), mask::full>);
  STATIC_REQUIRE(std::is_same_v<decltype(mask::full{} | d), mask::full>);
  STATIC_REQUIRE(std::is_same_v<decltype(~~d), mask::packed<mask::full>>);
  STATIC_REQUIRE(std::is_same_v<decltype(mask::causal{} & mask::causal{}), mask::causal>);
  STATIC_REQUIRE(std::is_same_v<decltype(mask::causal{} | mask::causal{}), mask::causal>);
}

TEST_CASE("algebra: a conjunction of runs is a mask of runs", "[mask][property]") {
  const auto m = mask::documents(offsets) & mask::causal{} & mask::causal_window(6) & mask::key_range{2, 50};
  STATIC_REQUIRE(mask::one_range_per_row<decltype(m)>);
  STATIC_REQUIRE_FALSE(mask::one_range_per_row<decltype(~m)>);
  STATIC_REQUIRE_FALSE(mask::one_range_per_row<decltype(m | mask::causal{})>);
  require_exact(m, k_len, k_len);
}

TEST_CASE("algebra: a tile that each part meets but no row of both is found empty", "[mask]") {
  const auto m = mask::causal_window(4) & mask::key_range{0, 10};
  const range rows{12, 20}, keys{8, 14};
  REQUIRE(mask::causal_window(4).classify(rows, keys) == mask::tile_kind::partial);
  REQUIRE(mask::key_range{0, 10}.classify(rows, keys) == mask::tile_kind::partial);
  REQUIRE(brute_force(m, rows, keys) == mask::tile_kind::partial);
  const range later{13, 20};
  REQUIRE(brute_force(m, later, keys) == mask::tile_kind::empty);
  REQUIRE(m.classify(later, keys) == mask::tile_kind::empty);
}

TEST_CASE("algebra: the bounds of what is left of a causal mask starts behind it", "[mask]") {
  REQUIRE(mask::key_bounds(~mask::causal{}, {10, 14}, k_len) == range{11, k_len});
  REQUIRE(mask::key_bounds(~mask::key_range{0, 9}, {10, 14}, k_len) == range{9, k_len});
  REQUIRE(mask::key_bounds(~mask::key_range{9, k_len}, {10, 14}, k_len) == range{0, 9});
  REQUIRE(mask::key_bounds(~mask::key_range{9, 12}, {10, 14}, k_len) == range{0, k_len});
  REQUIRE(mask::key_bounds(~mask::full{}, {10, 14}, k_len).empty());
}

TEST_CASE("algebra: compositions bind their parts, wherever they stand", "[mask]") {
  const std::array<std::int32_t, 2> lengths = {20, 57};
  const mask::key_padding padding{.lengths = lengths, .k_len = k_len};
  const auto m = ~(mask::causal{} & padding) | (padding & mask::causal_window(3));
  STATIC_REQUIRE(mask::depends_on_batch_or_head<decltype(m)>);
  STATIC_REQUIRE_FALSE(mask::rule<decltype(m)>);
  STATIC_REQUIRE(mask::rule<mask::bound<decltype(m)>>);
  const auto row = mask::bind(m, 0, 0);
  for (index_t q = 0; q < q_len; ++q)
    for (index_t k = 0; k < k_len; ++k) {
      const bool real = k < 20;
      REQUIRE(row(q, k) == (!(k <= q && real) || (real && k <= q && k > q - 3)));
    }
  STATIC_REQUIRE(std::is_trivially_copyable_v<decltype(m)>);
}

namespace elsewhere {

struct even_keys {
  constexpr bool operator()(index_t, index_t k) const noexcept { return k % 2 == 0; }
  constexpr mask::tile_kind classify(range, range k) const noexcept {
    if (k.size() > 1) return mask::tile_kind::partial;
    return k.begin % 2 == 0 ? mask::tile_kind::full : mask::tile_kind::empty;
  }
};

constexpr auto with_library_mask() { return even_keys{} & mask::causal{}; }
constexpr auto own_masks_only() {
  using namespace seqprim::mask::operators;
  return even_keys{} | ~even_keys{};
}

}  // namespace elsewhere

TEST_CASE("algebra: masks of other namespaces compose", "[mask]") {
  require_exact(elsewhere::even_keys{}, q_len, k_len);
  require_sound(elsewhere::with_library_mask(), q_len, k_len);
  REQUIRE(elsewhere::with_library_mask()(5, 4));
  REQUIRE_FALSE(elsewhere::with_library_mask()(5, 3));
  REQUIRE(elsewhere::own_masks_only()(5, 3));
}
