// SPDX-License-Identifier: Apache-2.0
#include <seqprim/attention/reference.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/causal.hpp>

#include <arch/dispatched.hpp>
#include <cmath>
#include <cstring>
#include <memory>
#include <support/catch.hpp>
#include <support/random.hpp>

using namespace seqprim;

namespace {

struct numbers {
  tensor<float, 4> q{1, 2, 70, 24}, k{1, 2, 70, 24}, v{1, 2, 70, 24}, out{1, 2, 70, 24};
  tensor<double, 4> exact{1, 2, 70, 24};

  numbers() {
    test::random_numbers random(71);
    random.fill(q);
    random.fill(k);
    random.fill(v);
    tensor<double, 3> lse(1, 2, 70);
    attention::reference::forward(attention::softmax{mask::causal{}}, q, k, v, exact, lse);
  }

  [[nodiscard]] double error() const {
    double worst = 0;
    for (index_t i = 0; i < out.size(); ++i)
      worst = std::fmax(worst, std::abs(static_cast<double>(out.data()[i]) - exact.data()[i]));
    return worst;
  }
};

/// Instruction sets that exist only here.
struct impossible {
  static constexpr const char* name = "impossible";
};
struct unlikely {
  static constexpr const char* name = "unlikely";
};

/// An entry that takes and returns what it is given, to see what dispatch does with it.
struct echo {
  using isas = arch::isa_list<arch::scalar, impossible, unlikely>;
  template <class Isa> static int& run(int& x, std::unique_ptr<int> y) {
    x += *y;
    return x;
  }
};

}  // namespace

namespace seqprim::arch {
template <> const char* unsupported_reason<impossible>() noexcept { return "the processor is not from the future"; }
template <> const char* unsupported_reason<unlikely>() noexcept { return "the operating system says no"; }
}  // namespace seqprim::arch

TEST_CASE("dispatch: the best copy that runs here is chosen, and computes what the definition says", "[arch]") {
  numbers n;
  const std::string ran = arch::dispatch<causal_attention>(n.q.view(), n.k.view(), n.v.view(), n.out.view());
  const char* best = arch::runs_here<arch::amx_bf16>()      ? "amx_bf16"
                     : arch::runs_here<arch::avx512_bf16>() ? "avx512_bf16"
                     : arch::runs_here<arch::avx512>()      ? "avx512"
                     : arch::runs_here<arch::avx2>()        ? "avx2"
                                                            : "scalar";
  REQUIRE(ran == best);
  REQUIRE(n.error() < 1e-5);
  const auto choice = arch::choose(arch::all_isas{});
  REQUIRE(ran == choice.isa);
  REQUIRE(choice.index + choice.better_count == arch::all_isas::size - 1);
}

TEMPLATE_TEST_CASE("dispatch: a list of one forces the copy", "[arch]", arch::scalar, arch::avx2, arch::avx512,
                   arch::avx512_bf16, arch::amx_bf16) {
  if (!arch::runs_here<TestType>()) {
    SUCCEED("not on this machine");
    return;
  }
  numbers n;
  REQUIRE(arch::dispatch<causal_attention, arch::isa_list<TestType>>(n.q.view(), n.k.view(), n.v.view(),
                                                                     n.out.view()) == TestType::name);
  REQUIRE(n.error() < 1e-5);
}

TEST_CASE("dispatch: what was refused is said, with the reason", "[arch]") {
  const auto choice = arch::choose(echo::isas{});
  REQUIRE((choice.index == 0 && choice.better_count == 2));
  REQUIRE(choice.words() ==
          "scalar (unlikely: the operating system says no; impossible: the processor is not from the future)");
  REQUIRE(arch::choose(arch::isa_list<arch::scalar>{}).words() == "scalar");
  REQUIRE_FALSE(arch::runs_here<unlikely>());
  for (const char* reason : {arch::unsupported_reason<arch::avx2>(), arch::unsupported_reason<arch::avx512>()})
    REQUIRE((reason == nullptr || std::strlen(reason) > 10));
}

TEST_CASE("dispatch: arguments and results pass through as they are", "[arch]") {
  int x = 40;
  int& result = arch::dispatch<echo>(x, std::make_unique<int>(2));
  REQUIRE(&result == &x);
  REQUIRE(x == 42);
}

TEST_CASE("dispatch: a list of which nothing runs is an error with all reasons", "[arch][errors]") {
  int x = 0;
  const auto call = [&] { arch::dispatch<echo, arch::isa_list<impossible, unlikely>>(x, std::make_unique<int>(1)); };
  REQUIRE_THROWS_WITH(call(),
                      "arch::dispatch: no instruction set of the list runs here: none (unlikely: the operating "
                      "system says no; impossible: the processor is not from the future). See "
                      "docs/reference/arch/dispatch.md");
  REQUIRE(x == 0);
}
