#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes what follows from other files: in README.md and docs/ quoted code, reference pages and their list; and the umbrella
headers of the folders of small primitives.

  scripts/update_docs.py            updates the documents
  scripts/update_docs.py --check    exits 1 and shows the difference when a document is out of date

Code is quoted from sources that are compiled and run. In a document,

    <!-- example: tests/consume/user/CMakeLists.txt minimal -->
    ```cmake
    ```

receives the lines between "// example-begin minimal" and "// example-end minimal" ("#" in CMake files and scripts) of that
file, without their common indentation; `<!-- file: examples/x/x.cpp -->` receives a whole file without its first comment.

Reference pages take signature, formula, members and fields from the comments of their header (scripts/docs/pages.py says
which parts). The page of a new header is made here, with the example of its name from tests/<folder>/ if there is one.
"""
import argparse
import difflib
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "docs"))

import comment  # noqa: E402
import cpp_header  # noqa: E402
import pages  # noqa: E402

FOLDERS = ["mask", "score", "position", "attention", "sampling", "nn", "loss", "io", "linalg", "core", "arch"]
# Folders whose umbrella header includes all of their headers, but for these.
UMBRELLAS = {"mask": [], "score": ["number"], "position": [], "sampling": ["reference"]}
# Machinery that the pages of what uses it explain.
NO_PAGE = {"core/bits", "core/config", "core/scratch", "core/target", "linalg/buffer"}


class DocumentError(Exception):
    pass


def quote(root, file, name):
    """The lines between the markers `name` of `file`, without their common indentation."""
    path = root / file
    if not path.is_file():
        raise DocumentError(f"cannot read {file}")
    lines, inside, found = [], False, False
    for line in path.read_text().split("\n"):
        if re.match(rf"\s*(//|#) example-end {re.escape(name)}$", line):
            inside = False
        if inside:
            lines.append(line)
        if re.match(rf"\s*(//|#) example-begin {re.escape(name)}$", line):
            inside = found = True
    if not found or not lines:
        raise DocumentError(f'no "example-begin {name}" in {file}')
    if inside:
        raise DocumentError(f'no "example-end {name}" in {file}')
    indent = min((len(line) - len(line.lstrip(" ")) for line in lines if line.strip()), default=0)
    return [line[indent:] for line in lines]


def whole(root, file):
    """A file without its license line, the comment that introduces it, and the markers of quotations."""
    path = root / file
    if not path.is_file():
        raise DocumentError(f"cannot read {file}")
    lines = path.read_text().rstrip("\n").split("\n")
    while lines and (re.match(r"(//|#)", lines[0]) and not lines[0].startswith("#include") or lines[0] == ""):
        lines.pop(0)
    return [line for line in lines if not re.match(r"\s*(//|#) example-(begin|end) ", line)]


def options(text):
    """Headers, title and names of a head or details comment."""
    title = re.search(r'title="([^"]*)"', text)
    only = re.search(r"only=([^\s]+)", text)
    rest = re.sub(r'title="[^"]*"|only=\S+', "", text)
    return rest.split(), title.group(1) if title else None, set(only.group(1).split(",")) if only else None


def fresh(root, library, page, text):
    """The document with up-to-date generated parts, and the number of these."""
    reference = page.removeprefix("docs/reference/")
    result, parts, number = [], 0, 0
    lines = text.split("\n")
    while number < len(lines):
        line = lines[number]
        number += 1
        result.append(line)
        example = re.fullmatch(r"<!-- (?:example: (\S+) (\S+)|file: (\S+)) -->", line)
        generated = re.fullmatch(r"<!-- (head|details): (.*) -->", line)
        try:
            if example:
                if number >= len(lines) or not re.fullmatch(r"```[a-z]+", lines[number]):
                    raise DocumentError("a code block must follow the comment")
                result.append(lines[number])
                result += whole(root, example[3]) if example[3] else quote(root, example[1], example[2])
                while number < len(lines) and lines[number] != "```":
                    number += 1
                if number == len(lines):
                    raise DocumentError("the code block after the comment does not end")
                parts += 1
            elif generated:
                paths, title, only = options(generated[2])
                if generated[1] == "head":
                    result += pages.head(library, reference, paths, title, only)
                else:
                    result += pages.details(library, reference, paths, only)
                while number < len(lines) and lines[number] != "<!-- end -->":
                    number += 1
                if number == len(lines):
                    raise DocumentError("<!-- end --> is missing")
                parts += 1
        except (DocumentError, pages.PageError, cpp_header.ParseError) as error:
            raise DocumentError(f"{page}:{number}: {error}") from None
    return "\n".join(result), parts


def reference_index(documents):
    """The list of reference pages, folders from left to right as they depend on each other."""
    lines = ["[docs](../index.md) > reference", "", "# Reference", "", "A page for each primitive, by folder."]
    for folder in FOLDERS:
        listed = sorted(page for page in documents if page.startswith(f"docs/reference/{folder}/"))
        if not listed:
            continue
        lines += ["", f"## {folder}", "", "| page | |", "|---|---|"]
        for page in listed:
            title, text = pages.summary(documents[page].split("\n"))
            text = re.sub(r"(?<!\\)\|", r"\\|", text)
            lines.append(f"| [{title}]({page.removeprefix('docs/reference/')}) | {text} |")
    return "\n".join(lines) + "\n"


def new_pages(root, library):
    """Pages for headers that have none."""
    result = {}
    for file in sorted((root / "include/seqprim").glob("*/*.hpp")):
        folder, stem = file.parent.name, file.stem
        path = f"{folder}/{file.name}"
        if f"{folder}/{stem}" in NO_PAGE or folder in ("arch", stem) or stem in ("reference", "tuning") or \
                (root / f"docs/reference/{folder}/{stem}.md").exists():
            continue
        text = file.read_text()
        if re.search(rf"docs/reference/{folder}/\w+\.md", text):  # the page of a neighbor explains it
            if f"docs/reference/{folder}/{stem}.md" not in text:
                continue
        if not any(d.documented for d in library.header(path).declarations):
            continue
        example = None
        for test in [f"tests/{folder}/{stem}_test.cpp", f"tests/{folder}/pages_test.cpp"]:
            if (root / test).is_file() and re.search(rf"example-begin {stem}$", (root / test).read_text(), re.M):
                example = f"{test} {stem}"
                break
        page = f"docs/reference/{folder}/{stem}.md"
        result[page] = "\n".join(pages.skeleton(page, path, example)) + "\n"
    return result


def umbrella(folder, text, left_out):
    """The text of <folder>/<folder>.hpp with an include for every header of the folder."""
    names = [f.name for f in sorted(folder.glob("*.hpp")) if f.stem not in [folder.name, *left_out]]
    lines = [line for line in text.rstrip("\n").split("\n") if not line.startswith("#include")]
    return "\n".join(lines + [f"#include <seqprim/{folder.name}/{name}>" for name in names]) + "\n"


def update(root, check, out=sys.stdout):
    """Updates or checks every document; the number of those that are, or were, out of date."""
    library = pages.Library(root / "include/seqprim")
    old = {"README.md": (root / "README.md").read_text()} if (root / "README.md").is_file() else {}
    for file in sorted((root / "docs").rglob("*.md")):
        old[str(file.relative_to(root))] = file.read_text()
    new, parts = {}, 0
    for page, text in {**old, **new_pages(root, library)}.items():
        if page == "docs/reference/index.md":
            continue
        new[page], count = fresh(root, library, page, text)
        parts += count
    if (root / "docs/reference").is_dir():
        new["docs/reference/index.md"] = reference_index(new)
    for folder, left_out in UMBRELLAS.items():
        file = root / f"include/seqprim/{folder}/{folder}.hpp"
        if file.is_file():
            path = str(file.relative_to(root))
            old[path] = file.read_text()
            new[path] = umbrella(file.parent, old[path], left_out)
    stale = [page for page in sorted(new) if new[page] != old.get(page)]
    for page in stale:
        if check:
            out.writelines(difflib.unified_diff(old.get(page, "").splitlines(True), new[page].splitlines(True), page,
                                                page + " (fresh)"))
        else:
            (root / page).parent.mkdir(parents=True, exist_ok=True)
            (root / page).write_text(new[page])
            print(f"[seqprim] updated {page}", file=out)
    if check and stale:
        print(f"[seqprim] {len(stale)} documents are out of date; run scripts/update_docs.py", file=out)
    elif not stale:
        print(f"[seqprim] {parts} generated parts in {len(new)} documents are up to date", file=out)
    return len(stale)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a document is out of date")
    arguments = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parent.parent
    try:
        stale = update(root, arguments.check)
    except DocumentError as error:
        sys.exit(f"[seqprim] error: {error}")
    sys.exit(1 if arguments.check and stale else 0)


if __name__ == "__main__":
    main()
