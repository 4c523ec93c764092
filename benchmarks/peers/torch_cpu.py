#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Attention of PyTorch on the CPU: scaled_dot_product_attention (flash) and FlexAttention (torch.compile, needs g++).

    build/peers/bin/python benchmarks/peers/torch_cpu.py                 measures a few shapes, JSON to the output
    build/peers/bin/python benchmarks/peers/torch_cpu.py --check         the masks and scores mean what they should
    build/peers/bin/python benchmarks/peers/torch_cpu.py --serve         measures what it is asked for, see below

With --serve each line of the input is a JSON object and is answered with one line:

    {"case": {"api": "sdpa" or "flex", "op": "forward", "backward" or "decode", "type": "bfloat16" or "float",
              "mask": "full", "causal", "window", "prefix" or "documents",
              "score": "none", "soft_cap", "alibi" or "soft_cap_alibi",
              "seq": keys, "dim": 128, "heads": 1, "kv_heads": 1, "queries": queries (decode), "batch": 1},
     "seconds": how long to measure, "threads": 1}
    -> {"microseconds": median of the calls, "least": the fastest, "calls": how many, "backend": who computed}
    or {"error": "why not"}

An empty case answers {"torch": its version, "capability": its instruction set}. A process keeps what it compiled; the
compiled code is kept on disk, in the folder SEQPRIM_PEERS_CACHE or below that of the environment.
"""
import argparse
import json
import os
import sys
import time

os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR",
                      os.environ.get("SEQPRIM_PEERS_CACHE", os.path.join(sys.prefix, "inductor_cache")))
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch.nn.attention.flex_attention import create_block_mask, flex_attention  # noqa: E402

TYPES = {"bfloat16": torch.bfloat16, "float": torch.float32, "double": torch.float64}
WINDOW = 1024
PREFIX = 1024
CAP = 50.0
SLOPE = 2.0**-8  # ALiBi of a single head
DOCUMENTS = [0, 300, 1000, 1100, 1900, 2500, 2501, 3600, 4096]  # as in attention_bench/compositions.cpp

MASKS = {
    "causal": lambda i, j, document: j <= i,
    "window": lambda i, j, document: (j <= i) & (j > i - WINDOW),
    "prefix": lambda i, j, document: (j <= i) | (j < PREFIX),
    "documents": lambda i, j, document: (j <= i) & (document[i] == document[j]),
}
SCORES = {
    "soft_cap": lambda s, i, j: CAP * torch.tanh(s / CAP),
    "alibi": lambda s, i, j: s - SLOPE * (i - j),
    "soft_cap_alibi": lambda s, i, j: CAP * torch.tanh(s / CAP) - SLOPE * (i - j),
}


def documents_of(length):
    offsets = torch.tensor(DOCUMENTS)
    return torch.searchsorted(offsets, torch.arange(length), right=True)


class Measured:
    """One case, ready to be called: body() is what is timed."""

    def __init__(self, case):
        self.op, self.mask, self.score = case["op"], case["mask"], case.get("score", "none")
        keys, dim, batch = case["seq"], case["dim"], case.get("batch", 1)
        heads = case.get("heads", 1)
        kv_heads = case.get("kv_heads", heads)
        queries = case.get("queries", 1) if self.op == "decode" else keys
        self.offset = keys - queries
        grouped = heads != kv_heads
        backward = self.op == "backward"
        torch.manual_seed(1)
        make = lambda h, n: (2 * torch.rand(batch, h, n, dim) - 1).to(TYPES[case["type"]]).requires_grad_(backward)
        self.inputs = [make(heads, queries), make(kv_heads, keys), make(kv_heads, keys)]
        self.backend = "flex"
        if case["api"] == "sdpa":
            if self.score != "none" or self.mask not in ("full", "causal"):
                raise ValueError("sdpa has no such mask or score")
            # One query at the end of the cache sees every key; PyTorch's is_causal aligns the other corner.
            causal = self.mask == "causal" and self.op != "decode"
            if self.mask == "causal" and queries > 1 and self.offset:
                raise ValueError("sdpa is causal from the top left corner only")
            self.forward = lambda: F.scaled_dot_product_attention(*self.inputs, is_causal=causal, enable_gqa=grouped)
            choice = torch._fused_sdp_choice(*self.inputs, None, 0.0, causal, enable_gqa=grouped)
            self.backend = {0: "math", 1: "flash", 2: "efficient"}.get(choice, str(choice))
        else:
            if backward:
                raise ValueError("FlexAttention has no backward on the CPU")
            options = {"enable_gqa": grouped}
            offset = self.offset
            if self.mask != "full":
                document, rule = documents_of(keys), MASKS[self.mask]
                options["block_mask"] = create_block_mask(
                    lambda b, h, i, j: rule(i + offset, j, document), None, None, queries, keys, device="cpu")
            if self.score != "none":
                change = SCORES[self.score]
                options["score_mod"] = lambda s, b, h, i, j: change(s, i + offset, j)
            compiled = torch.compile(flex_attention, dynamic=False)
            self.forward = lambda: compiled(*self.inputs, **options)
        if backward:
            out = self.forward()
            dout = 2 * torch.rand_like(out) - 1
            self.body = lambda: torch.autograd.grad(out, self.inputs, dout, retain_graph=True)
        else:
            self.body = self.forward

    def definition(self):
        """The result by the definition, in double."""
        q, k, v = (x.detach().double() for x in self.inputs)
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
        s = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        i = torch.arange(q.shape[2])[:, None] + self.offset
        j = torch.arange(k.shape[2])[None]
        if self.score != "none":
            s = SCORES[self.score](s, i, j)
        if self.mask != "full":
            s = s.masked_fill(~MASKS[self.mask](i, j, documents_of(k.shape[2])), float("-inf"))
        return s.softmax(-1) @ v


_ready = {}


def measure(case, seconds):
    key = json.dumps(case, sort_keys=True)
    with torch.set_grad_enabled(case["op"] == "backward"):
        if key not in _ready:
            _ready[key] = Measured(case)
            _ready[key].body()  # compiles
        body = _ready[key].body
        body()
        times = []
        start = time.perf_counter()
        while len(times) < 3 or time.perf_counter() - start < seconds:
            begin = time.perf_counter()
            body()
            times.append(time.perf_counter() - begin)
    times.sort()
    return {"microseconds": 1e6 * times[len(times) // 2], "least": 1e6 * times[0], "calls": len(times),
            "backend": _ready[key].backend}


def serve():
    torch._dynamo.config.recompile_limit = 256  # every composition is a function of its own
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            request = json.loads(line)
            torch.set_num_threads(request.get("threads", 1))
            if request.get("case"):
                answer = measure(request["case"], request.get("seconds", 0.3))
            else:
                answer = {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability()}
        except Exception as error:  # whatever it is, the asker shall know, and go on
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        print(json.dumps(answer), flush=True)


def check():
    """Every composition against the definition in double, at a length that all masks cut."""
    torch._dynamo.config.recompile_limit = 256
    worst = 0.0
    cases = [("sdpa", mask, "none") for mask in ("full", "causal")]
    cases += [("flex", mask, score) for mask in MASKS for score in ["none", *SCORES] if mask == "causal" or score == "none"]
    for api, mask, score in cases:
        for op, queries in (("forward", 0), ("decode", 1)):
            case = {"api": api, "op": op, "type": "float", "mask": mask, "score": score, "seq": 2048, "dim": 64,
                    "heads": 2, "kv_heads": 1, "queries": queries}
            with torch.no_grad():
                ready = Measured(case)
                error = (ready.forward().double() - ready.definition()).abs().max().item()
            worst = max(worst, error)
            print(f"{api:5} {op:8} {mask:10} {score:15} largest error {error:.1e}", flush=True)
    if not worst < 1e-4:
        sys.exit("a composition does not mean what it should")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.check:
        return check()
    if arguments.serve:
        return serve()
    rows = []
    for dtype in ("bfloat16", "float"):
        for op in ("forward", "backward"):
            for mask in ("full", "causal"):
                for dim in (64, 128):
                    case = {"api": "sdpa", "op": op, "type": dtype, "mask": mask, "seq": 4096, "dim": dim}
                    rows.append(case | measure(case, 0.3))
    json.dump({"torch": torch.__version__, "threads": arguments.threads, "results": rows}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
