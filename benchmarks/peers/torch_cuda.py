#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's scaled_dot_product_attention on CUDA at the shapes of attention_cuda_bench: flash and cuDNN backends.

    torch_cuda.py [--out peer.json] [--repetitions 30] [--filter REGEX]

Times are medians over single runs between CUDA events; before each run a buffer of twice the second-level cache is
written, so that no run finds its inputs there (attention_cuda_bench does the same). A shape that a backend refuses is kept as
an error. Needs PyTorch >= 2.5 with CUDA.
"""
import argparse
import json
import re
import statistics
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
TOKENS, WIDTH = 16384, 2048  # as in attention_cuda_bench: batch * seq and heads * head_dim


def shapes():
    """(benchmark, sizes, causal, backward); sizes as in the names of attention_cuda_bench."""
    for dim in (64, 128, 256):
        for seq in (1024, 4096, 16384):
            sizes = {"seq": str(seq), "dim": str(dim)}
            yield "forward_full<bfloat16>", sizes, False, False
            yield "forward_causal<bfloat16>", sizes, True, False
            yield "backward_causal<bfloat16>", sizes, True, True


def time_of(body, repetitions, flush):
    times = []
    for _ in range(3):
        body()
    for _ in range(repetitions):
        flush.zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        body()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out")
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--filter", default="")
    arguments = parser.parse_args()

    torch.manual_seed(1)
    cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 << 20)
    flush = torch.empty(2 * cache, dtype=torch.uint8, device="cuda")
    rows = []
    for name, sizes, causal, backward in shapes():
        if not re.search(arguments.filter, name):
            continue
        seq, dim = int(sizes["seq"]), int(sizes["dim"])
        shape = (TOKENS // seq, WIDTH // dim, seq, dim)
        for backend, kind in BACKENDS.items():
            row = {"benchmark": name, "sizes": sizes, "backend": backend}
            try:
                q, k, v = (torch.randn(shape, dtype=torch.bfloat16, device="cuda", requires_grad=backward) for _ in range(3))
                with sdpa_kernel(kind):
                    if backward:
                        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
                        gradient = torch.randn_like(out)
                        row["microseconds"] = time_of(
                            lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True),
                            arguments.repetitions, flush)
                    else:
                        row["microseconds"] = time_of(
                            lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal),
                            arguments.repetitions, flush)
            except RuntimeError as error:  # 'No available kernel', or out of memory
                row["error"] = str(error).splitlines()[0]
            rows.append(row)
            print(json.dumps(row), flush=True)
    result = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
              "results": rows}
    if arguments.out:
        with open(arguments.out, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
            file.write("\n")
    return 0 if any("microseconds" in row for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
