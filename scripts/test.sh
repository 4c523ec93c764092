#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds all tests and runs them. The exit status is 0 when every test passed.
#
#   scripts/test.sh [--preset test|asan|cuda|fuzz] [arguments of ctest ...]
#
#   scripts/test.sh -R mask             only the tests whose name contains "mask"
#   scripts/test.sh --preset asan       under address and undefined-behavior sanitizers
#
# Tests that need a GPU run where one is found. Logs: build/<preset>/logs. SEQPRIM_JOBS limits the parallel jobs.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

preset="test"
case "${1:-}" in
  --preset)
    preset=${2:?--preset needs a name}
    shift 2
    ;;
  -h | --help)
    sed -n '3,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac
logs="$root/build/$preset/logs"
make_folder "$logs"

# Prints a line for every tenth of the build that is done; [3/60] is Ninja's way to count, [  5%] Make's.
progress() {
  local line percent shown=0
  while IFS= read -r line; do
    if [[ $line =~ ^\[([0-9]+)/([0-9]+)\] ]]; then
      percent=$((100 * BASH_REMATCH[1] / BASH_REMATCH[2]))
    elif [[ $line =~ ^\[\ *([0-9]+)%\] ]]; then
      percent=${BASH_REMATCH[1]}
    else
      continue
    fi
    if [ "$percent" -ge $((shown + 10)) ]; then
      shown=$((percent / 10 * 10))
      say "built $shown % ($((SECONDS - begin)) s)"
    fi
  done
}
stop() {  # stop STEP LOG: shows where the log ends
  tail -n 60 "$2" >&2
  fail "$1 failed after $((SECONDS - begin)) s; whole log: $2"
}

say "1/4 packages"
"$root/scripts/setup.sh" test
choose_tools

say "2/4 configure ($preset)"
begin=$SECONDS
configure "$preset" >"$logs/configure.log" 2>&1 || stop "the configuration" "$logs/configure.log"

say "3/4 build, $(jobs) jobs at a time"
begin=$SECONDS
build "$preset" 2>&1 | tee "$logs/build.log" | progress || stop "the build" "$logs/build.log"
say "built in $((SECONDS - begin)) s"
warnings=$(grep -c 'warning:' "$logs/build.log" || true)
if [ "$warnings" -gt 0 ]; then say "note: the build printed $warnings warnings, see $logs/build.log"; fi

say "4/4 tests"
selection=()
if ! { command -v nvidia-smi && nvidia-smi -L; } >/dev/null 2>&1; then
  left_out=$(cd "$root" && ctest --preset "$preset" -N -L '^gpu$' | sed -n 's/^ *Test *#[0-9]*: //p' | tr '\n' ' ')
  if [ -n "$left_out" ]; then
    say "no GPU here, not run: $left_out"
    selection=(-LE '^gpu$')
  fi
fi
begin=$SECONDS
status=0
(cd "$root" && ctest --preset "$preset" -j "$(jobs)" "${selection[@]}" "$@") 2>&1 | tee "$logs/ctest.log" || status=$?

result=$(sed -n 's/^\([0-9]*% tests passed.*\)/\1/p' "$logs/ctest.log")
say "${result:-no test ran}; tests $((SECONDS - begin)) s, everything $SECONDS s. Logs: $logs"
exit "$status"
