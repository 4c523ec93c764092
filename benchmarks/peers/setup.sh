#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what the benchmarks are compared with and what draws their plots: PyTorch, numpy and matplotlib, in a virtual
# environment of their own. Nothing else in the project needs it. Does nothing, quickly, when all is there.
#
#   benchmarks/peers/setup.sh [--cuda] [--all]
#
# --all: ONNX Runtime, OpenVINO, ggml and oneDNN too, for benchmarks/report/peers.py (download 1 GB, disk 1.5 GB more). ggml is
# compiled for this machine (ten minutes on two cores) and needs a C++ compiler. What cannot be installed is named and left out.
#
# The CPU build of PyTorch (download 200 MB, disk 1.3 GB) comes from download.pytorch.org; where that is not reachable, or with
# --cuda, the build of PyPI, which brings the CUDA libraries along (download 2.5 GB, disk 5.5 GB; the CPU side is the same).
#
# SEQPRIM_PEERS_DIR   where the environment lies, default build/peers
# TORCH_VERSION       default 2.15.0, the version the published tables were measured with
# PYTHON              default python3
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"

folder=${SEQPRIM_PEERS_DIR:-$root/build/peers}
version=${TORCH_VERSION:-2.15.0}
python=${PYTHON:-python3}
with_cuda=no
all=no
for argument in "$@"; do
  case "$argument" in
    --cuda) with_cuda=yes ;;
    --all) all=yes ;;
    -h | --help) sed -n '3,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) fail "unknown argument '$argument'; see benchmarks/peers/setup.sh --help" ;;
  esac
done

# ready: the environment holds this version, with CUDA where that was asked for
ready() {
  [ -x "$folder/bin/python" ] && "$folder/bin/python" - "$version" "$with_cuda" 2>/dev/null <<'PYTHON'
import sys
import matplotlib, numpy, torch  # noqa: F401
version, with_cuda = sys.argv[1:]
sys.exit(0 if torch.__version__.split("+")[0] == version and (with_cuda == "no" or torch.version.cuda) else 1)
PYTHON
}

pip() { "$folder/bin/python" -m pip "$@" >>"$folder/setup.log" 2>&1; }

install_torch() {
  command -v "$python" >/dev/null 2>&1 || fail "$python not found; install Python 3.10 or newer, or set PYTHON"
  mkdir -p "$folder" || fail "cannot write to $folder; set SEQPRIM_PEERS_DIR"
  if ! "$python" -m venv "$folder" >"$folder/setup.log" 2>&1; then
    fail "$python cannot make a virtual environment (package python3-venv on Debian and Ubuntu); log: $folder/setup.log"
  fi

  say "installing PyTorch $version into $folder"
  installed=no
  if [ "$with_cuda" = no ]; then
    pip install --retries 0 --timeout 15 --index-url https://download.pytorch.org/whl/cpu "torch==$version" &&
      installed=yes
  fi
  if [ "$installed" = no ]; then
    if [ "$with_cuda" = no ]; then say "the index of CPU builds is not reachable, taking the build of PyPI (2.5 GB)"; fi
    pip install "torch==$version" || { tail -n 15 "$folder/setup.log" >&2; fail "pip could not install torch $version"; }
  fi
  pip install numpy matplotlib || { tail -n 15 "$folder/setup.log" >&2; fail "pip could not install numpy and matplotlib"; }
  ready || fail "PyTorch $version does not import: $("$folder/bin/python" -c 'import torch' 2>&1 | tail -n 1); log: $folder/setup.log"
  say "PyTorch $version ready after $SECONDS s, $(du -sh "$folder" | cut -f 1)"
}

# install_one NAME MODULE PACKAGE...: unless the module is there already
install_one() {
  local name=$1 module=$2
  shift 2
  if "$folder/bin/python" -c "import $module" >/dev/null 2>&1; then return; fi
  say "installing $name"
  pip install "$@" || say "$name is left out: pip could not install it; log: $folder/setup.log"
}

# The graph API of oneDNN has no Python: a few C functions around it, compiled against the packages of PyPI.
library=$folder/onednn_attention.so
compile_onednn() {
  "${CXX:-g++}" -std=c++17 -O2 -fPIC -shared "$root/benchmarks/peers/onednn_attention.cpp" -I"$folder/include" -L"$folder/lib" \
    -ldnnl -Wl,-rpath,"$folder/lib" -Wl,-rpath-link,"$folder/lib" -o "$library" >>"$folder/setup.log" 2>&1
}
install_onednn() {
  if [ "$library" -nt "$root/benchmarks/peers/onednn_attention.cpp" ]; then return; fi
  say "installing oneDNN"
  if ! { pip install onednn onednn-devel && compile_onednn; }; then
    say "oneDNN is left out: it could not be installed or compiled; log: $folder/setup.log"
  fi
}

ready || install_torch
if [ "$all" = yes ]; then
  install_one "ONNX Runtime" "onnx, onnxruntime" onnx onnxruntime
  install_one OpenVINO openvino openvino
  install_onednn
  # One thread is measured: without OpenMP, ggml needs no second thread library in the process.
  CMAKE_ARGS="-DGGML_NATIVE=ON -DGGML_OPENMP=OFF" install_one ggml ggml ggml-python
fi
