# SPDX-License-Identifier: Apache-2.0
"""What a result file of compare.py says: the targets and whether they are reached, the ratios to PyTorch, Markdown of both.

Nothing here measures or draws. A target that is missed, or was not measured, stays in the table.
"""
import math
import re

from table import markdown, shown_time

NO_REASON = "not explained yet"


class Results:
    """The rows of a result file, found by name."""

    def __init__(self, result):
        self.context = result.get("context", {})
        self.rows = [row for row in result["results"] if "error" not in row]
        self.peers = result.get("peers", {}).get("results", [])

    def find(self, pattern, **sizes):
        """Rows whose name matches the whole pattern and whose sizes are these."""
        return [row for row in self.rows if re.fullmatch(pattern, row["benchmark"])
                and all(row["sizes"].get(key) == str(value) for key, value in sizes.items())]

    def values(self, counter, pattern, **sizes):
        """[(value, where)] of a counter."""
        return [(row[counter], label(row)) for row in self.find(pattern, **sizes) if counter in row]

    def ratios(self, api, dtype=None):
        """[(time of PyTorch / own time, where)] of the pairs that were measured."""
        return [(peer["ratio"], label(peer)) for peer in self.peers
                if "ratio" in peer and peer["case"]["api"] == api and dtype in (None, peer["case"]["type"])]


def label(row):
    sizes = ", ".join(f"{key} {value}" for key, value in row["sizes"].items())
    return f"{row['benchmark']} {sizes}"


def share(pattern, **sizes):
    return lambda results: results.values("share_of_roof", pattern, **sizes)


def speedups(results, counter, pattern, **sizes):
    return [(1 / value, where) for value, where in results.values(counter, pattern, **sizes)]


# (key, what, relation, goal, form, measured). `measured` gives [(value, where)]; the worst of them is judged, as it is shown.
# {roof} is what the roof of bfloat16 is on the machine.
PERCENT, TIMES = "{:.0%}", "{:.2f} x"
TARGETS = [
    ("forward bf16 64", "forward bf16, full, S 4096, d 64, of the roof ({roof})", ">=", 0.35, PERCENT,
     share("forward_full<bfloat16>", seq=4096, dim=64)),
    ("forward bf16 128", "forward bf16, full, S 4096, d 128, of the roof ({roof})", ">=", 0.55, PERCENT,
     share("forward_full<bfloat16>", seq=4096, dim=128)),
    ("forward bf16 256", "forward bf16, full, S 4096, d 256, of the roof ({roof})", ">=", 0.65, PERCENT,
     share("forward_full<bfloat16>", seq=4096, dim=256)),
    ("forward float", "forward float, full, S 4096, d 128, of the FMA roof", ">=", 0.70, PERCENT,
     share("forward_full<float>", seq=4096, dim=128)),
    ("causal", "causal against full, S 8192", "<=", 0.53, TIMES,
     lambda r: r.values("x_of_full", "forward_causal_against_full<.*>", seq=8192)),
    ("window forward", "window 1024, time at 32k / time at 8k, forward", "<=", 4.2, TIMES,
     lambda r: r.values("x_of_quarter", "forward_window_growth<.*>", seq=32768)),
    ("window backward", "window 1024, time at 32k / time at 8k, backward", "<=", 4.2, TIMES,
     lambda r: r.values("x_of_quarter", "backward_window_growth<.*>", seq=32768)),
    ("masks", "mask compositions against causal, the same tiles", "<=", 1.05, TIMES,
     lambda r: r.values("x_of_causal", "same_tiles_(?!causal<).*")),
    ("masks per tile", "mask compositions against causal, other tiles, time per tile", "<=", 1.05, TIMES,
     lambda r: r.values("x_of_causal", "per_tile_.*")),
    ("scores", "score functors against causal", "<=", 1.15, TIMES, lambda r: r.values("x_of_causal", "score_.*")),
    ("backward bf16", "backward bf16, full, S 4096, d 128, of the roof ({roof})", ">=", 0.40, PERCENT,
     share("backward_full<bfloat16>", seq=4096, dim=128)),
    ("backward float", "backward float, full, S 4096, d 128, of the FMA roof", ">=", 0.55, PERCENT,
     share("backward_full<float>", seq=4096, dim=128)),
    ("decode bf16", "decode, one query, bf16 KV at 32k, of the read bandwidth", ">=", 0.85, PERCENT,
     share("decode_one<bfloat16>", seq=32768, dim=128)),
    ("decode int8", "decode, one query, int8 KV at 32k, speed against bf16 KV", ">=", 1.7, TIMES,
     lambda r: speedups(r, "x_of_bfloat16", "decode_int8.*", seq=32768)),
    ("short", "S 16 to 256, time against the best unfused version", "<=", 1.0, TIMES,
     lambda r: r.values("x_of_unfused", "short_.*")),
    ("two threads", "2 threads, speed against 1", ">=", 1.9, TIMES, lambda r: r.values("speedup", "two_threads_.*")),
    ("sdpa bf16", "speed against PyTorch SDPA, bf16", ">=", 2.0, TIMES, lambda r: r.ratios("sdpa", "bfloat16")),
    ("sdpa float", "speed against PyTorch SDPA, float", ">=", 1.3, TIMES, lambda r: r.ratios("sdpa", "float")),
    ("flex", "speed against PyTorch FlexAttention", ">=", 3.0, TIMES, lambda r: r.ratios("flex")),
]


