#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Draws docs/pictures/mask_gallery.svg from the masks themselves.
#
#   scripts/mask_gallery.sh        CXX chooses the compiler
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case "${1:-}" in
  "") ;;
  -h | --help)
    sed -n '3,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
  *) fail "unknown argument '$1'; see scripts/mask_gallery.sh --help" ;;
esac

compiler=$(find_compiler) || fail "no g++ 12 or newer found; run scripts/setup.sh, or set CXX"
cd "$root" || exit 1
program=$(mktemp)
trap 'rm -f "$program"' EXIT
"$compiler" -std=c++20 -O1 -Iinclude scripts/mask_gallery.cpp -o "$program"
"$program" docs/pictures/mask_gallery.svg
say "wrote docs/pictures/mask_gallery.svg"
