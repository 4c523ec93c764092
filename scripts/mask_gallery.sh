#!/usr/bin/env bash
# Draws docs/pictures/mask_gallery.svg from the masks themselves.
set -euo pipefail
cd "$(dirname "$0")/.."
program=$(mktemp)
trap 'rm -f "$program"' EXIT
"${CXX:-c++}" -std=c++20 -O1 -Iinclude scripts/mask_gallery.cpp -o "$program"
"$program" docs/pictures/mask_gallery.svg
echo "wrote docs/pictures/mask_gallery.svg"
