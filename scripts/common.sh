# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by the other scripts: where the project is, how to speak, which tools to use.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export root

say() { printf '[seqprim] %s\n' "$*"; }
fail() {
  printf '[seqprim] error: %s\n' "$*" >&2
  exit 1
}

# make_folder PATH, below build/
make_folder() {
  if ! { mkdir -p "$1" && [ -w "$1" ]; } 2>/dev/null; then
    fail "cannot write to $1; copy the project to where you may write, and run the script there"
  fi
}

cpus() { nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1; }

# version_at_least FOUND NEEDED
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# A CMake that scripts/setup.sh had to bring along, because the system's is too old, comes first.
if [ -x "$root/.deps/cmake/bin/cmake" ]; then PATH="$root/.deps/cmake/bin:$PATH"; fi

cmake_version() { cmake --version 2>/dev/null | sed -n '1s/^cmake version \([0-9.]*\).*/\1/p'; }

# Prints the C++ compiler to use: CXX where it is set, else the first g++ >= 12.
find_compiler() {
  local candidate
  if [ -n "${CXX:-}" ]; then
    command -v "${CXX%% *}" >/dev/null 2>&1 && echo "$CXX"
    return
  fi
  for candidate in g++ g++-12 g++-13 g++-14 g++-15; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    if version_at_least "$("$candidate" -dumpfullversion)" 12; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

# Compiler and generator of fresh build folders; an existing folder keeps its own.
choose_tools() {
  CXX="$(find_compiler)" || fail "no g++ 12 or newer found; run scripts/setup.sh, or set CXX"
  export CXX
  if [ -z "${CMAKE_GENERATOR:-}" ] && command -v ninja >/dev/null 2>&1; then export CMAKE_GENERATOR=Ninja; fi
}

jobs() { echo "${SEQPRIM_JOBS:-$(cpus)}"; }

configure() { (cd "$root" && cmake --preset "$@"); }  # configure PRESET [arguments of cmake ...]
build() {                                             # build PRESET [arguments of cmake --build ...]
  local preset=$1
  shift
  (cd "$root" && cmake --build --preset "$preset" --parallel "$(jobs)" "$@")
}
