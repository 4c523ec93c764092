#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws a result file of compare.py:   plots.py RESULT.json FOLDER   writes bench_{shares,peers,decode,lengths}.svg there.

Needs matplotlib (benchmarks/peers/setup.sh). The same numbers give the same bytes.
"""
import json
import pathlib
import re
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from summary import Results  # noqa: E402

COLOURS = {"bfloat16": "#2a6fb0", "float": "#e08a2e", "int8": "#5a9a4a"}
INK, GRID, MARK = "#1a1a1a", "#e4e4e4", "#b3261e"
plt.rcParams |= {"svg.hashsalt": "seqprim", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 9, "axes.edgecolor": "#999999",
                 "axes.spines.top": False, "axes.spines.right": False, "text.color": INK, "axes.labelcolor": INK,
                 "xtick.color": "#555555", "ytick.color": INK, "axes.titlesize": 10, "axes.titlelocation": "left",
                 "figure.facecolor": "white"}


def type_of(row):
    return re.search(r"<(.*)>", row["benchmark"])[1]


def save(figure, folder, name):
    figure.savefig(folder / f"bench_{name}.svg", metadata={"Date": None}, bbox_inches="tight", pad_inches=0.12)
    plt.close(figure)


def bars(axis, groups, unit, form, limit=None):
    """Horizontal bars: groups = [(label, {type: value}, target or None)], the first on top."""
    y, ticks = 0.0, []
    height = 0.36
    for label, values, goals in groups:
        kinds = [kind for kind in COLOURS if kind in values]
        start = y
        for kind in kinds:
            axis.barh(y, values[kind], height * 0.92, color=COLOURS[kind])
            axis.annotate(form.format(values[kind]), (values[kind], y), (3, 0), textcoords="offset points", va="center",
                          fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85})
            if kind in goals:
                axis.plot([goals[kind]] * 2, [y - height / 2, y + height / 2], color=MARK, linewidth=2)
            y += height
        ticks.append(((start + y - height) / 2, label))
        y += 0.22
    axis.set_yticks([position for position, _ in ticks], [label for _, label in ticks])
    axis.set_ylim(y - height / 2, -height)
    axis.set_xlabel(unit)
    axis.set_xlim(0, limit)
    axis.grid(axis="x", color=GRID)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
    return height


def legend(axis, kinds, **more):
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[kind]) for kind in kinds]
    handles.append(plt.Line2D([], [], color=MARK, linewidth=2))
    axis.legend(handles, [*kinds, "target"], frameon=False, **more)


def shares(results, context, folder):
    wanted = [("forward, full, S 4096, d 64", "forward_full", dict(seq=4096, dim=64), {"bfloat16": 35}),
              ("forward, full, S 4096, d 128", "forward_full", dict(seq=4096, dim=128), {"bfloat16": 55, "float": 70}),
              ("forward, full, S 4096, d 256", "forward_full", dict(seq=4096, dim=256), {"bfloat16": 65}),
              ("forward, causal, S 1024, d 64", "forward_causal", dict(seq=1024, dim=64), {}),
              ("forward, causal, S 4096, d 128", "forward_causal", dict(seq=4096, dim=128), {}),
              ("forward, causal, S 8192, d 128", "forward_causal", dict(seq=8192, dim=128), {}),
              ("forward, window 1024, S 32768, d 128", "forward_window", dict(seq=32768, dim=128), {}),
              ("backward, full, S 4096, d 128", "backward_full", dict(seq=4096, dim=128), {"bfloat16": 40, "float": 55}),
              ("backward, causal, S 4096, d 128", "backward_causal", dict(seq=4096, dim=128), {}),
              ("backward, window 1024, S 32768, d 128", "backward_window", dict(seq=32768, dim=128), {}),
              ("decode, 1 query, S 32768, d 128", "decode_(one|int8)", dict(seq=32768, dim=128), {"bfloat16": 85})]
    groups = []
    for label, name, sizes, goals in wanted:
        values = {}
        for row in results.find(f"{name}<.*>", **sizes):
            kind = "int8" if "int8" in row["benchmark"] else type_of(row)
            if kind in COLOURS and "share_of_roof" in row:
                values[kind] = 100 * row["share_of_roof"]
        if values:
            groups.append((label, values, goals))
    if not groups:
        return
    figure, axis = plt.subplots(figsize=(8.2, 0.25 * sum(len(g[1]) + 0.6 for g in groups) + 1))
    bars(axis, groups, "% of the limit of one thread, measured in the same process", "{:.0f}", 112)
    axis.axvline(100, color="#999999", linewidth=0.8, linestyle=":")
    axis.set_title(f"Attention, share of the limit: {context['bfloat16_roof_GFLOP/s']:.0f} GFLOP/s bfloat16, "
                   f"{context['fma_roof_GFLOP/s']:.0f} GFLOP/s float, {context['read_roof_GB/s']:.0f} GB/s for decode", pad=22)
    legend(axis, [k for k in COLOURS if any(k in g[1] for g in groups)], loc="lower left", bbox_to_anchor=(-0.01, 0.995),
           ncols=4)
    save(figure, folder, "shares")


PEER_LABELS = {"forward_full": "forward, full", "forward_causal": "forward, causal", "backward_full": "backward, full",
               "backward_causal": "backward, causal", "decode_one": "decode, 1 query, 8 heads",
               "decode_grouped": "decode, 1 query, 32 heads on 8", "short_full": "forward, full, 8 heads",
               "short_causal": "forward, causal, 8 heads", "same_tiles_causal": "causal", "per_tile_window": "window 1024",
               "per_tile_prefix": "prefix 1024", "per_tile_documents_and_causal": "8 documents, causal",
               "score_soft_cap": "soft cap, causal", "score_alibi": "ALiBi, causal",
               "score_soft_cap_then_alibi": "soft cap + ALiBi, causal", "two_threads_full": "forward, full, 2 threads",
               "two_threads_causal": "forward, causal, 2 threads"}


def peers(results, folder, version):
    goals = {"sdpa": {"bfloat16": 2.0, "float": 1.3}, "flex": {"bfloat16": 3.0, "float": 3.0}}
    panels = {"forward": ("scaled_dot_product_attention, forward", {}),
              "other": ("scaled_dot_product_attention, backward and decode", {}),
              "flex": ("FlexAttention", {})}
    for peer in results.peers:
        case = peer["case"]
        if "ratio" not in peer:
            continue
        name = PEER_LABELS.get(peer["benchmark"].split("<")[0], peer["benchmark"].split("<")[0])
        where = "flex" if case["api"] == "flex" else "forward" if case["op"] == "forward" else "other"
        label = f"{name}, S {case['seq']}, d {case['dim']}"
        panels[where][1].setdefault(label, ({}, goals[case["api"]]))[0][case["type"]] = peer["ratio"]
    panels = {where: panel for where, panel in panels.items() if panel[1]}
    if not panels:
        return
    lines = {where: len(groups) + 2 for where, (_, groups) in panels.items()}
    right = [where for where in ("other", "flex") if where in panels]
    height = max(lines.get("forward", 0), sum(lines[where] for where in right))
    figure = plt.figure(figsize=(12.5, 0.42 * height), layout="constrained")
    left_part, right_part = figure.subfigures(1, 2) if "forward" in panels and right else (figure, figure)
    axes = {}
    if "forward" in panels:
        axes["forward"] = left_part.subplots()
    if right:
        made = right_part.subplots(len(right), 1, squeeze=False, height_ratios=[lines[where] for where in right])
        axes |= dict(zip(right, made[:, 0]))
    for where, axis in axes.items():
        title, groups = panels[where]
        highest = max(max(values.values()) for values, _ in groups.values())
        bars(axis, [(label, values, goal) for label, (values, goal) in groups.items()],
             f"speed, times that of PyTorch {version}", "{:.2f}", 1.15 * highest)
        axis.axvline(1, color="#555555", linewidth=1)
        axis.set_title(title)
    legend(next(iter(axes.values())), ["bfloat16", "float"], loc="upper right")
    save(figure, folder, "peers")


def decode(results, context, folder):
    one = {}
    for row in results.find("decode_(one|int8)<.*>", dim=128):
        kind = "int8" if "int8" in row["benchmark"] else type_of(row)
        one.setdefault(f"S {row['sizes']['seq']}", {})[kind] = row["GB/s"]
    if not one:
        return
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.1), gridspec_kw={"wspace": 0.35})
    roof = context["read_roof_GB/s"]
    bars(left, [(label, values, {}) for label, values in one.items()], "GB/s read from the cache of keys and values",
         "{:.0f}", 1.25 * max(roof, *(v for values in one.values() for v in values.values())))
    left.axvline(roof, color=MARK, linewidth=1.5)
    left.set_title("Decode, one query, 8 heads, d 128", pad=22)
    left.legend([plt.Rectangle((0, 0), 1, 1, color=COLOURS[k]) for k in COLOURS if any(k in v for v in one.values())] +
                [plt.Line2D([], [], color=MARK)], [k for k in COLOURS if any(k in v for v in one.values())] + ["reading"],
                frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=4, fontsize=8)
    for kind in COLOURS:
        rows = sorted(((int(r["sizes"]["queries"]), r["microseconds"]) for r in results.find(f"decode_grouped<{kind}>")))
        if rows:
            right.plot([q for q, _ in rows], [t / 1000 for _, t in rows], marker="o", markersize=4, color=COLOURS[kind],
                       label=kind)
    right.set_xscale("log", base=2)
    right.set_yscale("log")
    right.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    right.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    right.set_xlabel("queries of each of 32 heads")
    right.set_ylabel("ms")
    right.grid(color=GRID)
    right.set_title("Decode, 32 heads on 8, S 8192, d 128", pad=22)
    right.legend(frameon=False, loc="lower right", fontsize=8)
    save(figure, folder, "decode")


def lengths(results, folder):
    lines = [("forward_full", "full, forward", "#2a6fb0", "-"), ("forward_causal", "causal, forward", "#e08a2e", "-"),
             ("forward_window", "window 1024, forward", "#5a9a4a", "-"),
             ("backward_full", "full, backward", "#2a6fb0", "--"), ("backward_causal", "causal, backward", "#e08a2e", "--"),
             ("backward_window", "window 1024, backward", "#5a9a4a", "--")]
    kinds = [kind for kind in ("bfloat16", "float") if results.find(f"forward_full<{kind}>", dim=128)]
    if not kinds:
        return
    figure, axes = plt.subplots(1, len(kinds), figsize=(8.6, 3.9), sharey=True, squeeze=False, gridspec_kw={"wspace": 0.08})
    for axis, kind in zip(axes[0], kinds):
        for name, label, color, dash in lines:
            points = sorted((int(r["sizes"]["seq"]), r["microseconds"] / 1000) for r in results.find(f"{name}<{kind}>", dim=128))
            if points:
                axis.plot(*zip(*points), dash, marker="o", markersize=3.5, color=color, label=label)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ticks = [64, 256, 1024, 4096, 16384]
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.set_xlabel("tokens")
        axis.set_title(f"{kind}, d 128, one head, one thread")
        axis.grid(color=GRID)
    axes[0, 0].set_ylabel("ms")
    axes[0, 0].legend(frameon=False, fontsize=8, loc="lower right")
    save(figure, folder, "lengths")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    result = json.loads(pathlib.Path(sys.argv[1]).read_text())
    folder = pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    results, context = Results(result), result["context"]
    shares(results, context, folder)
    peers(results, folder, result.get("peers", {}).get("torch", "").split("+")[0])
    decode(results, context, folder)
    lengths(results, folder)


if __name__ == "__main__":
    main()