def targets(result):
    """One dictionary for each target: key, what, goal and reached in words, verdict (reached, missed, not measured)."""
    results = Results(result)
    rows = []
    for key, what, relation, goal, form, measured in TARGETS:
        row = {"key": key, "what": what.format(roof=results.context.get("bfloat16_roof_of", "bfloat16 roof")),
               "goal": f"{'≥' if relation == '>=' else '≤'} {form.format(goal)}", "reached": "", "worst": "", "missed": []}
        values = sorted(measured(results), reverse=relation == "<=")
        if not values:
            rows.append(row | {"verdict": "not measured"})
            continue
        # Judged as shown: 1.004 x is 1.00 x.
        passes = lambda value: (number(form.format(value)) >= number(form.format(goal)) if relation == ">="
                                else number(form.format(value)) <= number(form.format(goal)))
        worst, where = values[0]
        row["reached"] = form.format(worst)
        if len(values) > 1:
            row["reached"] += f" (best {form.format(values[-1][0])}, {len(values)} cases)"
            row["worst"] = where
        row["missed"] = [(form.format(value), where) for value, where in values if not passes(value)]
        rows.append(row | {"verdict": "missed" if row["missed"] else "reached"})
    return rows


def number(text):
    return float(re.match(r"-?[0-9.]+", text).group())


def targets_markdown(result, reasons=None):
    """The target table. `reasons`, by key, fill the last column of what is missed."""
    lines = ["| | target | measured | worst case | verdict | why |", "|---|---|---|---|---|---|"]
    for row in targets(result):
        why = ""
        if row["verdict"] != "reached":
            why = (reasons or {}).get(row["key"]) or NO_REASON
        verdict = row["verdict"]
        if verdict == "missed" and row["worst"]:
            verdict = f"missed in {len(row['missed'])}"
        lines.append(f"| {row['key']} | {row['what']} {row['goal']} | {row['reached']} | {cell(row['worst'])} "
                     f"| {verdict} | {why} |")
    return "\n".join(lines)


def cell(text):
    return text.replace("<", " ").replace(">", "").replace("|", "\\|")


def reasons_in(text):
    """{key: reason} of a target table in Markdown: what was written by hand into its last column."""
    reasons = {}
    for line in text.splitlines():
        cells = [part.strip() for part in line.strip().strip("|").split("|")]
        if len(cells) == 6 and cells[0] in {target[0] for target in TARGETS} and cells[5] not in ("", NO_REASON):
            reasons[cells[0]] = cells[5]
    return reasons


def misses_markdown(result):
    """Every single case that misses a target, when a target has several."""
    lines = []
    for row in targets(result):
        if row["worst"] and row["missed"]:
            lines.append(f"- {row['key']} ({row['goal']}): " +
                         "; ".join(f"{cell(where)} {value}" for value, where in row["missed"]))
    return "\n".join(lines)


