#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What a use of attention costs to compile: processor seconds of one translation unit, optimized, median of three. The first
# line of each compiler is the headers alone; the difference is the instantiation.
#
#   benchmarks/compile_time.sh
#
# CXX and CUDACXX choose the compilers, RUNS the number of runs. Without nvcc the CUDA lines are left out.
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/common.sh"

compiler=$(find_compiler) || fail "no g++ 12 or newer found; run scripts/setup.sh, or set CXX"
nvcc=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
runs=${RUNS:-3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# line NAME COMMAND...: prints the processor seconds (user + system) of the command, median of the runs
line() {
  local name=$1 run TIMEFORMAT='%U %S'
  shift
  : >"$work/times"
  for ((run = 0; run < runs; ++run)); do
    { time "$@" >"$work/log" 2>&1; } 2>"$work/time" || { head -n 5 "$work/log" >&2; fail "$name does not compile"; }
    awk '{ print $1 + $2 }' "$work/time" >>"$work/times"
  done
  printf '%-52s %8.1f\n' "$name" "$(sort -n "$work/times" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }')"
}

# source_of TYPE CALL...: one function that makes these calls of a causal operator on tensors of that element type
source_of() {
  local type=$1 call
  shift
  cat <<CPP
#include <seqprim/attention/attention.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/mask/causal.hpp>
using namespace seqprim;
using operand = tensor<$type, 4>;
void use(const operand& q, const operand& k, const operand& v, operand& out, tensor<float, 3>& lse, const operand& dout,
         operand& dq, operand& dk, operand& dv) {
  const attention::softmax op{mask::causal{}};
CPP
  for call in "$@"; do
    case $call in
      forward | decode) echo "  attention::$call(cpu{}, op, q, k, v, out, lse);" ;;
      backward) echo "  attention::backward(cpu{}, op, q, k, v, out, lse, dout, attention::gradients{}.dq(dq).dk(dk).dv(dv));" ;;
    esac
  done
  echo "}"
}

say "$("$compiler" --version | head -n 1), -O2 -march=native, median of $runs"
printf '%-52s %8s\n' "translation unit" seconds
echo '#include <seqprim/attention/attention.hpp>' >"$work/headers.cpp"
flags=(-std=c++20 -O2 -march=native -I "$root/include" -c -o "$work/out.o")
line "attention/attention.hpp alone" "$compiler" "${flags[@]}" "$work/headers.cpp"
for type in float bfloat16; do
  for calls in forward backward decode "forward backward decode"; do
    # shellcheck disable=SC2086
    source_of "$type" $calls >"$work/use.cpp"
    line "causal, $type: ${calls// / + }" "$compiler" "${flags[@]}" "$work/use.cpp"
  done
done

if [ ! -x "$nvcc" ]; then
  say "nvcc not found, the CUDA lines are left out"
  exit 0
fi
say "$("$nvcc" --version | grep release), -O3 -arch=sm_80"
echo '#include <seqprim/attention/forward.cuh>' >"$work/headers.cu"
cat >"$work/use.cu" <<'CPP'
#include <seqprim/attention/forward.cuh>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/mask/causal.hpp>
using namespace seqprim;
void use(const tensor_view<const bfloat16, 4>& q, const tensor_view<const bfloat16, 4>& k,
         const tensor_view<const bfloat16, 4>& v, const tensor_view<bfloat16, 4>& out, const tensor_view<float, 3>& lse) {
  attention::forward(gpu{}, attention::softmax{mask::causal{}}, q, k, v, out, lse);
}
CPP
flags=(-std=c++20 -O3 -arch=sm_80 -I "$root/include" -c -o "$work/out.o")
line "attention/forward.cuh alone" "$nvcc" "${flags[@]}" "$work/headers.cu"
line "causal, bfloat16: forward, sm_80" "$nvcc" "${flags[@]}" "$work/use.cu"
