#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch on CUDA at the shapes of attention_cuda_bench: scaled_dot_product_attention (flash, cuDNN) and FlexAttention.

    torch_cuda.py [--backend flash cudnn flex] [--out peer.json] [--repetitions 30] [--filter REGEX] [--seconds N]

Times are medians over single runs between CUDA events; before each run a buffer of twice the second-level cache is
written, so that no run finds its inputs there (attention_cuda_bench does the same). Decode is one query against contiguous keys,
with enable_gqa where query heads share them. FlexAttention is compiled for each shape, which takes seconds: it gets a part of the
shapes, those with a window too. A shape that a backend refuses is kept as an error. --out is written after each shape; after
--seconds no other shape begins. Needs PyTorch >= 2.5 with CUDA.
"""
import argparse
import contextlib
import json
import os
import re
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION, "flex": None}
WINDOW = 1024  # as in attention_cuda_bench: the query and the 1023 keys before it
TOKENS, WIDTH = 16384, 2048  # as in attention_cuda_bench: batch * seq and heads * head_dim
KEY_HEADS, DECODE_DIM = 8, 128


class Case:
    """One benchmark at one size; names and sizes are those of attention_cuda_bench. mask: full, causal, window."""

    def __init__(self, name, sizes, queries, keys, value_dim, mask="full", backward=False, element=torch.bfloat16):
        self.name, self.sizes = name, {key: str(value) for key, value in sizes.items()}
        self.queries, self.keys, self.values = queries, keys, (*keys[:3], value_dim)
        self.mask, self.backward, self.element = mask, backward, element

    def suits(self, backend):
        if backend != "flex":
            return self.mask != "window"
        seq, dim = int(self.sizes.get("seq", 4096)), int(self.sizes.get("dim", DECODE_DIM))
        return self.element == torch.bfloat16 and self.mask != "full" and seq == 4096 and dim in (64, 128)


def cases():
    for dim in (128, 64, 192, 256):
        for seq in (4096, 16384, 1024):
            sizes = {"seq": seq, "dim": dim}
            heads, value_dim = (16, 128) if dim == 192 else (WIDTH // dim, dim)
            shape = (TOKENS // seq, heads, seq, dim)
            yield Case("forward_causal<bfloat16>", sizes, shape, shape, value_dim, "causal")
            yield Case("forward_full<bfloat16>", sizes, shape, shape, value_dim)
            if dim != 192:
                yield Case("forward_window<bfloat16>", sizes, shape, shape, value_dim, "window")
                yield Case("forward_causal<float16>", sizes, shape, shape, value_dim, "causal", element=torch.float16)
                yield Case("backward_causal<bfloat16>", sizes, shape, shape, value_dim, "causal", backward=True)
    for context in (32768, 8192):
        for group in (4, 1):
            for batch in (16, 1):
                yield Case("decode_full<bfloat16>", {"context": context, "group": group, "batch": batch},
                           (batch, KEY_HEADS * group, 1, DECODE_DIM), (batch, KEY_HEADS, context, DECODE_DIM), DECODE_DIM)


def with_sdpa(case, q, k, v):
    shared = {"enable_gqa": True} if q.shape[1] != k.shape[1] else {}
    return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=case.mask == "causal", **shared)


def with_flex(case, q, k, v):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def causal(batch, head, query, key):
        return query >= key

    def window(batch, head, query, key):
        return (query >= key) & (query - key < WINDOW)

    compiled = torch.compile(flex_attention, dynamic=False)
    blocks = create_block_mask({"causal": causal, "window": window}[case.mask], None, None, q.shape[2], k.shape[2],
                               device=q.device)
    return lambda: compiled(q, k, v, block_mask=blocks)


def measure(case, backend, repetitions, flush):
    """Microseconds."""
    q, k, v = (torch.randn(shape, dtype=case.element, device="cuda", requires_grad=case.backward)
               for shape in (case.queries, case.keys, case.values))
    forward = (with_flex if backend == "flex" else with_sdpa)(case, q, k, v)
    with contextlib.nullcontext() if backend == "flex" else sdpa_kernel(BACKENDS[backend]):
        if not case.backward:
            return time_of(forward, repetitions, flush)
        out = forward()
        gradient = torch.randn_like(out)
        return time_of(lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True), repetitions, flush)


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
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--out")
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--filter", default="")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    arguments = parser.parse_args()

    begin = time.monotonic()
    torch.manual_seed(1)
    cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 << 20)
    flush = torch.empty(2 * cache, dtype=torch.uint8, device="cuda")
    result = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "results": []}
    for case in cases():
        for backend in arguments.backend:
            if not (re.search(arguments.filter, case.name) and case.suits(backend)):
                continue
            row = {"benchmark": case.name, "sizes": case.sizes, "backend": backend}
            if time.monotonic() - begin > arguments.seconds:
                row["error"] = f"not run: {arguments.seconds:.0f} s are over"
            else:
                try:
                    row["microseconds"] = measure(case, backend, arguments.repetitions, flush)
                except Exception as error:  # 'No available kernel', out of memory, what the compiler of FlexAttention throws
                    row["error"] = (str(error).splitlines() or [type(error).__name__])[0][:300]
            result["results"].append(row)
            print(json.dumps(row), flush=True)
            if arguments.out:
                with open(arguments.out + ".part", "w", encoding="utf-8") as file:
                    json.dump(result, file, indent=1)
                    file.write("\n")
                os.replace(arguments.out + ".part", arguments.out)
    return 0 if any("microseconds" in row for row in result["results"]) else 1


if __name__ == "__main__":
    sys.exit(main())
