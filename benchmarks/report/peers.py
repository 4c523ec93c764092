#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures attention on one thread against PyTorch, ONNX Runtime, OpenVINO, ggml and oneDNN, and prints the table of docs/benchmarks.md.

    benchmarks/report/peers.py                        about 15 minutes on an idle machine
    benchmarks/report/peers.py --quick                about 2 minutes, few shapes, noisier
    benchmarks/report/peers.py --update-docs          also writes docs/benchmarks.md
    benchmarks/report/peers.py --from FILE [--update-docs]       from an earlier result, measures nothing

Builds the library `seqprim_peer` (preset `bench`), installs the others with `benchmarks/peers/setup.sh --all` if they are not there
yet, and starts one process for each library (benchmarks/peers/attention_server.py), all on one processor. For each shape every
library first shows that its result is that of seqprim; then seqprim and each library are measured in turn, A B A B ..., several
rounds, and the median ratio of neighbors counts. All processes but the one that is measured are stopped (SIGSTOP). A library offers
what is fastest of its implementations; what it does not have is left out, with the reason. Writes
benchmarks/results/peers-<machine>-<date>-<commit>.json.

Leave the machine alone meanwhile. Needs Python 3.9.
"""
import argparse
import ctypes
import datetime
import json
import math
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import compare  # noqa: E402
import summary  # noqa: E402
import table  # noqa: E402
from compare import ROOT, say  # noqa: E402

TITLES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "ggml": "ggml", "onednn": "oneDNN"}
LIMITS = {"float": 1e-4, "bfloat16": 3e-2}  # of the difference to seqprim's result, relative to its largest element


def cases(quick):
    """[case of attention_server.py]: forward, then one query against a cache."""
    result = []
    for dtype in ("float", "bfloat16"):
        for mask in ("full", "causal"):
            for seq in (512, 2048) if quick else (512, 1024, 2048, 4096):
                for dim in (128,) if quick else (64, 128):
                    result.append({"op": "forward", "type": dtype, "mask": mask, "heads": 8, "q_len": seq, "k_len": seq, "dim": dim})
        result.append({"op": "decode", "type": dtype, "mask": "full", "heads": 8, "q_len": 1, "k_len": 8192, "dim": 128})
    return result


# --- running ---------------------------------------------------------------------------------------------------------
class Server:
    """One library in a process of its own, which runs only while it is asked."""

    def __init__(self, command, environment):
        def settle():
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: not even a killed parent leaves it stopped
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        preexec_fn=settle, env=environment)
        self.process.send_signal(signal.SIGSTOP)

    def ask(self, request, seconds=300):
        if self.process.poll() is not None:
            return {"error": "died"}
        self.process.send_signal(signal.SIGCONT)
        try:
            answer, error = compare.exchange(self.process, request, seconds)
            if error is not None:
                self.kill()
                return {"error": error}
            return answer
        finally:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGSTOP)

    def kill(self):
        compare.end(self.process)


def start(python, library):
    """{library: Server}, seqprim among them."""
    script = ROOT / "benchmarks/peers/attention_server.py"
    folder = python.parent.parent
    environment = os.environ | {"LD_LIBRARY_PATH": f"{folder / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}",
                                "OCL_ICD_FILENAMES": str(folder / "lib/libintelocl.so")}  # the CPU device of oneDNN's build on PyPI
    servers = {}
    for name in ("seqprim", *TITLES):
        more = ["--shared-object", library] if name == "seqprim" else []
        own = environment if name == "onednn" else os.environ
        servers[name] = Server([python, script, name, *more], own)
    return servers


def measure_case(case, servers, rounds, seconds):
    """The row of a case."""
    row = {"case": case, "peers": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, server in servers.items():
            answer = server.ask({"prepare": case, "folder": folder})
            if "error" not in answer:
                answer = server.ask({"check": LIMITS[case["type"]]})
            row["peers"][name] = answer
    own = row["peers"].pop("seqprim")
    if "error" in own:
        return row | {"error": own["error"]}
    times = []
    right = {name: [] for name, answer in row["peers"].items() if "error" not in answer}
    for _ in range(rounds):
        for name, pairs in right.items():
            ours, theirs = servers["seqprim"].ask({"seconds": seconds}), servers[name].ask({"seconds": seconds})
            if "error" in ours or "error" in theirs:
                row["peers"][name]["error"] = ours.get("error") or theirs["error"]
                continue
            times.append(ours["microseconds"])
            pairs.append((ours["microseconds"], theirs["microseconds"]))
    if times:
        row["microseconds"] = statistics.median(times)
    for name, pairs in right.items():
        if pairs and "error" not in row["peers"][name]:
            ratios = [theirs / ours for ours, theirs in pairs]
            row["peers"][name] |= {"microseconds": statistics.median(theirs for _, theirs in pairs), "ratio": statistics.median(ratios),
                                   "lowest_ratio": min(ratios), "highest_ratio": max(ratios)}
    return row


def measure(servers, quick, rounds):
    about = {name: server.ask({"about": True}) for name, server in servers.items()}
    if "error" in about["seqprim"]:
        raise SystemExit(f"seqprim does not load: {about['seqprim']['error']}")
    for name, answer in about.items():
        say(f"{name}: {answer.get('version') or 'left out: ' + answer['error']}")
    running = {name: server for name, server in servers.items() if "error" not in about[name]}
    rows = []
    for case in cases(quick):
        row = measure_case(case, running, rounds, 0.05 if quick else 0.2)
        rows.append(row)
        shown = ", ".join(f"{name} {peer['ratio']:.2f} x" if "ratio" in peer else f"{name}: {peer.get('error', 'not measured')[:60]}"
                          for name, peer in row["peers"].items())
        say(f"{shown_case(case)}: {table.shown_time(row['microseconds']) if 'microseconds' in row else row.get('error')}; {shown}")
    return about, rows


# --- what is written -------------------------------------------------------------------------------------------------
def shown_case(case):
    if case["op"] == "decode":
        return f"{case['type']}, one query, {case['k_len']} keys, d {case['dim']}"
    return f"{case['type']}, {case['mask']}, S {case['q_len']}, d {case['dim']}"


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def best_peer(row):
    """(library, ratio) of the fastest, or None."""
    ratios = [(peer["ratio"], name) for name, peer in row["peers"].items() if "ratio" in peer]
    return tuple(reversed(min(ratios))) if ratios else None


def libraries_of(result):
    """The libraries that were measured in at least one case, in the order of TITLES."""
    return [name for name in TITLES if any("ratio" in row["peers"].get(name, {}) for row in result["rows"])]


def libraries_markdown(result):
    """Time of seqprim, and the time of each library divided by it; means over forward, which decode is not part of."""
    names = libraries_of(result)
    lines = ["| type | mask | S | d | seqprim | " + "".join(f"{TITLES[name]} | " for name in names) + "the fastest of them |",
             "|---|---|---|---|---|" + "---|" * (len(names) + 1)]
    for row in result["rows"]:
        case = row["case"]
        what = f"| {case['type']} | {case['mask'] if case['op'] == 'forward' else 'one query'} | {case['k_len']} | {case['dim']} "
        if "microseconds" not in row:
            lines.append(what + f"| {row.get('error', 'not measured')} |" + " |" * (len(names) + 1))
            continue
        ratios = [row["peers"].get(name, {}).get("ratio") for name in names]
        best = best_peer(row)
        lines.append(what + f"| {table.shown_time(row['microseconds'])} |" + "".join(f" {ratio:.2f} x |" if ratio else " - |" for ratio in ratios)
                     + (f" {TITLES[best[0]]} {best[1]:.2f} x |" if best else " - |"))
    for dtype in ("float", "bfloat16"):
        rows = [row for row in result["rows"] if row["case"]["type"] == dtype and row["case"]["op"] == "forward"]
        columns = [[row["peers"][name]["ratio"] for row in rows if "ratio" in row["peers"].get(name, {})] for name in names]
        columns.append([best_peer(row)[1] for row in rows if best_peer(row)])
        if any(columns):
            lines.append(f"| {dtype} | forward, geometric mean of {len(columns[-1])} | | | |"
                         + "".join(f" {geometric_mean(ratios):.2f} x{'' if len(ratios) == len(columns[-1]) else f' ({len(ratios)})'} |"
                                   if ratios else " - |" for ratios in columns))
    return "\n".join(lines)


def setup_markdown(result):
    """How and where it was measured, which version and implementation of each library, and what was left out."""
    about = result["about"]
    lines = [f"{result['machine']}, {result['compiler']}, {result['date']}, commit {result['commit']}, seqprim for {about['seqprim']['version']}, "
             f"one thread, batch 1, 8 heads, medians of {result['rounds']} rounds. A ratio is the time of the library divided by ours: above 1 "
             "seqprim is faster."]
    for name, title in TITLES.items():
        if "error" in about.get(name, {"error": "not installed"}):
            lines.append(f"- {title}: left out ({about.get(name, {}).get('error', 'not installed')})")
            continue
        uses, reasons = {}, {}
        for row in result["rows"]:
            peer = row["peers"].get(name, {})
            if "ratio" in peer:
                uses.setdefault(row["case"]["type"], {})[peer["implementation"]] = True
            else:
                reasons.setdefault(row["case"]["type"], peer.get("error", "not measured"))
        told = [f"{dtype} by {' or '.join(f'`{one}`' for one in uses[dtype])}" for dtype in uses]
        told += [f"not in every {dtype} row: {table_cell(why)}" if dtype in uses else f"no {dtype}: {table_cell(why)}"
                 for dtype, why in reasons.items()]
        lines.append(f"- {title} {about[name]['version']}: " + "; ".join(told))
    return "\n".join(lines)


def table_cell(text):
    return re.sub(r"\s+", " ", text.replace("|", "\\|").replace("<", "&lt;"))[:160]


BLOCKS = {"libraries": libraries_markdown, "libraries_setup": setup_markdown}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few shapes, three short rounds")
    parser.add_argument("--rounds", type=int, help="default 7, or 3 with --quick")
    parser.add_argument("--library", type=pathlib.Path, help="libseqprim_peer.so that is already built")
    parser.add_argument("--machine", default=compare.processor(), help="the processor in words, default from /proc/cpuinfo")
    parser.add_argument("--out", type=pathlib.Path, help="result file to write")
    parser.add_argument("--from", dest="source", type=pathlib.Path, help="an earlier result file; measures nothing")
    parser.add_argument("--update-docs", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()

    if arguments.source:
        path, result = arguments.source, json.loads(arguments.source.read_text())
    else:
        library = (arguments.library or compare.build("seqprim_peer", "libseqprim_peer.so")).resolve()
        python = compare.peers_python(install=True, arguments=["--all"])
        if python is None:
            raise SystemExit("there is nothing to compare with: benchmarks/peers/setup.sh --all failed")
        rounds = arguments.rounds or (3 if arguments.quick else 7)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that `finally` is reached
        if os.getloadavg()[0] > 1:
            say(f"warning: the load of this machine is {os.getloadavg()[0]:.1f}; times will be noise")
        servers = start(python, library)
        try:
            about, rows = measure(servers, arguments.quick, rounds)
        finally:
            for server in servers.values():
                server.kill()
        result = {"machine": arguments.machine, "compiler": compare.compiler_of(library), "commit": compare.commit(),
                  "date": datetime.date.today().isoformat(), "rounds": rounds, "about": about, "rows": rows}
        path = arguments.out or (ROOT / ("build/quick_peers.json" if arguments.quick else "benchmarks/results/peers-"
                                         f"{compare.slug(arguments.machine)}-{result['date']}-{result['commit']}.json"))
        path.parent.mkdir(parents=True, exist_ok=True)
        table.write(path, result)

    print(setup_markdown(result), "\n")
    print(libraries_markdown(result))
    if arguments.update_docs:
        page = ROOT / "docs/benchmarks.md"
        page.write_text(summary.update_page(page.read_text(encoding="utf-8"), result, BLOCKS), encoding="utf-8")
        say(f"wrote {page}")
    say(f"result in {path}")


if __name__ == "__main__":
    main()
