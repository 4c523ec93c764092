#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws docs/pictures/dependencies.svg: the folders of include/seqprim from left to right.

  scripts/docs/dependencies.py        tests/structure/source_tree.hpp has the same columns, and checks every #include
"""
import pathlib

COLUMNS = [
    ("foundations", "#5b7a99", "#dfe7ef", [("core", ["indices, views,", "float16, errors,", "parallel loop, Philox"])]),
    ("instructions", "#4f8a6d", "#dcebe4", [("arch", ["SIMD registers,", "tile engine,", "math on lanes"])]),
    ("rows, matrices", "#3f8a8a", "#d9ecec", [("linalg", ["matrix product,", "row reductions,", "workspaces"])]),
    ("values", "#b98a2e", "#f6ead2", [("mask", ["which keys a query", "attends to"]), ("score", ["how a logit changes"]),
                                      ("position", ["where a token is"])]),
    ("kernels", "#b0683f", "#f3dfd3", [("attention", ["forward, backward,", "decode, merge"]),
                                       ("sampling", ["typed chains that", "end in one draw"])]),
    ("models", "#7d62a6", "#e6def0", [("nn", ["layers, decoder,", "optimizer"]), ("loss", ["cross entropy"])]),
    ("files", "#6f6f6f", "#ececec", [("io", ["safetensors,", "checkpoints"])]),
]
WIDTH, GAP, LEFT, TOP, HEIGHT = 142, 36, 24, 78, 344


def text(x, y, size, words, fill="#444", bold=False, anchor="middle"):
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"{weight}>{words}</text>'


def draw():
    total = 2 * LEFT + len(COLUMNS) * WIDTH + (len(COLUMNS) - 1) * GAP
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} 472" width="{total}" height="472" '
           'font-family="Helvetica, Arial, sans-serif" role="img" aria-labelledby="title">',
           '<title id="title">Folders of seqprim from left to right; each includes only what is to its left</title>',
           f'<rect width="{total}" height="472" rx="10" fill="#ffffff"/>',
           '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
           '<path d="M0 0 L10 5 L0 10 z" fill="#444"/></marker></defs>',
           text(LEFT, 36, 20, "A folder includes only what is to its left", "#222", True, "start"),
           text(LEFT, 58, 13, "include/seqprim/&lt;folder&gt; = namespace seqprim::&lt;folder&gt; (core: seqprim itself). "
                "Folders of one column do not include each other.", "#555", anchor="start")]
    for n, (name, ink, ground, folders) in enumerate(COLUMNS):
        x = LEFT + n * (WIDTH + GAP)
        middle = x + WIDTH / 2
        out += [f'<rect x="{x}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{ground}"/>',
                text(middle, TOP + 22, 13, name, ink, True)]
        room = (HEIGHT - 40) / len(folders)
        for k, (folder, words) in enumerate(folders):
            height = 44 + 15 * len(words)
            y = TOP + 34 + k * room + (room - height) / 2
            out += [f'<rect x="{x + 10}" y="{y:.0f}" width="{WIDTH - 20}" height="{height}" rx="6" fill="#fff" '
                    f'stroke="{ink}" stroke-width="1.5"/>', text(middle, round(y + 25), 16, folder, "#222", True)]
            out += [text(middle, round(y + 43 + 15 * i), 11, line) for i, line in enumerate(words)]
        if n:
            out += [f'<line x1="{x - 4}" y1="250" x2="{x - GAP + 5}" y2="250" stroke="#444" stroke-width="2" marker-end="url(#tip)"/>',
                    text(x - GAP / 2, 242, 10, "uses")]
    out.append(text(LEFT, 450, 13, "Only arch contains intrinsics, only .cuh files need nvcc, only io needs a JSON parser. "
                    "A test reads every #include and checks the arrows.", "#555", anchor="start"))
    return "\n".join([*out, "</svg>"]) + "\n"


if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parents[2]
    (root / "docs/pictures/dependencies.svg").write_text(draw())
