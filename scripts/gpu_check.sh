#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that only a machine with an NVIDIA GPU can tell, in one go and without a network: builds the GPU tests and
# benchmarks for the GPU at hand, runs them, and leaves benchmarks/results/<gpu>-<date>-<commit>.json.
#
#   scripts/gpu_check.sh [tests] [sanitizer] [benchmarks] [peer]     default: all four
#
#   tests        ctest -L gpu, and what the compiler made of the kernels
#   sanitizer    compute-sanitizer: memcheck of all GPU tests, racecheck of a short run
#   benchmarks   attention_cuda_bench, as shares of the device's matrix product and copy measured in the same process
#   peer         PyTorch's scaled_dot_product_attention (flash, cuDNN) at the same shapes, where PyTorch is installed
#
# Needs an NVIDIA driver, nvcc, CMake >= 3.25, a C++ compiler and Python 3. Catch2 is not needed; Google Benchmark is, for the
# benchmarks: installed, or below SEQPRIM_DEPS_DIR (installed there, or its sources in SEQPRIM_DEPS_DIR/benchmark).
# Each step's result is written down, failures and steps that could not run too; a second run for the same commit and day
# adds to the file. Logs: build/gpu_check/logs. SEQPRIM_COMMIT names the commit where the sources are no git checkout.
# Exit status: 0 nothing failed, 77 no GPU here, 1 otherwise. SEQPRIM_STEP_SECONDS limits each step (default 1200).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case "${1:-}" in -h | --help)
  sed -n '3,19s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 0
  ;;
esac
if ! { command -v nvidia-smi && nvidia-smi -L | grep -q '^GPU'; } >/dev/null 2>&1; then
  say "no GPU here, nothing was run"
  exit 77
fi
wanted=" ${*:-tests sanitizer benchmarks peer} "
for name in $wanted; do
  case "$name" in tests | sanitizer | benchmarks | peer) ;; *) fail "unknown step '$name'; see scripts/gpu_check.sh --help" ;; esac
done

python=$(command -v python3 || command -v python) || fail "python3 not found"
for toolkit in "${CUDA_HOME:-}" "${CUDA_PATH:-}" /usr/local/cuda; do
  if [ -n "$toolkit" ] && [ -d "$toolkit/bin" ]; then PATH="$PATH:$toolkit/bin"; fi
done
choose_tools

work="$root/build/gpu_check"
logs="$work/logs"
make_folder "$logs"
make_folder "$root/benchmarks/results"
steps="$work/steps.jsonl"  # one line for each step of this run
: >"$steps"
rm -f "$work"/*.json "$work"/*.xml

# record NAME RESULT SECONDS DETAIL
record() {
  "$python" -c 'import json, sys
name, result, seconds, detail = sys.argv[1:]
print(json.dumps({"step": name, "result": result, "seconds": int(seconds), "detail": detail}))' "$@" >>"$steps"
  say "$1: $2${4:+ ($4)}"
}
# step NAME COMMAND ...: runs it with a time limit; the end of its output is kept when it fails.
step() {
  local name=$1 begin=$SECONDS status=0
  shift
  say "$name ..."
  timeout "${SEQPRIM_STEP_SECONDS:-1200}" "$@" >"$logs/$name.log" 2>&1 || status=$?
  case "$status" in
    0) record "$name" passed $((SECONDS - begin)) "" ;;
    124) record "$name" failed $((SECONDS - begin)) "time limit; $(tail -n 5 "$logs/$name.log")" ;;
    *) record "$name" failed $((SECONDS - begin)) "status $status; $(tail -n 25 "$logs/$name.log")" ;;
  esac
  return "$status"
}
not_run() { record "$1" "could not run" 0 "$2"; }
wants() { [[ "$wanted" == *" $1 "* ]]; }

# sm_90 needs the 'a' for the instructions that only Hopper has.
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader -i 0 | tr -d '. ')
architecture="$capability-real"
if [ "$capability" = 90 ]; then architecture="90a-real"; fi

configure_folder() {  # configure_folder NAME [options of cmake ...]
  local name=$1
  shift
  step "configure_$name" cmake -S "$root" -B "$work/$name" -DCMAKE_BUILD_TYPE=Release -DSEQPRIM_CUDA=REQUIRED \
    -DCMAKE_CUDA_ARCHITECTURES="$architecture" -DSEQPRIM_EXAMPLES=OFF -DSEQPRIM_INSTALL=OFF \
    -DSEQPRIM_DEPS_DIR="${SEQPRIM_DEPS_DIR:-}" "$@"
}

if wants tests || wants sanitizer; then
  if configure_folder tests -DSEQPRIM_TESTS=GPU -DSEQPRIM_BENCHMARKS=OFF &&
    step build_tests cmake --build "$work/tests" --parallel "$(jobs)"; then
    if wants tests; then
      step ctest ctest --test-dir "$work/tests" --output-on-failure --no-tests=error --output-junit "$work/ctest.xml" || true
    fi
    if wants sanitizer; then
      program="$work/tests/tests/cuda/cuda_test"
      if ! command -v compute-sanitizer >/dev/null 2>&1; then
        not_run memcheck "compute-sanitizer not found"
        not_run racecheck "compute-sanitizer not found"
      elif ! compute-sanitizer --tool memcheck "$program" --list >"$logs/sanitizer_starts.log" 2>&1; then
        not_run memcheck "compute-sanitizer does not start here: $(tail -n 3 "$logs/sanitizer_starts.log")"
        not_run racecheck "compute-sanitizer does not start here"
      else
        step memcheck compute-sanitizer --tool memcheck --error-exitcode 9 "$program" --short || true
        step racecheck compute-sanitizer --tool racecheck --error-exitcode 9 "$program" --short || true
      fi
    fi
  fi
fi

if wants benchmarks; then
  if configure_folder benchmarks -DSEQPRIM_TESTS=OFF -DSEQPRIM_BENCHMARKS=ON &&
    step build_benchmarks cmake --build "$work/benchmarks" --target attention_cuda_bench --parallel "$(jobs)"; then
    step benchmarks "$work/benchmarks/benchmarks/attention_cuda_bench" --benchmark_repetitions=3 \
      --benchmark_report_aggregates_only=true --benchmark_out="$work/benchmarks.json" --benchmark_out_format=json || true
  fi
fi

if wants peer; then
  if "$python" -c 'import torch; assert torch.cuda.is_available()' >"$logs/peer_starts.log" 2>&1; then
    step peer "$python" "$root/benchmarks/peers/torch_cuda.py" --out "$work/peer.json" || true
  else
    not_run peer "PyTorch with CUDA is not installed"
  fi
fi

commit=${SEQPRIM_COMMIT:-}
if [ -z "$commit" ]; then
  commit=$(git -C "$root" rev-parse --short=10 HEAD 2>/dev/null || echo unknown)
  if ! git -C "$root" diff --quiet HEAD -- include tests benchmarks cmake 2>/dev/null; then commit="$commit-modified"; fi
fi
"$python" "$root/benchmarks/report/gpu_result.py" --work "$work" --commit "$commit" --asked "$wanted" \
  --out-folder "$root/benchmarks/results"
