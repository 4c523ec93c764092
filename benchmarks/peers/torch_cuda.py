#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's scaled_dot_product_attention on CUDA at the shapes of attention_cuda_bench: flash and cuDNN backends.

    torch_cuda.py [--out peer.json] [--repetitions 30] [--filter REGEX]

Times are medians over single runs between CUDA events; before each run a buffer of twice the second-level cache is
written, so that no run finds its inputs there (attention_cuda_bench does the same). Decode is one query against contiguous keys,
with enable_gqa where query heads share them. A shape that a backend refuses is kept as an error. Needs PyTorch >= 2.5 with CUDA.
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
KEY_HEADS, DECODE_DIM = 8, 128


class Case:
    """One benchmark at one size; names and sizes are those of attention_cuda_bench."""

    def __init__(self, name, sizes, queries, keys, value_dim, causal=False, backward=False, element=torch.bfloat16):
        self.name, self.sizes = name, {key: str(value) for key, value in sizes.items()}
        self.queries, self.keys, self.values = queries, keys, (*keys[:3], value_dim)
        self.causal, self.backward, self.element = causal, backward, element


def cases():
    for dim in (64, 128, 192, 256):
        for seq in (1024, 4096, 16384):
            sizes = {"seq": seq, "dim": dim}
            heads, value_dim = (16, 128) if dim == 192 else (WIDTH // dim, dim)
            shape = (TOKENS // seq, heads, seq, dim)
            yield Case("forward_full<bfloat16>", sizes, shape, shape, value_dim)
            yield Case("forward_causal<bfloat16>", sizes, shape, shape, value_dim, causal=True)
            if dim != 192:
                yield Case("forward_causal<float16>", sizes, shape, shape, value_dim, causal=True, element=torch.float16)
                yield Case("backward_causal<bfloat16>", sizes, shape, shape, value_dim, causal=True, backward=True)
    for context in (8192, 32768):
        for group in (1, 4):
            for batch in (1, 16):
                yield Case("decode_full<bfloat16>", {"context": context, "group": group, "batch": batch},
                           (batch, KEY_HEADS * group, 1, DECODE_DIM), (batch, KEY_HEADS, context, DECODE_DIM), DECODE_DIM)


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
    for case in cases():
        if not re.search(arguments.filter, case.name):
            continue
        for backend, kind in BACKENDS.items():
            row = {"benchmark": case.name, "sizes": case.sizes, "backend": backend}
            try:
                q, k, v = (torch.randn(shape, dtype=case.element, device="cuda", requires_grad=case.backward)
                           for shape in (case.queries, case.keys, case.values))
                shared = {"enable_gqa": True} if q.shape[1] != k.shape[1] else {}

                def forward():
                    return F.scaled_dot_product_attention(q, k, v, is_causal=case.causal, **shared)

                with sdpa_kernel(kind):
                    if case.backward:
                        out = forward()
                        gradient = torch.randn_like(out)
                        row["microseconds"] = time_of(
                            lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True),
                            arguments.repetitions, flush)
                    else:
                        row["microseconds"] = time_of(forward, arguments.repetitions, flush)
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