def peers_markdown(result):
    """Own time, time of PyTorch and the ratio, for each pair."""
    lines = ["| PyTorch | benchmark | sizes | type | threads | seqprim | PyTorch | speed |",
             "|---|---|---|---|---|---|---|---|"]
    for peer in result.get("peers", {}).get("results", []):
        case = peer["case"]
        name = peer["benchmark"].split("<")[0]
        head = (f"| {'SDPA' if case['api'] == 'sdpa' else 'FlexAttention'} | {name} "
                f"| {', '.join(f'{k} {v}' for k, v in peer['sizes'].items())} | {case['type']} | {peer['threads']} ")
        if "ratio" in peer:
            lines.append(head + f"| {shown_time(peer['microseconds'])} | {shown_time(peer['peer_microseconds'])} "
                                f"| {peer['ratio']:.2f} x |")
        else:
            lines.append(head + f"| | {peer.get('error', 'not measured')} | |")
    for api, title in (("sdpa", "SDPA"), ("flex", "FlexAttention")):
        for dtype in ("bfloat16", "float"):
            ratios = [value for value, _ in Results(result).ratios(api, dtype)]
            if ratios:
                mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
                lines.append(f"| {title} | geometric mean of {len(ratios)} | | {dtype} | | | | {mean:.2f} x |")
    return "\n".join(lines)


KERNELS = re.compile(r"(forward|backward|decode)_")
DUELS = re.compile(r".*(against|growth)")


def kernels_markdown(result):
    """Times and shares of the plain kernels."""
    return markdown([row for row in result["results"]
                     if KERNELS.match(row["benchmark"]) and not DUELS.match(row["benchmark"])])


def compositions_markdown(result):
    """What compositions cost, one line each, a column for each type."""
    costs = {}
    for row in Results(result).rows:
        match = re.fullmatch(r"((?:same_tiles|per_tile|score)_.*)<(.*)>", row["benchmark"])
        if match and "x_of_causal" in row:
            costs.setdefault(match[1], {"tiles": row["tiles"], "partial": row["partial_tiles"]})[match[2]] = row["x_of_causal"]
    lines = ["| composition | tiles visited | of these partial | float | bfloat16 |", "|---|---|---|---|---|"]
    for name, cost in costs.items():
        shown = [TIMES.format(cost[t]) if t in cost else "" for t in ("float", "bfloat16")]
        lines.append(f"| {name} | {cost['tiles']:.0f} | {cost['partial']:.0f} | {shown[0]} | {shown[1]} |")
    return "\n".join(lines)


def setup_markdown(result):
    """How and where it was measured, in one paragraph."""
    context = result["context"]
    peer = result.get("peers", {})
    text = (f"{result['machine']}, {result['compiler']}, {result['date']}, commit {result['commit']}, one thread unless "
            f"stated, medians of {result['rounds']} rounds. Limits of one thread: {context['fma_roof_GFLOP/s']:.0f} GFLOP/s fma, "
            f"{context['bfloat16_roof_GFLOP/s']:.0f} GFLOP/s bfloat16 ({context['bfloat16_roof_of']}), "
            f"{context['read_roof_GB/s']:.0f} GB/s reading.")
    if peer.get("torch"):
        text += f" PyTorch {peer['torch']} ({peer['capability']}), each shape measured in turn with ours."
    return text


def span(values, form="{:.1f}"):
    """The least and the largest of some ratios in words: "2.2 to 5.9 times", or "12 times"."""
    low, high = form.format(min(values)), form.format(max(values))
    return f"{low} times" if low == high else f"{low} to {high} times"


def peer_ratios(result, api, operation, dtype):
    return [peer["ratio"] for peer in Results(result).peers if "ratio" in peer and peer["case"]["api"] == api
            and peer["case"]["op"] == operation and peer["case"]["type"] == dtype]


