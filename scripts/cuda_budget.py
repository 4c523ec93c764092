#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of docs/internals/cuda.md: what a step of each tensor-core kernel costs in shared memory and on tensor cores.

  scripts/cuda_budget.py            updates the page
  scripts/cuda_budget.py --check    exits 1 and shows the difference when a table of costs is out of date
  scripts/cuda_budget.py --self-test

Shapes come from the tuning types: scripts/cuda_budget.cpp prints them, and is compiled when no program is passed (--shapes).
Registers come from what the test cuda_kernels wrote (--kernels, default build/test/tests/cuda/kernels.json; without it that table stays as
it is). They depend on the compiler: --check reports the difference and fails only when the disassembled products of a kernel
contradict the formulas here. Nothing here is measured.
"""
import argparse
import difflib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = "docs/internals/cuda.md"

# One mma.sync.m16n8k16 on one of the four sub-cores of a multiprocessor, and the traffic of shared memory.
PRODUCT_CYCLES = 6.4
SUB_CORES = 4
SHARED_BYTES_PER_CYCLE = 128
MATRICES_BYTES = 512  # ldmatrix.x4 of a warp
# An H200.
MULTIPROCESSORS = 132
CLOCK = 1.7e9
MEMORY_BYTES_PER_CYCLE = 4.8e12 / MULTIPROCESSORS / CLOCK  # of one multiprocessor
# A multiprocessor lends: registers, warps, bytes of shared memory; a block takes 1 KiB of these for the system.
REGISTERS, WARPS, RESERVED_BYTES = 65536, 64, 1024
DEVICES = {"sm_80": 164 * 1024, "sm_90a": 228 * 1024}


class Cost:
    """One step of one block: reads of matrices and products of a warp, summed over its warps."""

    def __init__(self, loads, products, copied, exchanged, pairs):
        self.loads, self.products, self.pairs = loads, products, pairs
        self.copied = copied
        self.shared = (loads * MATRICES_BYTES + copied + exchanged) / SHARED_BYTES_PER_CYCLE
        self.tensor = products * PRODUCT_CYCLES / SUB_CORES
        self.memory = copied / MEMORY_BYTES_PER_CYCLE

    @property
    def cycles(self):
        return max(self.shared, self.tensor)


def softmax_cost(s):
    """Forward and decode: a tile of keys against the rows of the block."""
    depth, keys, values = s["head_dim"] // 16, s["warp_keys"] // 16, s["value_dim"] // 16
    queries = 0 if s["queries_stay"] else depth
    return Cost(loads=s["warps"] * (depth * keys + queries + keys * values),
                products=s["warps"] * 2 * (depth * keys + keys * values),
                copied=2 * s["k_tile"] * (s["head_dim"] + s["value_dim"]), exchanged=0,
                pairs=s["q_tile"] * s["k_tile"])


def multiply(s, dim):
    """Loads and products of [16 fragments, dim] [step, dim]^T: both operands from shared memory."""
    return dim // 16 * (s["fragments"] + s["step"] // 16), dim // 16 * 2 * s["fragments"] * (s["step"] // 16)


def add(s, dim):
    """Loads and products of [16 fragments, step] [step, dim]: the left operand is in registers."""
    return s["step"] // 16 * (dim // 16), s["step"] // 16 * (dim // 16) * 2 * s["fragments"]


def backward_cost(s):
    dims = s["head_dim"], s["value_dim"]
    if s["kernel"] == "backward keys":  # of two warps, each multiplies with one operand and adds products of the other
        parts = [multiply(s, dims[0]), add(s, dims[1]), multiply(s, dims[1]), add(s, dims[0])]
        warps, exchanged = s["warps"] // 2, 2 * 4 * s["tile"] * s["step"]
    else:
        parts = [multiply(s, dims[0]), multiply(s, dims[1]), add(s, dims[0])]
        warps, exchanged = s["warps"], 0
    return Cost(loads=warps * sum(p[0] for p in parts), products=warps * sum(p[1] for p in parts),
                copied=2 * s["step"] * sum(dims), exchanged=exchanged, pairs=s["tile"] * s["step"])


def cost_of(s):
    return backward_cost(s) if s["kernel"].startswith("backward") else softmax_cost(s)


def teraflops(flops_per_pair, cycles_per_pair):
    return flops_per_pair / cycles_per_pair * MULTIPROCESSORS * CLOCK / 1e12


def dims_of(s):
    return str(s["head_dim"]) if s["head_dim"] == s["value_dim"] else f"{s['head_dim']} x {s['value_dim']}"


def table(header, rows):
    return ["| " + " | ".join(header) + " |", "|" + "---|" * len(header), *("| " + " | ".join(row) + " |" for row in rows), ""]


def cost_row(s):
    cost = cost_of(s)
    rows, step = (s["q_tile"], s["k_tile"]) if "q_tile" in s else (s["tile"], s["step"])
    return [dims_of(s), f"{rows} x {step}", str(s["warps"]), f"{cost.loads // s['warps']} / {cost.products // s['warps']}",
            f"{cost.shared:.0f}", f"{cost.tensor:.0f}", f"{cost.shared / cost.tensor:.2f}"]


COST_HEADER = ["dims", "step", "warps", "LDSM / HMMA of a warp", "shared cycles", "tensor cycles", "shared : tensor"]


def cost_tables(shapes):
    def of(kernel):
        return [s for s in shapes if s["kernel"] == kernel]

    lines = ["### Forward", ""]
    lines += table(COST_HEADER + ["upper bound, TFLOP/s"],
                   [cost_row(s) + [f"{teraflops(2 * (s['head_dim'] + s['value_dim']), cost_of(s).cycles / cost_of(s).pairs):.0f}"]
                    for s in of("forward")])
    for kernel in ("decode, few rows", "decode, more rows"):
        lines += ["### " + kernel[0].upper() + kernel[1:], ""]
        lines += table(COST_HEADER + ["memory cycles"], [cost_row(s) + [f"{cost_of(s).memory:.0f}"] for s in of(kernel)])
    for kernel, name in (("backward keys", "Backward, key blocks"), ("backward queries", "Backward, query blocks")):
        lines += ["### " + name, ""]
        lines += table(COST_HEADER, [cost_row(s) for s in of(kernel)])
    lines += ["### Backward, both passes", ""]
    rows = []
    for keys, queries in zip(of("backward keys"), of("backward queries")):
        cycles = [cost_of(s).cycles / cost_of(s).pairs for s in (keys, queries)]
        flops = 2 * (3 * keys["head_dim"] + 2 * keys["value_dim"])
        rows.append([dims_of(keys), f"{cycles[0]:.3f}", f"{cycles[1]:.3f}", f"{teraflops(flops, sum(cycles)):.0f}"])
    lines += table(["dims", "cycles of a pair: key blocks", "query blocks", "upper bound, TFLOP/s of five products"], rows)
    return lines[:-1]


FUNCTIONS = {"forward": "forward_block_kernel", "decode, few rows": "decode_block_kernel",
             "decode, more rows": "decode_block_kernel", "backward keys": "backward_key_block_kernel",
             "backward queries": "backward_query_block_kernel"}


def compiled(s, kernels, architecture):
    """What the compiler made of a shape, for 16-bit operands and operators without a score."""
    if "q_tile" in s:
        numbers = ", ".join(str(s[n]) for n in ("head_dim", "value_dim", "q_tile", "k_tile", "warps", "stages"))
        shape = rf"block_shape<b?float16, {numbers}>"
    else:
        shape = rf"backward_shape<{s['head_dim']}, {s['value_dim']}, "
    return [k for k in kernels if k["architecture"] == architecture and "score::identity" in k["kernel"] and
            "code_store" not in k["kernel"] and re.match(FUNCTIONS[s["kernel"]] + "<" + shape, k["kernel"])]


def blocks_of(registers, warps, bytes_of_block, bytes_of_device):
    """Blocks of one multiprocessor; registers are handed out to warps in units of 256."""
    return min(REGISTERS // (-(-registers * 32 // 256) * 256 * warps), WARPS // warps,
               bytes_of_device // (bytes_of_block + RESERVED_BYTES))


def register_table(shapes, kernels):
    rows = []
    for s in sorted(shapes, key=lambda s: list(FUNCTIONS).index(s["kernel"])):
        registers = {a: max((k["registers"] for k in compiled(s, kernels, a)), default=None) for a in DEVICES}
        if None in registers.values():
            continue
        blocks = [str(blocks_of(registers[a], s["warps"], s["shared_bytes"], DEVICES[a])) for a in DEVICES]
        rows.append([s["kernel"], dims_of(s), " / ".join(str(r) for r in registers.values()), str(s["shared_bytes"]),
                     " / ".join(blocks)])
    return table(["kernel", "dims", "registers: sm_80 / sm_90a", "shared bytes", "blocks of a multiprocessor: sm_80 / sm_90a"], rows)[:-1]


def contradictions(shapes, kernels):
    """Forward and decode hold the products of a tile twice, for full and for partial tiles; the loops of backward are rolled."""
    result = []
    for s in shapes:
        if "q_tile" not in s:
            continue
        expected = 2 * cost_of(s).products // s["warps"]
        for architecture in DEVICES:
            for k in compiled(s, kernels, architecture):
                found = (k["instructions"] or {}).get("products", expected)
                if found != expected:
                    result.append(f"{s['kernel']}, dims {dims_of(s)}, {architecture}: {found} HMMA in the code, "
                                  f"the formulas of scripts/cuda_budget.py say {expected}")
    return result


def replaced(text, name, lines):
    pattern = rf"(<!-- budget: {name} -->\n).*?(<!-- end -->)"
    if not re.search(pattern, text, re.S):
        sys.exit(f"[seqprim] error: {PAGE} has no part '<!-- budget: {name} -->'")
    return re.sub(pattern, lambda m: m[1] + "\n".join(lines) + "\n" + m[2], text, flags=re.S)


def read_shapes(program):
    if program:
        return json.loads(subprocess.run([program], check=True, capture_output=True, text=True).stdout)
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "shapes")
        subprocess.run([*os.environ.get("CXX", "g++").split(), "-std=c++20", "-I", ROOT / "include",
                        ROOT / "scripts/cuda_budget.cpp", "-o", program], check=True)
        return read_shapes(program)


def self_test():
    """The costs of two kernels counted by hand, and a mistake for every check."""
    forward = {"kernel": "forward", "head_dim": 128, "value_dim": 128, "q_tile": 128, "k_tile": 64, "warps": 8, "warp_keys": 64,
               "stages": 2, "queries_stay": False, "shared_bytes": 98304}
    keys = {"kernel": "backward keys", "head_dim": 128, "value_dim": 128, "tile": 64, "fragments": 2, "step": 16, "warps": 4,
            "shared_bytes": 53504}
    code = {"kernel": "forward_block_kernel<block_shape<bfloat16, 128, 128, 128, 64, 8, 2>, score::identity>",
            "architecture": "sm_80", "registers": 240, "instructions": {"products": 256}}
    wrong = {**code, "instructions": {"products": 255}}
    text = f"<!-- budget: x -->\nold\n<!-- end -->"
    checks = {
        "forward loads": cost_of(forward).loads == 8 * 72,
        "forward products": cost_of(forward).products == 8 * 128,
        "forward shared": cost_of(forward).shared == 2304 + 256,
        "forward tensor": round(cost_of(forward).tensor) == 1638,
        "backward shared": cost_of(keys).shared == 512 + 64 + 64,
        "backward tensor": round(cost_of(keys).tensor) == 410,
        "registers limit": blocks_of(240, 8, 0, 10**6) == 1 and blocks_of(128, 8, 0, 10**6) == 2,
        "shared memory limits": blocks_of(32, 4, 98304, DEVICES["sm_80"]) == 1 and
                                blocks_of(32, 4, 98304, DEVICES["sm_90a"]) == 2,
        "warps limit": blocks_of(32, 32, 0, 10**6) == 2,
        "code agrees": not contradictions([forward], [code]),
        "code without disassembly": not contradictions([forward], [{**code, "instructions": None}]),
        "code contradicts": len(contradictions([forward], [wrong])) == 1,
        "text": replaced(text, "x", ["new"]) == text.replace("old", "new"),
    }
    for name, right in checks.items():
        if not right:
            print(f"self-test: '{name}' is wrong")
    print(f"self-test: {sum(checks.values())} of {len(checks)} right")
    return 0 if all(checks.values()) else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a table is out of date")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--shapes", help="the compiled scripts/cuda_budget.cpp")
    parser.add_argument("--kernels", type=pathlib.Path, default=ROOT / "build/test/tests/cuda/kernels.json")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()

    shapes = read_shapes(arguments.shapes)
    old = (ROOT / PAGE).read_text(encoding="utf-8")
    costs = replaced(old, "costs", cost_tables(shapes))
    wrong, new = [], costs
    if arguments.kernels.is_file():
        kernels = json.loads(arguments.kernels.read_text(encoding="utf-8"))
        wrong = contradictions(shapes, kernels)
        new = replaced(costs, "registers", register_table(shapes, kernels))
    for sentence in wrong:
        print(f"[seqprim] error: {sentence}")
    if not arguments.check:
        (ROOT / PAGE).write_text(new, encoding="utf-8")
        print(f"[seqprim] {PAGE} is {'up to date' if new == old else 'updated'}")
        return 1 if wrong else 0
    sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), PAGE, PAGE + " (fresh)"))
    if new != old:
        print(f"[seqprim] {PAGE} is out of date; run scripts/cuda_budget.py")
    return 1 if wrong or costs != old else 0


if __name__ == "__main__":
    sys.exit(main())
