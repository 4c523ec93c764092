#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Formats every C++ and CUDA source with clang-format 14, or with --check names the files that are not formatted.
#
#   scripts/format.sh [--check] [FILE ...]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

check=no
if [ "${1:-}" = --check ]; then
  check=yes
  shift
fi
tool=""
for candidate in clang-format-14 clang-format; do
  if command -v "$candidate" >/dev/null 2>&1; then tool=$candidate && break; fi
done
[ -n "$tool" ] || fail "clang-format not found; Debian and Ubuntu: apt-get install clang-format-14"
case "$("$tool" --version)" in
  *' 14.'*) ;;
  *) say "note: $("$tool" --version); other versions than 14 format a few places differently" ;;
esac

if [ $# -gt 0 ]; then
  files=("$@")
else
  cd "$root" || exit 1
  mapfile -d '' files < <(find include tests examples benchmarks \
    \( -name '*.hpp' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' \) -print0 | sort -z)
fi
[ ${#files[@]} -gt 0 ] || fail "no source files found"

if [ "$check" = no ]; then
  "$tool" -i "${files[@]}"
  exit 0
fi
bad=0
for file in "${files[@]}"; do
  "$tool" --dry-run --Werror "$file" >/dev/null 2>&1 || { echo "$file" && bad=$((bad + 1)); }
done
[ "$bad" -eq 0 ] || fail "$bad of ${#files[@]} files are not formatted; run scripts/format.sh"
say "${#files[@]} files are formatted"
