#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws a result file of compare.py:   plots.py RESULT.json FOLDER   writes bench_{summary,shares,peers,decode,lengths}.svg there.

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


def bars(axis, groups, unit, form, limit=None, start=0, height=0.36):
    """Horizontal bars from `start`: groups = [(label, {type: value})], the first on top."""
    y, ticks = 0.0, []
    for label, values in groups:
        kinds = [kind for kind in COLOURS if kind in values]
        top = y
        for kind in kinds:
            axis.barh(y, values[kind] - start, height * 0.92, left=start, color=COLOURS[kind])
            axis.annotate(form.format(values[kind]), (values[kind], y), (3, 0), textcoords="offset points", va="center",
                          fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85})
            y += height
        ticks.append(((top + y - height) / 2, label))
        y += 0.22
    axis.set_yticks([position for position, _ in ticks], [label for _, label in ticks])
    axis.set_ylim(y - height / 2, -height)
    axis.set_xlabel(unit)
    if limit:
        axis.set_xlim(0, limit)
    axis.grid(axis="x", color=GRID)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
    return height


def legend(axis, kinds, **more):
    axis.legend([plt.Rectangle((0, 0), 1, 1, color=COLOURS[kind]) for kind in kinds], kinds, frameon=False, **more)


def shares(results, context, folder):
    wanted = [("forward, full, S 4096, d 64", "forward_full", dict(seq=4096, dim=64)),
              ("forward, full, S 4096, d 128", "forward_full", dict(seq=4096, dim=128)),
              ("forward, full, S 4096, d 256", "forward_full", dict(seq=4096, dim=256)),
              ("forward, causal, S 1024, d 64", "forward_causal", dict(seq=1024, dim=64)),
              ("forward, causal, S 4096, d 128", "forward_causal", dict(seq=4096, dim=128)),
              ("forward, causal, S 8192, d 128", "forward_causal", dict(seq=8192, dim=128)),
              ("forward, window 1024, S 32768, d 128", "forward_window", dict(seq=32768, dim=128)),
              ("backward, full, S 4096, d 128", "backward_full", dict(seq=4096, dim=128)),
              ("backward, causal, S 4096, d 128", "backward_causal", dict(seq=4096, dim=128)),
              ("backward, window 1024, S 32768, d 128", "backward_window", dict(seq=32768, dim=128)),
              ("decode, 1 query, S 32768, d 128", "decode_(one|int8)", dict(seq=32768, dim=128))]
    groups = []
    for label, name, sizes in wanted:
        values = {}
        for row in results.find(f"{name}<.*>", **sizes):
            kind = "int8" if "int8" in row["benchmark"] else type_of(row)
            if kind in COLOURS and "share_of_roof" in row:
                values[kind] = 100 * row["share_of_roof"]
        if values:
            groups.append((label, values))
    if not groups:
        return
    figure, axis = plt.subplots(figsize=(8.2, 0.25 * sum(len(g[1]) + 0.6 for g in groups) + 1))
    bars(axis, groups, "% of the limit of one thread, measured in the same process", "{:.0f}", 112)
    axis.axvline(100, color="#999999", linewidth=0.8, linestyle=":")
    axis.set_title(f"Share of the limit: {context['bfloat16_roof_GFLOP/s']:.0f} GFLOP/s bfloat16, "
                   f"{context['fma_roof_GFLOP/s']:.0f} GFLOP/s float; decode: {context['read_roof_GB/s']:.0f} GB/s", pad=22)
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


def ratio_axis(axis, highest):
    """Ratios of speeds on one scale: 1, 2, 4, ... and a line where both are equal."""
    axis.set_xscale("log", base=2)
    top = 1
    while top < 1.2 * highest:
        top *= 2
    axis.set_xlim(0.93, top)
    ticks = [2**n for n in range(0, 10) if 2**n <= top]
    axis.set_xticks(ticks, [f"{tick} x" for tick in ticks])
    axis.minorticks_off()
    axis.axvline(1, color="#555555", linewidth=1)


def peer_groups(results, wanted):
    """{label: {type: ratio}} of the pairs that `wanted` accepts."""
    groups = {}
    for peer in results.peers:
        case, name = peer["case"], peer["benchmark"].split("<")[0]
        if "ratio" in peer and wanted(peer):
            label = f"{PEER_LABELS.get(name, name)}, S {case['seq']}, d {case['dim']}"
            groups.setdefault(label, {})[case["type"]] = peer["ratio"]
    return groups


