#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures attention on this CPU against PyTorch and prints the target table, the ratios, and where a target is missed.

    benchmarks/report/compare.py                      about 8 minutes on two cores
    benchmarks/report/compare.py --quick              about 2 minutes, noisier, fewer shapes of PyTorch
    benchmarks/report/compare.py --update-docs        also writes docs/benchmarks.md, the claim in README.md and docs/pictures/bench_*.svg
    benchmarks/report/compare.py --from FILE [--update-docs]       from an earlier result, measures nothing

Builds attention_bench (preset `bench`), installs PyTorch with benchmarks/peers/setup.sh if it is not there yet (--no-peers
leaves it out), runs both, shape by shape in turn, several rounds, and writes benchmarks/results/cpu-<machine>-<date>-<commit>.json.
The reasons in the last column of the target table in docs/benchmarks.md are written by hand and kept by --update-docs.

Leave the machine alone meanwhile. Needs Python 3.9; the plots need what setup.sh installs.
"""
import argparse
import datetime
import json
import os
import pathlib
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import summary  # noqa: E402
import table  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
START = time.monotonic()


def say(text):
    print(f"[{time.monotonic() - START:4.0f} s] {text}", file=sys.stderr, flush=True)


def pairs(quick):
    """[(own benchmark, sizes, case of torch_cpu.py, threads)], the same work on both sides."""
    result = []

    def add(benchmark, sizes, api, op, mask, score="none", threads=1, **more):
        for dtype in ("bfloat16", "float"):
            case = {"api": api, "op": op, "type": dtype, "mask": mask, "score": score, "seq": sizes["seq"],
                    "dim": sizes["dim"]} | more
            result.append((f"{benchmark}<{dtype}>", sizes, case, threads))

    def sdpa(benchmark, op, mask, shapes, **more):
        for seq, dim in shapes:
            add(benchmark, {"seq": seq, "dim": dim}, "sdpa", op, mask, **more)

    sdpa("forward_full", "forward", "full", [(4096, 128)] if quick else
         [(256, 64), (1024, 64), (4096, 64), (256, 128), (1024, 128), (4096, 128), (4096, 256)])
    sdpa("forward_causal", "forward", "causal", [(4096, 128)] if quick else
         [(1024, 64), (4096, 64), (1024, 128), (4096, 128), (8192, 128)])
    sdpa("backward_full", "backward", "full", [(4096, 128)])
    sdpa("backward_causal", "backward", "causal", [(4096, 128)] if quick else [(1024, 64), (4096, 64), (4096, 128)])
    sdpa("decode_one", "decode", "full", [(32768, 128)] if quick else [(4096, 128), (32768, 128)], heads=8)
    if not quick:
        for seq in (64, 256):
            add("short_full", {"seq": seq, "dim": 64, "heads": 8}, "sdpa", "forward", "full", heads=8)
            add("short_causal", {"seq": seq, "dim": 64, "heads": 8}, "sdpa", "forward", "causal", heads=8)
        add("decode_grouped", {"seq": 8192, "dim": 128, "queries": 1}, "sdpa", "decode", "full", heads=32, kv_heads=8,
            queries=1)
    shape = {"seq": 4096, "dim": 128}
    add("same_tiles_causal", shape, "flex", "forward", "causal")
    add("per_tile_window", shape, "flex", "forward", "window")
    add("score_soft_cap", shape, "flex", "forward", "causal", "soft_cap")
    if not quick:
        add("per_tile_prefix", shape, "flex", "forward", "prefix")
        add("per_tile_documents_and_causal", shape, "flex", "forward", "documents")
        add("score_alibi", shape, "flex", "forward", "causal", "alibi")
        add("score_soft_cap_then_alibi", shape, "flex", "forward", "causal", "soft_cap_alibi")
        add("decode_one", {"seq": 32768, "dim": 128}, "flex", "decode", "full", heads=8)
    if cpus() >= 2:
        add("two_threads_full", {"seq": 4096, "dim": 128, "heads": 1}, "sdpa", "forward", "full", threads=2)
        if not quick:
            add("two_threads_causal", {"seq": 1024, "dim": 128, "heads": 8}, "sdpa", "forward", "causal", threads=2,
                heads=8)
    return result


# --- running ---------------------------------------------------------------------------------------------------------
def cpus():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def pinned(threads):
    """For subprocess: one thread stays on one processor, the last, where least else runs."""
    if threads == 1 and hasattr(os, "sched_setaffinity"):
        last = max(os.sched_getaffinity(0))
        return lambda: os.sched_setaffinity(0, {last})
    return None


def run_own(binary, pattern, threads, min_time):
    """(context, rows) of the benchmarks that match, one repetition."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "raw.json")
        environment = os.environ | ({"OMP_NUM_THREADS": "1"} if threads == 1 else {"OMP_NUM_THREADS": str(cpus())})
        done = subprocess.run([binary, f"--benchmark_filter={pattern}", f"--benchmark_min_time={min_time}",
                               f"--benchmark_out={out}", "--benchmark_out_format=json"], preexec_fn=pinned(threads),
                              env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{binary} failed: {done.stderr[-2000:]}")
        return table.medians(out)


def full_name(benchmark, sizes):
    return "/".join([benchmark, *(f"{key}:{value}" for key, value in sizes.items())])


def exchange(process, request, seconds):
    """(answer, None) of a process that answers lines of JSON, or (None, why there is none)."""
    try:
        process.stdin.write((json.dumps(request) + "\n").encode())
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        line = process.stdout.readline() if ready else b""
        if line:
            return json.loads(line), None
        return None, "died" if ready else f"no answer in {seconds} s"
    except (BrokenPipeError, json.JSONDecodeError) as failure:
        return None, f"died ({type(failure).__name__})"


def end(process):
    """Ends a process, a stopped one too, and closes its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        try:
            pipe.close()
        except OSError:  # what was not yet read by the process
            pass


class Peer:
    """torch_cpu.py --serve with a number of threads; started when asked, restarted after it died or hung."""

    def __init__(self, python, threads):
        self.python, self.threads, self.process = python, threads, None

    def ask(self, request, seconds=240):
        if self.process is None:
            self.process = subprocess.Popen(
                [self.python, ROOT / "benchmarks/peers/torch_cpu.py", "--serve"], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=pinned(self.threads),
                env=os.environ | {"OMP_NUM_THREADS": str(self.threads)})
        answer, error = exchange(self.process, request | {"threads": self.threads}, seconds)
        if error is None:
            return answer
        self.stop()
        return {"error": f"PyTorch: {error}"}

    def stop(self):
        if self.process is not None:
            end(self.process)
            self.process = None


def median_rows(rounds):
    """Rows of several runs of the same benchmarks -> the median of each number."""
    merged = {}
    for rows in rounds:
        for row in rows:
            merged.setdefault(full_name(row["benchmark"], row["sizes"]), []).append(row)
    result = []
    for same in merged.values():
        good = [row for row in same if "error" not in row]
        if not good:
            result.append(same[0])
            continue
        row = dict(good[0])
        for key, value in row.items():
            if isinstance(value, (int, float)):
                row[key] = statistics.median(one[key] for one in good)
        result.append(row)
    return result


def measure_own(binary, rounds, quick):
    """All benchmarks of attention_bench, the whole set once a round; the roofs are measured anew each time."""
    min_time = 0.05 if quick else 0.1
    contexts, all_rows = [], []
    for number in range(rounds):
        say(f"attention_bench, round {number + 1} of {rounds}")
        # A '-' in front leaves out what matches.
        context, rows = run_own(binary, "-two_threads", 1, min_time)
        contexts.append(context)
        rows += run_own(binary, "two_threads", 2, min_time)[1]
        all_rows.append(rows)
    context = dict(contexts[0])
    for key, value in context.items():
        if isinstance(value, float):
            context[key] = statistics.median(one[key] for one in contexts)
    return context, median_rows(all_rows)


def measure_pairs(binary, python, rounds, quick):
    peers = {}
    about = Peer(python, 1)
    answer = about.ask({})
    about.stop()
    results = []
    if "error" in answer:
        return {"error": answer["error"], "results": results}
    for benchmark, sizes, case, threads in pairs(quick):
        name = full_name(benchmark, sizes)
        peer = peers.setdefault(threads, Peer(python, threads))
        row = {"benchmark": benchmark, "sizes": {key: str(value) for key, value in sizes.items()}, "case": case,
               "threads": threads}
        first = peer.ask({"case": case, "seconds": 0})  # compiles, touches its memory
        own, other, ratios = [], [], []
        for _ in range(0 if "error" in first else rounds):
            _, rows = run_own(binary, f"^{name}(/iterations:1)?(/manual_time)?$", threads, 0.1)
            answer_now = peer.ask({"case": case, "seconds": 0.15 if quick else 0.3})
            if not rows or "error" in rows[0]:
                row["error"] = f"no such benchmark: {name}" if not rows else rows[0]["error"]
                break
            if "error" in answer_now:
                row["error"] = answer_now["error"]
                break
            own.append(rows[0]["microseconds"])
            other.append(answer_now["microseconds"])
            ratios.append(other[-1] / own[-1])
        if "error" in first:
            row["error"] = first["error"]
        if ratios and "error" not in row:
            row |= {"microseconds": statistics.median(own), "peer_microseconds": statistics.median(other),
                    "ratio": statistics.median(ratios), "lowest_ratio": min(ratios), "highest_ratio": max(ratios),
                    "backend": first.get("backend", "")}
        say(f"{case['api']} {name}, threads {threads}: " + (f"{row['ratio']:.2f} x" if "ratio" in row else row["error"]))
        results.append(row)
    for peer in peers.values():
        peer.stop()
    return answer | {"results": results}


# --- surroundings ----------------------------------------------------------------------------------------------------
def run(*command, **more):
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, **more)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout.strip()


def build(target="attention_bench", file="attention_bench"):
    say(f"building {target}")
    run("cmake", "--preset", "bench", "-DSEQPRIM_CUDA=OFF")
    run("cmake", "--build", "--preset", "bench", "--target", target, "--parallel", str(cpus()))
    return ROOT / "build/bench/benchmarks" / file


def commit():
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def slug(machine):
    return re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-")


def compiler_of(binary):
    """The compiler and flags of the build folder, from its cache."""
    cache = binary.parents[1] / "CMakeCache.txt"
    found = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.*)$", cache.read_text(), re.MULTILINE) if cache.exists() else None
    if not found:
        return "unknown compiler"
    version = subprocess.run([found[1], "-dumpfullversion", "-dumpversion"], capture_output=True, text=True)
    return f"{pathlib.Path(found[1]).name.replace('c++', 'g++')} {version.stdout.strip().splitlines()[0]} -O2 -march=native"


def processor():
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
        return re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)[1].strip()
    except (OSError, TypeError):
        return "CPU"


def peers_python(install, arguments=()):
    folder = pathlib.Path(os.environ.get("SEQPRIM_PEERS_DIR", ROOT / "build/peers"))
    if install:
        say(" ".join(["benchmarks/peers/setup.sh", *arguments]))
        done = subprocess.run(["bash", ROOT / "benchmarks/peers/setup.sh", *arguments], stdout=sys.stderr)
        if done.returncode != 0:
            say("it could not install everything; going on without")
    python = folder / "bin/python"
    return python if python.exists() else None


def draw(python, result, folder):
    if python is None:
        return say("no plots: matplotlib is not installed (benchmarks/peers/setup.sh)")
    done = subprocess.run([python, ROOT / "benchmarks/report/plots.py", result, folder], text=True, capture_output=True)
    say(f"plots in {folder}" if done.returncode == 0 else f"plots failed: {done.stderr[-500:]}")
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, fewer shapes")
    parser.add_argument("--rounds", type=int, help="default 3, or 1 with --quick")
    parser.add_argument("--binary", type=pathlib.Path, help="attention_bench that is already built")
    parser.add_argument("--no-peers", action="store_true", help="without PyTorch")
    parser.add_argument("--machine", default=processor(), help="the processor in words, default from /proc/cpuinfo")
    parser.add_argument("--out", type=pathlib.Path, help="result file to write")
    parser.add_argument("--from", dest="source", type=pathlib.Path, help="an earlier result file; measures nothing")
    parser.add_argument("--pictures", type=pathlib.Path, help="where to draw, default beside the result file")
    parser.add_argument("--update-docs", action="store_true", help="write docs/benchmarks.md, its pictures and the claim in README.md")
    arguments = parser.parse_args()

    if arguments.source:
        path, result = arguments.source, json.loads(arguments.source.read_text())
        python = peers_python(install=False)
    else:
        binary = (arguments.binary or build()).resolve()
        python = peers_python(install=not arguments.no_peers)
        rounds = arguments.rounds or (1 if arguments.quick else 3)
        today = datetime.date.today().isoformat()
        result = {"machine": arguments.machine, "commit": commit(), "date": today, "compiler": compiler_of(binary),
                  "rounds": rounds}
        result["context"], result["results"] = measure_own(binary, rounds, arguments.quick)
        if python and not arguments.no_peers:
            result["peers"] = measure_pairs(binary, python, rounds, arguments.quick)
        path = arguments.out or (ROOT / ("build/quick.json" if arguments.quick else
                                         f"benchmarks/results/cpu-{slug(arguments.machine)}-{today}-{result['commit']}.json"))
        path.parent.mkdir(parents=True, exist_ok=True)
        table.write(path, result)

    print(summary.setup_markdown(result), "\n")
    page = ROOT / "docs/benchmarks.md"
    print(summary.targets_markdown(result, summary.reasons_in(page.read_text(encoding="utf-8"))), "\n")
    print(summary.misses_markdown(result), "\n")
    print(summary.compositions_markdown(result), "\n")
    print(summary.peers_markdown(result))
    if arguments.update_docs:
        for document in (page, ROOT / "README.md"):
            document.write_text(summary.update_page(document.read_text(encoding="utf-8"), result), encoding="utf-8")
            say(f"wrote {document}")
    draw(python, path, arguments.pictures or (ROOT / "docs/pictures" if arguments.update_docs else path.parent))
    say(f"result in {path}")


if __name__ == "__main__":
    main()
