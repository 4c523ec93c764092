#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing on Debian and Ubuntu, as root or with sudo; elsewhere names what is missing and exits 1.
#
#   scripts/setup.sh [demo | test | bench | all]      default: all
#   scripts/setup.sh --check [...]                    names what is missing, installs nothing
#
# Does nothing, quickly, when all is there. SEQPRIM_DEPS_DIR may hold Catch2, Google Benchmark and nlohmann_json for
# machines without a network. Where nvcc is and no disassembler of CUDA code, 'test' and 'all' bring one to .deps/disassembler.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

check_only=no
what="all"
for argument in "$@"; do
  case "$argument" in
    --check) check_only=yes ;;
    demo | test | bench | all) what=$argument ;;
    -h | --help) sed -n '3,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) fail "unknown argument '$argument'; see scripts/setup.sh --help" ;;
  esac
done

has() { command -v "$1" >/dev/null 2>&1; }
has_header() {  # has_header <a> [<b>]: the compiler finds one of them
  local compiler header
  compiler="$(find_compiler)" || return 1
  for header in "$@"; do
    [ -n "${SEQPRIM_DEPS_DIR:-}" ] && [ -e "$SEQPRIM_DEPS_DIR/include/$header" ] && return 0
    printf '#if !__has_include(<%s>)\n#error\n#endif\n' "$header" | "$compiler" -E -x c++ - >/dev/null 2>&1 && return 0
  done
  return 1
}
has_fuzzer() {
  echo 'extern "C" int LLVMFuzzerTestOneInput() { return 0; }' |
    clang++ -fsanitize=fuzzer -x c++ - -o /dev/null 2>/dev/null
}
has_pip() { python3 -m pip --version >/dev/null 2>&1; }
# cuobjdump and nvdisasm, with which the test cuda_kernels reads machine code; many installations of the CUDA toolkit lack them.
disassembler="$root/.deps/disassembler"
lacks_disassembler() {
  case "$what" in test | all) ;; *) return 1 ;; esac
  local path="$PATH:/usr/local/cuda/bin"
  [ -n "${CUDACXX:-}" ] || PATH=$path has nvcc || return 1
  if PATH=$path has cuobjdump && PATH=$path has nvdisasm; then return 1; fi
  ! compgen -G "$disassembler/nvidia/*/bin/nvdisasm" >/dev/null
}
# NVIDIA's packages for Python hold the two programs (6 MB) and nothing to import; they stay out of the system's Python.
install_disassembler() {
  lacks_disassembler || return 0
  if [ "$check_only" = yes ]; then
    say "missing, not needed: cuobjdump, nvdisasm"
    return 0
  fi
  has_pip || return 0
  say "installing cuobjdump and nvdisasm into .deps/disassembler"
  make_folder "$root/build"
  python3 -m pip install -q --no-deps --only-binary=:all: --retries 0 --timeout 15 --target "$disassembler" \
    nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm >"$root/build/disassembler.log" 2>&1 </dev/null ||
    say "could not install them; going on without, the machine code of CUDA kernels is not checked"
}
has_new_cmake() { has cmake && version_at_least "$(cmake_version)" 3.25; }

required=()  # packages without which nothing works
optional=()  # packages that make it faster, or add checks
find_missing() {
  required=()
  optional=()
  find_compiler >/dev/null || required+=(g++)
  has_new_cmake || required+=(cmake)
  has ninja || { has make && optional+=(ninja-build) || required+=(ninja-build); }
  has_header nlohmann/json.hpp || required+=(nlohmann-json3-dev)
  case "$what" in test | all)
    has_header catch2/catch_all.hpp catch2/catch.hpp || required+=(catch2)
    has ccache || optional+=(ccache)
    has clang++ || optional+=(clang)
    has_fuzzer || optional+=(libclang-rt-dev)
    has pkg-config || optional+=(pkg-config)
    has python3 || optional+=(python3)
    if lacks_disassembler && ! has_pip; then optional+=(python3-pip); fi
    ;;
  esac
  case "$what" in bench | all) has_header benchmark/benchmark.h || required+=(libbenchmark-dev) ;; esac
}

list() { local IFS=' '; echo "$*"; }

find_missing
if [ ${#required[@]} -eq 0 ] && [ ${#optional[@]} -eq 0 ]; then
  install_disassembler
  exit 0
fi

privileged() { "$@"; }
can_install=no
if [ "$check_only" = no ] && has apt-get; then
  if [ "$(id -u)" -eq 0 ]; then
    can_install=yes
    privileged() { env DEBIAN_FRONTEND=noninteractive "$@"; }
  elif has sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    can_install=yes
    privileged() { sudo env DEBIAN_FRONTEND=noninteractive "$@"; }
  fi
fi

if [ "$can_install" = no ]; then
  if [ ${#optional[@]} -gt 0 ]; then say "missing, not needed: $(list "${optional[@]}")"; fi
  install_disassembler
  if [ ${#required[@]} -eq 0 ]; then exit 0; fi
  say "missing: $(list "${required[@]}")  (names of Debian packages; g++ >= 12, cmake >= 3.25)" >&2
  if has apt-get; then
    fail "as root, run: apt-get install $(list "${required[@]}" "${optional[@]}")"
  fi
  fail "install them with the package manager of this system"
fi

say "installing: $(list "${required[@]}" "${optional[@]}")"
make_folder "$root/build"
log="$root/build/setup.log"
: >"$log"
give_up() {
  tail -n 15 "$log" >&2
  fail "$*; whole log: $log"
}
# Package lists are fetched when there are none, or when an installation fails, because they may be stale.
updated=no
update() {
  if [ "$updated" = no ]; then privileged apt-get update -q >>"$log" 2>&1 </dev/null || true; fi
  updated=yes
}
install() {
  local try
  for try in first second; do
    if privileged apt-get install -y -q --no-install-recommends "$@" >>"$log" 2>&1 </dev/null; then return 0; fi
    if [ $try = first ] && [ "$updated" = no ]; then update; else return 1; fi
  done
}
compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null || update

if [ ${#required[@]} -gt 0 ]; then
  install "${required[@]}" || give_up "apt-get could not install $(list "${required[@]}")"
fi
for package in "${optional[@]}"; do
  if ! apt-cache show "$package" >/dev/null 2>&1 || ! install "$package"; then
    say "could not install $package; going on without it"
  fi
done

# Older releases (Ubuntu 22.04) carry a g++ and a CMake that are too old.
if ! find_compiler >/dev/null; then
  say "g++ $(g++ -dumpfullversion) is too old, installing g++-12"
  install g++-12 || give_up "apt-get could not install g++-12"
fi
if ! has_new_cmake; then
  say "cmake $(cmake_version) is too old, installing a newer one into .deps/cmake"
  install python3-venv || give_up "apt-get could not install python3-venv"
  { python3 -m venv "$root/.deps/cmake" && "$root/.deps/cmake/bin/pip" install -q 'cmake>=3.25,<4'; } >>"$log" 2>&1 ||
    give_up "could not install cmake 3.25 or newer; see https://cmake.org/download"
  PATH="$root/.deps/cmake/bin:$PATH"
fi

find_missing
if [ ${#required[@]} -gt 0 ]; then fail "still missing after the installation: $(list "${required[@]}"); log: $log"; fi
install_disassembler
say "packages ready after $SECONDS s"
