#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns Google Benchmark JSON into a small result file and a Markdown table.

    matmul_bench --benchmark_repetitions=9 --benchmark_report_aggregates_only=true \
        --benchmark_out=raw.json --benchmark_out_format=json
    benchmarks/report/table.py --machine "AMD EPYC (Zen 5)" --commit $(git rev-parse --short HEAD) \
        --out benchmarks/results/cpu-zen5.json raw.json ... > table.md

Only the medians and the roofs are kept; nothing that names the host. Needs Python 3.9, no packages. Attention has a command
of its own, compare.py, which uses the functions here.
"""
import argparse
import datetime
import json

STANDARD_FIELDS = {"name", "run_name", "run_type", "family_index", "per_family_instance_index", "repetitions",
                   "repetition_index", "threads", "iterations", "real_time", "cpu_time", "time_unit", "aggregate_name",
                   "aggregate_unit", "error_occurred", "error_message", "label"}


def medians(path):
    """(context, rows) of a file that Google Benchmark wrote."""
    with open(path, encoding="utf-8") as file:
        raw = json.load(file)
    context = {}
    for key, value in raw["context"].items():
        if key == "isa" or "roof" in key:
            context[key] = float(value) if key.endswith("/s") else value
    rows = []
    for run in raw["benchmarks"]:
        if run.get("aggregate_name", "median") != "median":
            continue
        name, *axes = run["name"].removesuffix("_median").split("/")
        sizes = dict(axis.split(":") for axis in axes if ":" in axis)
        sizes.pop("iterations", None)  # set by the benchmark, says nothing
        row = {"benchmark": name, "sizes": sizes}
        if run.get("error_occurred"):
            row["error"] = run.get("error_message", "failed")
        else:
            row["microseconds"] = run["real_time"] * {"ns": 1e-3, "us": 1, "ms": 1e3, "s": 1e6}[run["time_unit"]]
            row |= {key: value for key, value in run.items()
                    if key not in STANDARD_FIELDS and isinstance(value, (int, float))}
        rows.append(row)
    return context, rows


def shown_time(microseconds):
    if microseconds < 1000:
        return f"{microseconds:.1f} µs"
    return f"{microseconds / 1000:.2f} ms" if microseconds < 1e6 else f"{microseconds / 1e6:.2f} s"


def shown_sizes(row):
    return ", ".join(f"{key} {value}" for key, value in row["sizes"].items())


def shown_name(row):
    return row["benchmark"].replace("<", " ").replace(">", "")


def markdown(rows):
    """The table of a list of rows: what was measured, its time, its rate, its share of the limit."""
    lines = ["| benchmark | sizes | time | rate | share of the limit |", "|---|---|---|---|---|"]
    for row in rows:
        if "error" in row:
            lines.append(f"| {shown_name(row)} | {shown_sizes(row)} | {row['error']} | | |")
            continue
        rate = next((f"{value:.0f} {key}" if value < 1e4 else f"{value / 1e6:.0f} M{key}"
                     for key, value in row.items() if key.endswith("/s")), "")
        share = next((f"{100 * value:.0f} %" for key, value in row.items() if "share" in key), "")
        lines.append(f"| {shown_name(row)} | {shown_sizes(row)} | {shown_time(row['microseconds'])} | {rate} | {share} |")
    return "\n".join(lines)


def write(path, result):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
        file.write("\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", required=True, help="processor, in words")
    parser.add_argument("--commit", required=True)
    parser.add_argument("--out", required=True, help="result file to write")
    parser.add_argument("raw", nargs="+", help="Google Benchmark JSON")
    arguments = parser.parse_args()

    context, rows = {}, []
    for path in arguments.raw:
        more_context, more_rows = medians(path)
        context |= more_context
        rows += more_rows
    write(arguments.out, {"machine": arguments.machine, "commit": arguments.commit,
                          "date": datetime.date.today().isoformat(), "context": context, "results": rows})
    print(markdown(rows))


if __name__ == "__main__":
    main()
