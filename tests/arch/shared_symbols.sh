#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Functions that two object files of different instruction sets share may hold no vector instructions: the linker keeps one
# copy, and it must run on either processor.
#
#   shared_symbols.sh BASELINE.o NEWER.o
set -euo pipefail
weak() { nm --defined-only "$1" | awk '$2 == "W" { print $3 }' | grep seqprim | sort; }
shared=$(comm -12 <(weak "$1") <(weak "$2"))
bad=0
for symbol in $shared; do
  # VEX and EVEX instructions begin with v.
  if objdump -d --no-show-raw-insn --disassemble="$symbol" "$2" | grep -qE '^\s+[0-9a-f]+:\s+v'; then
    echo "shared with vector instructions: $(c++filt "$symbol")"
    bad=1
  fi
done
echo "$(wc -w <<<"$shared") shared functions looked at"
exit $bad
