#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns Google Benchmark JSON into a small result file and a Markdown table.

    attention_bench --benchmark_repetitions=9 --benchmark_report_aggregates_only=true \
        --benchmark_out=raw.json --benchmark_out_format=json
    benchmarks/report/table.py --machine "AMD EPYC (Zen 5)" --commit $(git rev-parse --short HEAD) \
        --out benchmarks/results/cpu-zen5.json raw.json ... > table.md

Only the medians and the roofs are kept; nothing that names the host. Needs Python 3, no packages.
"""
import argparse
import datetime
import json


def medians(path):
    with open(path, encoding="utf-8") as file:
        raw = json.load(file)
    context = {k: v for k, v in raw["context"].items() if k == "isa" or "roof" in k}
    rows = []
    for run in raw["benchmarks"]:
        if run.get("aggregate_name", "median") != "median":
            continue
        name, *axes = run["name"].removesuffix("_median").split("/")
        row = {"benchmark": name, "sizes": dict(axis.split(":") for axis in axes if ":" in axis),
               "microseconds": run["real_time"] * {"ns": 1e-3, "us": 1, "ms": 1e3}[run["time_unit"]]}
        for key, value in run.items():
            if "share" in key or key.endswith("/s"):
                row[key] = value
        rows.append(row)
    return context, rows


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
    result = {"machine": arguments.machine, "commit": arguments.commit,
              "date": datetime.date.today().isoformat(), "context": context, "results": rows}
    with open(arguments.out, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
        file.write("\n")

    print("| benchmark | sizes | time | rate | share of the limit |\n|---|---|---|---|---|")
    for row in rows:
        sizes = ", ".join(f"{k} {v}" for k, v in row["sizes"].items())
        rate = next(f"{value:.0f} {key}" if value < 1e4 else f"{value / 1e6:.0f} M{key}" for key, value in row.items()
                    if key.endswith("/s"))
        share = next(value for key, value in row.items() if "share" in key)
        time = row["microseconds"]
        shown = f"{time:.1f} µs" if time < 1000 else f"{time / 1000:.2f} ms"
        name = row["benchmark"].replace("<", " ").replace(">", "")
        print(f"| {name} | {sizes} | {shown} | {rate} | {100 * share:.0f} % |")


if __name__ == "__main__":
    main()