def headline_markdown(result):
    """The numbers of a result in about five sentences."""
    results, lines = Results(result), []
    version = result.get("peers", {}).get("torch", "").split("+")[0]
    parts = []
    for operation, words in (("forward", "the forward pass"), ("backward", "the backward pass"), ("decode", "decoding one token")):
        pair = [peer_ratios(result, "sdpa", operation, dtype) for dtype in ("bfloat16", "float")]
        if all(pair):
            parts.append(f"{words} is {span(pair[0])} as fast in bfloat16 and {span(pair[1])} in float")
    if parts:
        lines.append(f"**Against PyTorch {version}** (`scaled_dot_product_attention`, on the same machine, in the same run) "
                     + "; ".join(parts) + ".")
    flex = [peer_ratios(result, "flex", "forward", dtype) for dtype in ("bfloat16", "float")]
    if all(flex):
        lines.append(f"**Against FlexAttention** under `torch.compile`, with the same masks and scores, the forward pass is {span(flex[0])} as fast in bfloat16 "
                     f"and {span(flex[1])} in float; it has no backward pass on a CPU.")

    def percent(pattern, **sizes):
        found = results.values("share_of_roof", pattern, **sizes)
        return f"{found[0][0]:.0%}".replace("%", " %") if found else "?"

    lines.append(f"**Share of the limit** (full attention, S 4096, d 128): forward {percent('forward_full<bfloat16>', seq=4096, dim=128)} "
                 f"of the multiply-add limit in bfloat16 and {percent('forward_full<float>', seq=4096, dim=128)} in float, backward "
                 f"{percent('backward_full<bfloat16>', seq=4096, dim=128)} and {percent('backward_full<float>', seq=4096, dim=128)}; "
                 f"decoding against 32k keys reads memory at {percent('decode_one<bfloat16>', seq=32768, dim=128)} of its bandwidth.")
    masks = [value for value, where in results.values("x_of_causal", "same_tiles_.*") if "dense" not in where]
    scores = [value for value, _ in results.values("x_of_causal", "score_.*")]
    if masks and scores:
        lines.append(f"**Composition:** masks that visit the same tiles as causal take {min(masks):.2f} to {max(masks):.2f} times its time "
                     f"(but for `dense`, a matrix that must be read), score modifiers {min(scores):.2f} to {max(scores):.2f} times.")
    slow = {peer["case"]["type"]: peer for peer in results.peers if peer["benchmark"].startswith("forward_full")
            and peer["case"]["seq"] == 4096 and peer["case"]["dim"] == 128 and "ratio" in peer}
    if len(slow) == 2:
        times = [slow[dtype]["peer_microseconds"] for dtype in ("bfloat16", "float")]
        if times[0] > 0.8 * times[1]:
            lines.append(f"**A caution:** PyTorch's bfloat16 kernel is no faster than its float kernel on this processor "
                         f"({shown_time(times[0])} and {shown_time(times[1])} for full attention, S 4096, d 128), so the float "
                         "ratios compare the algorithms more fairly.")
    return "\n\n".join(lines)


def claim_markdown(result):
    """One sentence for the front page."""
    forward = [peer_ratios(result, "sdpa", "forward", dtype) for dtype in ("bfloat16", "float")]
    backward = [peer_ratios(result, "sdpa", "backward", dtype) for dtype in ("bfloat16", "float")]
    if not all(forward + backward):
        return ""
    version = result["peers"]["torch"].split("+")[0]
    return (f"Measured on one thread of {article(result['machine'])} against `scaled_dot_product_attention` of PyTorch {version} in the "
            f"same run: forward {span(forward[0])} as fast in bfloat16 and {span(forward[1])} in float, backward "
            f"{span(backward[0])} and {span(backward[1])}.")


def article(machine):
    return f"{'an' if machine[0] in 'AEIOaeio' else 'a'} {machine}"


BLOCKS = {"headline": headline_markdown, "claim": claim_markdown, "setup": setup_markdown, "kernels": kernels_markdown, "compositions": compositions_markdown,
          "peers": peers_markdown, "misses": misses_markdown}


def update_page(page, result, blocks=BLOCKS):
    """The page with fresh text in those of its blocks that `blocks` names:   <!-- report: setup -->  ...  <!-- report end -->
    The target table, whose reasons are kept, is refreshed with BLOCKS."""
    def fresh(match):
        name, old = match[1], match[2]
        if name == "targets" and blocks is BLOCKS:
            text = targets_markdown(result, reasons_in(old))
        elif name in blocks:
            text = blocks[name](result)
        else:
            return match[0]
        return f"<!-- report: {name} -->\n{text}\n<!-- report end -->"

    return re.sub(r"<!-- report: (\w+) -->\n(.*?)<!-- report end -->", fresh, page, flags=re.DOTALL)
