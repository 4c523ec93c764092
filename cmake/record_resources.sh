#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiler launcher for .cu files: runs the compiler (all arguments) and moves what 'ptxas -v' says about the kernels from
# the terminal into <object>.resources, which tests/cuda/kernel_evidence.py reads. Warnings and errors stay visible, and so
# does speed that ptxas gave up; that is recorded too.
set -uo pipefail

object="" previous=""
for argument in "$@"; do
  if [ "$previous" = -o ]; then object=$argument; fi
  previous=$argument
done
said=$(mktemp) || exit 1
trap 'rm -f "$said"' EXIT

status=0
"$@" 2>"$said" || status=$?
report='^ptxas info +:|^ +[0-9]+ bytes stack frame'
loss='Potential Performance Loss'
{ grep -Ev "$report" "$said"; grep "$loss" "$said"; } >&2
if [ "$status" -eq 0 ] && [ -n "$object" ]; then grep -E "$report|$loss" "$said" >"$object.resources"; fi
exit "$status"
