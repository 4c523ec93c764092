#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads what the programs of scripts/gpu_check.sh print, and shows the result files of its steps as tables.

    gpu_result.py FILE ...

Exit status 1 when a part of the last run of any file failed or was cut off. Needs Python 3.9, no packages.
"""
import argparse
import csv
import io
import json
import math
import os
import re
import sys


def read_json(path):
    """None where there is no file, or only a part of one."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


# --- readers: each adds to a result and returns what is wrong, or ''

def read_group(text, part):
    """The output of 'cuda_test <group>': the check that came closest to its budget, and what was left out."""
    closest = re.search(r"^\w+: worst error/budget (\S+): (.*)$", text, re.M)
    if closest:
        share = float(closest.group(1))
        part.update(worst_error_over_budget=share if math.isfinite(share) else str(share), worst=closest.group(2))
    left_out = re.findall(r"^\w+: left out, (.*)$", text, re.M)
    if left_out:
        part["left_out"] = left_out
    sanitizer = re.findall(r"^=+ (?:ERROR|RACECHECK) SUMMARY: .*$", text, re.M)
    if sanitizer:
        part["summary"] = sanitizer[-1].lstrip("= ")
    failed = re.findall(r"^\S+:\d+: not true: .*(?:\n  in .*)?$", text, re.M)
    return "\n".join(failed[:5])


def benchmarks_of(raw):
    """(roofs, rows, faults) of Google Benchmark's JSON; medians only, errors kept."""
    roofs = {key: float(value) for key, value in raw["context"].items() if "roof" in key}
    rows, faults = [], []
    for run in raw["benchmarks"]:
        name, *axes = re.sub(r"_median$", "", run["name"]).split("/")
        row = {"benchmark": name, "sizes": dict(axis.split(":") for axis in axes if re.fullmatch(r"\w+:\d+", axis))}
        if run.get("error_occurred"):
            row["error"] = run.get("error_message", "")
            if row not in rows:
                rows.append(row)
                faults.append(f"{run['name']}: {row['error']}")
            continue
        if run.get("aggregate_name", "median") != "median":
            continue
        row["microseconds"] = run["real_time"] * {"ns": 1e-3, "us": 1, "ms": 1e3, "s": 1e6}[run["time_unit"]]
        row.update({key: value for key, value in run.items() if "share" in key or key.endswith("/s")})
        rows.append(row)
    if not rows:
        faults.append("the benchmark binary ran nothing")
    return roofs, rows, faults


def read_benchmarks(path, result):
    raw = read_json(path)
    if raw is None:
        return "no results"
    roofs, rows, faults = benchmarks_of(raw)
    result["roofs"].update(roofs)
    result["results"] += rows
    return "; ".join(faults)


def ratios(rows, peers):
    """Our time against each backend of the peer, at the same shapes: above 1 means that we are faster."""
    result = []
    for row in rows:
        for peer in peers:
            if (peer["benchmark"], peer["sizes"]) == (row["benchmark"], row["sizes"]) and "microseconds" in peer:
                if "microseconds" in row:
                    result.append({"benchmark": row["benchmark"], "sizes": row["sizes"], "backend": peer["backend"],
                                   "peer_time_over_ours": peer["microseconds"] / row["microseconds"]})
    return result


def read_peer(path, result):
    peer = read_json(path)
    if peer is None:
        return "no results"
    result["peers"] += peer.pop("results")
    result["peer"] = peer
    result["peer_ratios"] = ratios(result["results"], result["peers"])
    return ""


def read_profile(text, profiles, name):
    """The table of 'ncu --csv --page raw': a row of names, a row of units, a row for each kernel."""
    lines = text.splitlines()
    begin = next((n for n, line in enumerate(lines) if line.startswith('"ID"')), None)
    rows = list(csv.reader(io.StringIO("\n".join(lines[begin:])))) if begin is not None else []
    kernels = [row for row in rows[2:] if len(row) == len(rows[0])]
    if not kernels:
        return "ncu printed no table"
    metrics = {}
    for key, unit, value in zip(rows[0], rows[1], kernels[0]):
        try:
            metrics[f"{key} [{unit}]" if unit else key] = float(value.replace(",", ""))
        except ValueError:
            metrics[key] = value
    profiles[name] = metrics
    return ""


# --- tables

def sizes_of(row):
    return ", ".join(f"{key} {value}" for key, value in row["sizes"].items())


def table(run):
    """The lines of one run of a step."""
    machine = run["machine"]
    yield (f"**{run['step']}**: {run['result']}; {machine['gpu']}, driver {machine.get('driver', '-')}, CUDA {machine['cuda']}, "
           f"commit {run['commit']}, {run['date']}, {run['seconds']} s")
    yield ""
    yield "| part | result | time | worst error / budget | |"
    yield "|---|---|---|---|---|"
    for part in run["parts"]:
        note = " ".join(part.get("detail", part.get("summary", "")).split()).replace("|", "\\|")
        yield (f"| {part['part']} | {part['result']} | {part.get('seconds', '')} | {part.get('worst_error_over_budget', '')} | "
               f"{note[:300]} |")
    if run.get("results"):
        yield ""
        yield "| benchmark | sizes | time | rate | share of the limit |"
        yield "|---|---|---|---|---|"
    for row in run.get("results", []):
        if "error" in row:
            yield f"| {row['benchmark']} | {sizes_of(row)} | failed: {row['error']} | | |"
            continue
        rate = next((f"{value:.1f} {key}" for key, value in row.items() if key.endswith("/s")), "")
        share = next((f"{100 * value:.0f} %" for key, value in row.items() if "share" in key), "")
        yield f"| {row['benchmark']} | {sizes_of(row)} | {row['microseconds']:.1f} µs | {rate} | {share} |"
    for row in run.get("peer_ratios", []):
        yield f"| {row['benchmark']} against {row['backend']} | {sizes_of(row)} | {row['peer_time_over_ours']:.2f} x | | |"
    for name, metrics in run.get("profiles", {}).items():
        yield ""
        yield f"| {name} | |"
        yield "|---|---|"
        for key, value in metrics.items():
            if re.search(r"throughput\.avg\.pct|pipe_tensor.*pct|mem_shared.*pct|warps_active.*pct|registers_per_thread", key):
                yield f"| {key} | {value} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    bad = False
    for path in parser.parse_args().files:
        runs = (read_json(path) or {"runs": []})["runs"]
        if not runs:
            print(f"{os.path.basename(path)}: no run", file=sys.stderr)
            bad = True
            continue
        print("\n".join(table(runs[-1])), end="\n\n")
        bad = bad or any(part["result"] not in ("passed", "could not run", "no GPU") for part in runs[-1]["parts"])
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
