#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Functions that two object files of different instruction sets share may hold no vector instructions: the linker keeps one
# copy, and it must run on either processor.
#
#   shared_symbols.sh BASELINE.o NEWER.o           of this library
#   shared_symbols.sh --none A.o B.o [C.o ...]     no two of the files may share anything at all, whose ever it is
#   shared_symbols.sh --some A.o B.o [C.o ...]     the opposite: proves that there is something to look for
set -euo pipefail
weak() { nm --defined-only "$1" | awk '$2 ~ /^[WVu]$/ { print $3 }' | sort; }

if [[ $1 == --* ]]; then
  mode=$1
  shift
  shared=0
  for ((i = 1; i <= $#; ++i)); do
    for ((j = i + 1; j <= $#; ++j)); do
      both=$(comm -12 <(weak "${!i}") <(weak "${!j}"))
      for symbol in $both; do
        shared=$((shared + 1))
        [ "$mode" = --some ] || echo "in ${!i} and ${!j}: $(c++filt "$symbol")"
      done
    done
  done
  echo "$shared shared symbols in $# files"
  if [ "$mode" = --some ]; then [ $shared -gt 0 ]; else [ $shared -eq 0 ]; fi
  exit
fi

# Helpers of the tests themselves promise nothing.
shared=$(comm -12 <(weak "$1") <(weak "$2") | grep seqprim | grep -v '7seqprim4test' || true)
bad=0
for symbol in $shared; do
  # VEX and EVEX instructions begin with v. Counted, because grep -q would end objdump by a signal and the pipe with it.
  vector=$(objdump -d --no-show-raw-insn --disassemble="$symbol" "$2" | grep -cE '^\s+[0-9a-f]+:\s+v' || true)
  if [ "$vector" -gt 0 ]; then
    echo "shared with vector instructions: $(c++filt "$symbol")"
    bad=1
  fi
done
echo "$(wc -w <<<"$shared") shared functions looked at"
exit $bad
