#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What only a machine with an NVIDIA GPU can tell, without a network, in steps of less than eight minutes that each leave a file.
#
#   scripts/gpu_check.sh [--prebuilt DIR] [step ...]       default: all steps, in this order
#
#   build        tests and benchmarks, for the GPU at hand or for SEQPRIM_ARCHITECTURES (default 90a-real); needs no GPU
#   functors     what kernels are made of: masks, scores, rotary, random numbers, sampling, bit for bit
#   correctness  every other group of tests, each a process of its own
#   large        long sequences, offsets beyond 2^31 elements, 70000 heads
#   streams      captured graphs, streams that do not wait for each other, the same bits beside other work
#   sanitize     compute-sanitizer: memcheck, synccheck, racecheck of each group in short form
#   bench        attention as shares of the device's matrix product and copy, against PyTorch's SDPA (flash, cuDNN) and FlexAttention
#   profile      Nsight Compute: forward, both passes of backward, decode
#
# --prebuilt DIR: 'build' leaves its programs in DIR, stripped and with the libraries they need (a few MiB), and the other steps take
# them from there, on another machine too: that one needs an NVIDIA driver and Python 3, no CMake and no compiler. Without it DIR is
# build/gpu_check/programs. Where a step finds no programs for its GPU, 'build' runs first.
#
# Each step writes <gpu>-<date>-<commit>-<step>.json below SEQPRIM_RESULT_DIR (default benchmarks/results): before and after each of
# its parts, so that it holds what was reached when the step is cut off. A part that cannot run says why. Another run of the
# same step is added to the file. benchmarks/report/gpu_result.py prints such files as tables.
#
# SEQPRIM_BUDGET_SECONDS limits each step (default 450; 'build' without a GPU: none), SEQPRIM_COMMIT names the commit where the
# sources are no git checkout, SEQPRIM_DEPS_DIR may hold Google Benchmark, SEQPRIM_CUBLASLT the path of libcublasLt.
# Exit status: 0 nothing failed, 77 a step needs a GPU and there is none, 1 otherwise.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

for argument in "$@"; do
  case "$argument" in -h | --help)
    sed -n '3,30s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
  esac
done
for toolkit in "${CUDA_HOME:-}" "${CUDA_PATH:-}" /usr/local/cuda; do
  if [ -n "$toolkit" ] && [ -d "$toolkit/bin" ]; then PATH="$PATH:$toolkit/bin"; fi
done
if CXX=$(find_compiler); then export CXX; else unset CXX; fi
if [ -z "${CMAKE_GENERATOR:-}" ] && command -v ninja >/dev/null 2>&1; then export CMAKE_GENERATOR=Ninja; fi
SEQPRIM_JOBS=$(jobs)
export PATH SEQPRIM_JOBS
python=$(command -v python3 || command -v python) || fail "python3 not found"
exec "$python" -B "$root/scripts/gpu_check.py" "$@"
