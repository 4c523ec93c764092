#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What including seqprim costs: processor seconds of `g++ -std=c++20 -O2 -c` on a file with one #include, median of five.
# Exits 1 when core/core.hpp costs more than 0.25 s or seqprim.hpp more than 1.0 s.
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
  { time "$compiler" -std=c++20 -O2 -I "$root/include" -c "$1" -o "$work/out.o"; } 2>"$work/time" ||
    { cat "$work/time" >&2; return 1; }
  awk 'END { printf "%.3f\n", $1 + $2 }' "$work/time"
}

median_cost() {
  local run
  compile_once "$1" >/dev/null  # fills the file cache
  for ((run = 0; run < runs; ++run)); do compile_once "$1"; done | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

limit_of() {
  case "$1" in
    seqprim/core/core.hpp) echo 0.25 ;;
    seqprim/seqprim.hpp) echo 1.00 ;;
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

say "$("$compiler" --version | head -n 1), -O2, median of $runs"
echo '' >"$work/empty.cpp"
printf '%-40s %8s %8s\n' header seconds limit
printf '%-40s %8s\n' '(empty file)' "$(median_cost "$work/empty.cpp")"
over=0
for header in "${headers[@]}"; do
  printf '#include <%s>\n' "$header" >"$work/one.cpp"
  cost=$(median_cost "$work/one.cpp") || fail "$header does not compile"
  limit=$(limit_of "$header")
  verdict=""
  if [ -n "$limit" ] && awk -v c="$cost" -v l="$limit" 'BEGIN { exit !(c > l) }'; then
    verdict="  over the limit"
    over=$((over + 1))
  fi
  printf '%-40s %8s %8s%s\n' "$header" "$cost" "$limit" "$verdict"
done
[ "$over" -eq 0 ] || fail "$over headers cost too much"
