#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains a byte-level language model on text found on this machine and lets it write: under two minutes on 2 cores of a current
# server, compilation included (docs/benchmarks.md).
#
#   scripts/demo.sh                      defaults
#   scripts/demo.sh --help               all flags of the program
#   scripts/demo.sh --text book.txt      another text
#
# Installs what is missing, builds examples/03_language_model, runs it with the given arguments and reports where the time
# went. The exit status is that of the program.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

log="$root/build/default/demo_build.log"
program="$root/build/default/examples/03_language_model/language_model"

make_folder "$(dirname "$log")"
"$root/scripts/setup.sh" demo
packages=$SECONDS
choose_tools

say "compiling the example ..."
begin=$SECONDS
if ! { configure default && build default --target language_model; } >"$log" 2>&1; then
  tail -n 40 "$log" >&2
  fail "the build failed; whole log: $log"
fi
compile=$((SECONDS - begin))
say "compiled in $compile s"

# Threads of libgomp that reach a barrier early spin there, by default for a long time. On a machine with other work that
# takes the processor from the very thread they wait for: on two busy cores the demo trained half as fast.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}

# Ctrl-C is for the program, which saves and ends by itself; the script then still reports.
trap ':' INT
begin=$SECONDS
status=0
"$program" "$@" || status=$?
say "time: packages $packages s, compilation $compile s, program $((SECONDS - begin)) s"
exit "$status"
