#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What including seqprim costs: processor seconds of `g++ -std=c++20 -O2 -c` on a file with one #include, median of five, and
# the ratio to a file that includes <vector>, <string>, <memory> and <algorithm>, measured in turn with it: seconds differ
# from machine to machine, the ratio hardly. Without and with -march=native, which brings in the intrinsics.
# Exits 1 when a ratio is above its limit: core 0.6, seqprim.hpp 1.9, with -march=native 2.7 (to reach: 0.55, 1.5, 2.0).
#
#   scripts/include_cost.sh [HEADER ...]         e.g. seqprim/mask/causal.hpp; default: the umbrella headers
#
# CXX chooses another compiler, RUNS another number of runs.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

compiler=$(find_compiler) || fail "no g++ 12 or newer found; run scripts/setup.sh, or set CXX"
runs=${RUNS:-5}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Processor seconds (user + system) of one compilation: a busy machine disturbs them less than the clock on the wall.
compile_once() {
  local TIMEFORMAT='%U %S'
  { time "$compiler" -std=c++20 -O2 ${flags[@]+"${flags[@]}"} -I "$root/include" -c "$1" -o "$work/out.o"; } 2>"$work/time" ||
    { cat "$work/time" >&2; return 1; }
  awk 'END { printf "%.3f\n", $1 + $2 }' "$work/time"
}

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# Seconds of a file and their ratio to the standard headers, medians of pairs.
cost_of() {
  local run own standard
  : >"$work/seconds"
  : >"$work/ratios"
  compile_once "$1" >/dev/null || return 1  # fills the file cache
  for ((run = 0; run < runs; ++run)); do
    own=$(compile_once "$1")
    standard=$(compile_once "$work/standard.cpp")
    echo "$own" >>"$work/seconds"
    awk -v a="$own" -v b="$standard" 'BEGIN { printf "%.3f\n", a / b }' >>"$work/ratios"
  done
  echo "$(median <"$work/seconds") $(median <"$work/ratios")"
}

limit_of() {
  case "$1$2" in
    seqprim/core/core.hpp) echo 0.6 ;;
    seqprim/seqprim.hpp) echo 1.9 ;;
    seqprim/seqprim.hpp-march=native) echo 2.7 ;;
  esac
}

if [ $# -gt 0 ]; then
  headers=("$@")
else
  headers=()
  for header in "$root"/include/seqprim/*.hpp "$root"/include/seqprim/*/*.hpp; do
    name=$(basename "$header" .hpp)
    folder=$(basename "$(dirname "$header")")
    # <folder>/<folder>.hpp is a folder's umbrella
    if [ "$name" = "$folder" ]; then headers+=("${header#"$root"/include/}"); fi
  done
fi

say "$("$compiler" --version | head -n 1), -O2, medians of $runs; ratio to <vector> <string> <memory> <algorithm>"
printf '#include <algorithm>\n#include <memory>\n#include <string>\n#include <vector>\n' >"$work/standard.cpp"
over=0
for native in "" -march=native; do
  flags=($native)
  printf '\n%-44s %8s %8s %8s\n' "header ${native:-without -march}" seconds ratio limit
  for header in "${headers[@]}"; do
    printf '#include <%s>\n' "$header" >"$work/one.cpp"
    read -r seconds ratio < <(cost_of "$work/one.cpp") || fail "$header does not compile"
    limit=$(limit_of "$header" "$native")
    verdict=""
    if [ -n "$limit" ] && awk -v c="$ratio" -v l="$limit" 'BEGIN { exit !(c > l) }'; then
      verdict="  over the limit"
      over=$((over + 1))
    fi
    printf '%-44s %8s %8s %8s%s\n' "$header" "$seconds" "$ratio" "$limit" "$verdict"
  done
done
[ "$over" -eq 0 ] || fail "$over headers cost too much"
