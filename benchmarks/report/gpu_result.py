#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Collects what scripts/gpu_check.sh left in its work folder into one result file, and prints it as tables.

    gpu_result.py --work build/gpu_check --commit 1234567 --asked "tests benchmarks" --out-folder benchmarks/results

Failures and steps that could not run are results too. A file of the same GPU, day and commit is added to, never
replaced. Exit status 1 when a step failed or a GPU test was skipped. Needs Python 3, no packages.
"""
import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree


def read_json(path):
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def tests_of(path):
    """Every test of a JUnit file of ctest. On a machine with a GPU, a test that skipped itself did not do its work."""
    if not os.path.exists(path):
        return []
    found = []
    for case in xml.etree.ElementTree.parse(path).getroot().iter("testcase"):
        passed = case.get("status") == "run" and case.find("skipped") is None and case.find("failure") is None
        output = (case.findtext("system-out") or "").strip()
        row = {"test": case.get("name"), "result": "passed" if passed else "failed", "seconds": float(case.get("time", 0))}
        if not passed:
            row["detail"] = output[-2000:] or case.get("status")
        found.append(row)
    return found


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


def machine():
    query = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version,compute_cap,memory.total,power.limit",
                            "--format=csv,noheader", "-i", "0"], capture_output=True, text=True, check=False).stdout
    name, driver, capability, memory, power = ([x.strip() for x in query.split(",")] + ["unknown"] * 5)[:5]
    try:
        version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        version = ""
    found = re.search(r"release [\d.]+, V([\d.]+)", version)
    return {"gpu": name, "driver": driver, "compute_capability": capability, "memory": memory, "power_limit": power,
            "cuda": found.group(1) if found else "unknown"}


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


def print_tables(result):
    print("| step | result | time |\n|---|---|---|")
    for step in result["steps"]:
        print(f"| {step['step']} | {step['result']} | {step['seconds']} s |")
    if result.get("results"):
        print("\n| benchmark | sizes | time | rate | share of the limit |\n|---|---|---|---|---|")
    for row in result.get("results", []):
        sizes = ", ".join(f"{k} {v}" for k, v in row["sizes"].items())
        if "error" in row:
            print(f"| {row['benchmark']} | {sizes} | failed: {row['error']} | | |")
            continue
        rate = next((f"{value:.1f} {key}" for key, value in row.items() if key.endswith("/s")), "")
        share = next((f"{100 * value:.0f} %" for key, value in row.items() if "share" in key), "")
        print(f"| {row['benchmark']} | {sizes} | {row['microseconds']:.1f} µs | {rate} | {share} |")
    for row in result.get("peer_ratios", []):
        sizes = ", ".join(f"{k} {v}" for k, v in row["sizes"].items())
        print(f"| {row['benchmark']} against {row['backend']} | {sizes} | {row['peer_time_over_ours']:.2f} x | | |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--asked", required=True, help="the steps that were asked for")
    parser.add_argument("--out-folder", required=True)
    arguments = parser.parse_args()

    with open(os.path.join(arguments.work, "steps.jsonl"), encoding="utf-8") as file:
        steps = [json.loads(line) for line in file]
    faults = [f"{s['step']}: {s['detail']}" for s in steps if s["result"] == "failed"]
    not_run = [f"{s['step']}: {s['detail']}" for s in steps if s["result"] == "could not run"]

    result = {"machine": machine(), "commit": arguments.commit, "date": datetime.date.today().isoformat(),
              "asked": arguments.asked.split(), "steps": steps}
    result["tests"] = tests_of(os.path.join(arguments.work, "ctest.xml"))
    faults += [f"test {t['test']}: {t.get('detail', '')}" for t in result["tests"] if t["result"] != "passed"]
    kernels = read_json(os.path.join(arguments.work, "tests", "tests", "cuda", "kernels.json"))
    if kernels and result["tests"]:
        result["kernels"] = kernels
    raw = read_json(os.path.join(arguments.work, "benchmarks.json"))
    if raw:
        result["roofs"], result["results"], more = benchmarks_of(raw)
        faults += more
    peer = read_json(os.path.join(arguments.work, "peer.json"))
    if peer:
        result["peer"] = peer
        result["peer_ratios"] = ratios(result.get("results", []), peer["results"])
    result["failures"], result["not_run"] = faults, not_run

    gpu = re.sub(r"[^a-z0-9]+", "-", result["machine"]["gpu"].lower()).strip("-")
    path = os.path.join(arguments.out_folder, f"{gpu}-{result['date']}-{arguments.commit}.json")
    runs = (read_json(path) or {"runs": []})["runs"] + [result]
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump({"runs": runs}, file, indent=1)
        file.write("\n")
    os.replace(path + ".part", path)

    print_tables(result)
    for sentence in not_run:
        print(f"not run: {sentence}")
    for fault in faults:
        print(f"FAILED {fault}")
    print(f"written: {path}")
    return 1 if faults or not steps else 0


if __name__ == "__main__":
    sys.exit(main())
