#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Copies code into README.md and docs/ from the sources that are compiled and run. In a document,
#
#   <!-- example: tests/consume/user/CMakeLists.txt minimal -->
#   ```cmake
#   ```
#
# receives the lines between "// example-begin minimal" and "// example-end minimal" ("#" in CMake files and scripts) of
# that file, without their common indentation. docs/reference/index.md, the list of all pages with the first sentence of
# each, is written too.
#
#   scripts/update_snippets.sh            updates the documents
#   scripts/update_snippets.sh --check    exits 1 and shows the difference when a document is out of date
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root" || exit 1

check=no
if [ "${1:-}" = --check ]; then check=yes; fi
fresh=$(mktemp)
trap 'rm -f "$fresh"' EXIT

# Reads a document and writes it with fresh quotations. Exits 1 with a sentence when one cannot be made.
requote() {
  awk -v page="$1" '
    function stop(text) { printf "[seqprim] error: %s:%d: %s\n", page, NR, text > "/dev/stderr"; failed = 1; exit 1 }
    function quote(file, name,    line, inside, found, count, i, indent, least, status) {
      least = 1000
      while ((status = (getline line < file)) > 0) {
        if (line ~ "^[ \t]*(//|#) example-end " name "$") inside = 0
        if (inside) {
          lines[++count] = line
          match(line, /^ */)
          indent = RLENGTH
          if (line != "" && indent < least) least = indent
        }
        if (line ~ "^[ \t]*(//|#) example-begin " name "$") { inside = 1; found = 1 }
      }
      if (status < 0) stop("cannot read " file)
      close(file)
      if (!found || !count) stop("no \"example-begin " name "\" in " file)
      if (inside) stop("no \"example-end " name "\" in " file)
      for (i = 1; i <= count; ++i) print substr(lines[i], least + 1)
    }
    skipping && /^```$/ { skipping = 0 }
    skipping { next }
    { print }
    fence { if ($0 !~ /^```[a-z]+$/) stop("a code block must follow the example comment"); quote(file, name); fence = 0; skipping = 1; next }
    /^<!-- example: [^ ]+ [^ ]+ -->$/ { file = $3; name = $4; fence = 1 }
    END { if (!failed && (fence || skipping)) stop("the code block after the example comment does not end") }
  ' "$1"
}

# What the names in "Source" mean.
sources='**Source** names where a definition comes from. "Spec masks-text 4.2" is a section of the specification sheets of the project:
exact definitions, one sheet for each family of primitives, collected from papers and published implementations. The
maintainers keep them; nobody needs them to use or change a primitive, because what they define is restated on its page
and, as code, in the pair rule of a mask, the formula of a modifier and the `reference.hpp` of a family. "golden masks-text/..." are
numbers computed independently of the library, in [tests/golden](../../tests/golden/README.md).'

# The list of reference pages, folders from left to right as they depend on each other.
reference_index() {
  local folder page
  printf '# Reference\n\nA page for each primitive, by folder. Written by scripts/update_snippets.sh.\n'
  printf '\n%s\n' "$sources"
  for folder in mask score position attention sampling nn loss io core arch; do
    compgen -G "docs/reference/$folder/*.md" >/dev/null || continue
    printf '\n## %s\n\n| page | |\n|---|---|\n' "$folder"
    for page in "docs/reference/$folder"/*.md; do
      awk -v name="$(basename "$page" .md)" -v folder="$folder" '
        NR == 1 { next }
        /^$/ && text != "" { exit }
        /^$/ || /^[|<#]/ || /^```/ || /^    / { next }
        { text = text (text == "" ? "" : " ") $0 }
        END {
          if (match(text, /[.;] /)) text = substr(text, 1, RSTART)
          if (text !~ /[.:;]$/) sub(/,[^,]*$/, "", text)  # a formula follows
          sub(/[.:;]$/, "", text)
          gsub(/\|/, "\\|", text)
          printf "| [%s](%s/%s.md) | %s |\n", name, folder, name, text
        }' "$page"
    done
  done
}

pages=(README.md)
while IFS= read -r page; do pages+=("$page"); done < <(find docs -name '*.md' | sort)
stale=0
quotations=0
for page in "${pages[@]}"; do
  if [ "$page" = docs/reference/index.md ]; then
    reference_index >"$fresh"
  else
    requote "$page" >"$fresh" || exit 1
  fi
  quotations=$((quotations + $(grep -c '^<!-- example: ' "$page" || true)))
  if cmp -s "$fresh" "$page"; then continue; fi
  stale=$((stale + 1))
  if [ "$check" = yes ]; then
    diff -u "$page" "$fresh" || true
  else
    cat "$fresh" >"$page"
    say "updated $page"
  fi
done
if [ "$check" = yes ] && [ "$stale" -gt 0 ]; then fail "$stale documents are out of date; run scripts/update_snippets.sh"; fi
say "$quotations quotations in ${#pages[@]} documents are up to date"