def peers(results, folder, version):
    panels = {"forward": ("scaled_dot_product_attention, forward",
                          peer_groups(results, lambda p: p["case"]["api"] == "sdpa" and p["case"]["op"] == "forward")),
              "other": ("scaled_dot_product_attention, backward and decode",
                        peer_groups(results, lambda p: p["case"]["api"] == "sdpa" and p["case"]["op"] != "forward")),
              "flex": ("FlexAttention, forward and decode", peer_groups(results, lambda p: p["case"]["api"] == "flex"))}
    panels = {where: panel for where, panel in panels.items() if panel[1]}
    if not panels:
        return
    highest = max(max(values.values()) for _, groups in panels.values() for values in groups.values())
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
        bars(axis, list(groups.items()), f"speed, times that of PyTorch {version}", "{:.1f}", start=1)
        ratio_axis(axis, highest)
        axis.set_title(title)
    legend(next(iter(axes.values())), ["bfloat16", "float"], loc="lower right")
    save(figure, folder, "peers")


SUMMARY = [("forward, full", "sdpa", "forward_full", 4096), ("forward, causal", "sdpa", "forward_causal", 4096),
           ("backward, full", "sdpa", "backward_full", 4096), ("backward, causal", "sdpa", "backward_causal", 4096),
           ("decode, 32k keys", "sdpa", "decode_one", 32768), ("window 1024 (FlexAttention)", "flex", "per_tile_window", 4096),
           ("documents & causal (FlexAttention)", "flex", "per_tile_documents_and_causal", 4096),
           ("soft cap | ALiBi (FlexAttention)", "flex", "score_soft_cap_then_alibi", 4096)]


def summary_plot(results, folder, machine, version):
    """What the front page shows: a few ratios at S 4096, d 128."""
    groups = []
    for label, api, name, seq in SUMMARY:
        values = {p["case"]["type"]: p["ratio"] for p in results.peers
                  if "ratio" in p and p["case"]["api"] == api and p["benchmark"].split("<")[0] == name
                  and p["case"]["seq"] == seq and p["case"]["dim"] == 128 and p["threads"] == 1}
        if values:
            groups.append((label, values))
    if not groups:
        return
    figure, axis = plt.subplots(figsize=(8.2, 0.2 * sum(len(v) + 0.6 for _, v in groups) + 1.1))
    bars(axis, groups, f"speed, times that of PyTorch {version} (S 4096 unless stated, d 128)", "{:.1f}", start=1)
    ratio_axis(axis, max(max(values.values()) for _, values in groups))
    axis.set_title(f"Attention on one thread, {machine}", pad=22)
    legend(axis, [k for k in ("bfloat16", "float") if any(k in v for _, v in groups)], loc="lower left",
           bbox_to_anchor=(-0.01, 0.99), ncols=2)
    save(figure, folder, "summary")


def decode(results, context, folder):
    one = {}
    for row in results.find("decode_(one|int8)<.*>", dim=128):
        kind = "int8" if "int8" in row["benchmark"] else type_of(row)
        one.setdefault("S 4096,\npartly in L3" if row["sizes"]["seq"] == "4096" else f"S {row['sizes']['seq']}", {})[kind] = row["GB/s"]
    if not one:
        return
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.1), gridspec_kw={"wspace": 0.35})
    roof = context["read_roof_GB/s"]
    bars(left, list(one.items()), "GB/s read from the cache of keys and values",
         "{:.0f}", 1.25 * max(roof, *(v for values in one.values() for v in values.values())))
    left.axvline(roof, color=MARK, linewidth=1.5)
    left.set_title("Decode, one query, 8 heads, d 128", pad=22)
    left.legend([plt.Rectangle((0, 0), 1, 1, color=COLOURS[k]) for k in COLOURS if any(k in v for v in one.values())] +
                [plt.Line2D([], [], color=MARK)], [k for k in COLOURS if any(k in v for v in one.values())] + ["bandwidth of memory"],
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
    right.set_xlabel("queries per head")
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
    version = result.get("peers", {}).get("torch", "").split("+")[0]
    summary_plot(results, folder, result["machine"], version)
    shares(results, context, folder)
    peers(results, folder, version)
    decode(results, context, folder)
    lengths(results, folder)


if __name__ == "__main__":
    main()
