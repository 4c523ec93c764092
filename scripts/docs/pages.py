# SPDX-License-Identifier: Apache-2.0
"""Reference pages: what a header says about itself, as Markdown.

A page holds two generated parts, each between a comment that names the headers and `<!-- end -->`:

    <!-- head: mask/causal.hpp -->        breadcrumb, title, description with its formula, include line, declaration
    <!-- details: mask/causal.hpp -->     members, fields (shapes, types, edge values, errors, cost, source), other declarations

Examples, relations to other pages and notes stand between and behind them and are written by hand. `title="..."` in the
first comment replaces the name of the main declaration; `only=a,b` in either names the declarations that the page shows.
"""
import re

import comment
import cpp_header

# Members that every primitive of a family has; the page of the family's rule describes them.
PROTOCOL = set("""operator() classify visible_keys key_bounds query_bounds group_at query_starts table_limits
    visible_labels key_label composition bind validate for_arrays
    derivative parameter_derivative row_derivative table_derivative table_size table_index table apply apply_transposed covers cutoff limit choose law visit_parameters
    operator=""".split())
# Nested types whose content only their owner uses.
OPAQUE = {"activations"}
BREADCRUMB = "[docs](../../index.md) > [reference](../index.md) > [{folder}](../index.md#{folder}) > {name}"


class PageError(Exception):
    pass


class Library:
    """The headers below a folder, read once each."""

    def __init__(self, root):
        self.root = root
        self.headers = {}

    def header(self, path):
        if path not in self.headers:
            file = self.root / path
            if not file.is_file():
                raise PageError(f"there is no header {path}")
            self.headers[path] = cpp_header.read(path, file.read_text())
        return self.headers[path]

    def reached(self, path="seqprim.hpp", seen=None):
        """Headers that `path` includes, directly or not."""
        seen = set() if seen is None else seen
        file = self.root / path
        if path not in seen and file.is_file():
            seen.add(path)
            for included in re.findall(r"#\s*include <seqprim/([^>]+)>", file.read_text()):
                self.reached(included, seen)
        return seen


# ------------------------------------------------------------------------------------------------------ declarations


def _split_commas(text):
    parts, depth, start = [], 0, 0
    for at, c in enumerate(text):
        if c in "([{" or (c == "<" and at and (text[at - 1].isalnum() or text[at - 1] in "_ e")
                          and not text[at - 1:at + 1] == " <"):
            depth += 1
        elif c in ")]}" or (c == ">" and depth and text[at - 1] not in "-="):
            depth -= 1
        elif c == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    return [*parts, text[start:].strip()]


def wrapped(text, indent="", width=100):
    """A declaration on as few lines as fit, broken behind commas."""
    if len(indent + text) <= width:
        return [indent + text]
    lines, line = [], indent
    for word in text.split(" "):
        if len(line.rstrip()) + 1 + len(word) > width and line.strip() and re.search(r"(?:[,(]| &&| \|\|)$", line.rstrip()):
            lines.append(line.rstrip())
            line = indent + "    "
        line += word + " "
    return [*lines, line.rstrip()]


def signature(declaration, indent=""):
    """The declaration as code, without its body."""
    text = declaration.text
    lines = []
    if declaration.kind == "concept":
        return [indent + line for line in declaration.source]
    while text.startswith("template"):  # on lines of their own
        end = cpp_header._angles(text, text.index("<"))
        lines += wrapped(text[:end], indent)
        text = text[end:].strip()
        if text.startswith("requires") and not declaration.kind == "concept":
            rest = cpp_header._without_constraints(text)
            lines += wrapped(text[:len(text) - len(rest)].strip(), indent)
            text = rest
    if len(lines) == 1 and len(lines[0]) + 1 + len(text) <= 100 and declaration.kind in ("struct", "class", "concept"):
        text, lines = lines[0].strip() + " " + text, []
    if declaration.kind == "enum":
        values = ", ".join(d.text for d in declaration.body)
        return wrapped(f"{text} {{ {values} }};", indent)
    if declaration.kind in ("struct", "class"):
        if declaration.name in OPAQUE:
            return [*lines, f"{indent}{text};"]
        members = synopsis(declaration, indent + "  ")
        if not members:
            return [*lines, indent + text + " {};"]
        return [*lines, indent + text + " {", *members, indent + "};"]
    return lines + wrapped(text + ";", indent)


def shown(declaration):
    """The members of a struct that its page shows."""
    result = []
    for d in declaration.body:
        if d.kind == "constructor" and ("= delete" in d.text or "= default" in d.text or
                                        re.search(rf"\((?:const )?{declaration.name}\s*&&? ?\w*\)", d.text)):
            continue
        if d.name.startswith("~") or d.kind == "function" and d.name in PROTOCOL and \
                not d.documented or d.name == "operator=":
            continue
        if d.kind == "variable" and not d.documented or d.kind == "alias" and not d.documented:
            continue
        if "= delete" in d.text:
            continue
        result.append(d)
    return result


def synopsis(declaration, indent):
    lines = []
    previous = None
    for d in shown(declaration):
        kind = "data" if d.kind in ("member", "variable", "alias") else d.kind
        if previous and previous != kind:
            lines.append("")
        previous = kind
        lines += signature(d, indent)
    return lines


def label(declaration):
    """How a table names a member."""
    if declaration.name.startswith("operator"):
        return f"`{declaration.name}`"
    if declaration.kind in ("function", "constructor"):
        text = declaration.text
        at = text.rindex(declaration.name + "(") if declaration.name + "(" in text else -1
        if at < 0:
            return f"`{declaration.name}()`"
        open_at = at + len(declaration.name)
        close = cpp_header._balanced(text, open_at)
        arguments = text[open_at + 1:close - 1]
        names = []
        for part in _split_commas(arguments) if arguments else []:
            word = re.search(r"(\w+)\s*(?:=.*)?$", part)
            names.append(word.group(1) if word else part)
        return f"`{declaration.name}({', '.join(names)})`"
    if declaration.kind in ("member", "variable"):
        names = []
        for part in _split_commas(re.sub(r"^template\s*<.*?>\s*", "", declaration.text)):
            word = re.search(r"(\w+)(?:\[[^\]]*\])?$", re.split(r"\s*[={]", part)[0].strip())
            names.append(word.group(1) if word else part)
        return ", ".join(f"`{name}`" for name in names)
    return f"`{declaration.name}`"


def member_rows(declaration, prefix=""):
    rows = []
    for d in shown(declaration):
        text = " ".join(comment.parse(d.doc).paragraphs())
        if d.name in OPAQUE:
            if text:
                rows.append((f"`{prefix}{d.name}`", text))
        elif d.kind in ("struct", "class", "enum") and (d.documented or any(x.documented for x in d.body)):
            if text:
                rows.append((f"`{prefix}{d.name}`", text))
            rows += member_rows(d, f"{prefix}{d.name}.")
        elif d.kind in ("struct", "class"):
            rows += member_rows(d, f"{prefix}{d.name}.")
        elif d.documented:
            name = label(d)
            rows.append((name.replace("`", "`" + prefix, 1) if prefix and d.kind != "constructor" else name, text))
    return rows


def members(declaration):
    """The table of documented members."""
    if declaration.kind not in ("struct", "class", "enum"):
        return []
    if declaration.kind == "enum":
        rows = [(f"`{d.name}`", " ".join(comment.parse(d.doc).paragraphs())) for d in declaration.body if d.documented]
    else:
        rows = member_rows(declaration)
    if not rows:
        return []
    head = "value" if declaration.kind == "enum" else "member"
    lines = ["", f"| {head} | |", "|---|---|"]
    for name, text in rows:
        lines.append(f"| {name} | {comment.inline(text, in_table=True)} |")
    return lines


def field_lines(parsed):
    lines = []
    for name, title in comment.FIELDS.items():
        blocks = parsed.fields.get(name)
        if name == "Source" and blocks and re.search(r"\b(?:spec|golden) [a-z]+", " ".join(" ".join(c) for _, c in blocks)):
            raise PageError("a Source names a paper or published code, not what only the authors have: " +
                            " ".join(" ".join(content) for _, content in blocks))
        if blocks:
            lines += ["", *comment.markdown(blocks, first=f"**{title}:** ")]
    return lines


# ------------------------------------------------------------------------------------------------------------- pages


def selected(header, only):
    found = [d for d in header.declarations if d.documented and not d.name.startswith("require_")]
    if only is not None:
        known = {d.name for d in header.declarations}
        found = [d for d in header.declarations if d.name in only]
        for name in only:
            if name not in known:
                raise PageError(f"{header.path} declares no {name}")
    return found


def main_declaration(header, declarations):
    if header.doc:
        return None  # the header describes itself as a whole; its declarations get sections
    stem = re.sub(r".*/|\.\w+$", "", header.path)
    for d in declarations:
        if d.name == stem and d.kind != "alias":
            return d
    return declarations[0] if declarations else None


def title_of(path, main):
    folder = path.split("/")[0]
    name = main.name if main else re.sub(r".*/|\.\w+$", "", path)
    return name if folder == "core" else f"{folder}::{name}"


def _all(library, paths, only):
    headers = [library.header(path) for path in paths]
    first = headers[0]
    declarations = selected(first, only)
    main = main_declaration(first, declarations)
    same = [d for d in declarations if main and d is not main and d.name == main.name and main.kind == "function"]
    others = [d for d in declarations if d is not main and d not in same]
    return headers, main, same, others


def include_line(library, path):
    line = f"#include <seqprim/{path}>"
    return line if path in library.reached() or path.endswith(".cuh") else f"{line}  // not in <seqprim/seqprim.hpp>"


def linked(lines, library, page):
    """Headers that a comment names, such as score/rule.hpp, lead to their pages."""
    pages = library.root.parent.parent / "docs/reference"

    def link(match):
        stem = match.group(1)
        if f"{stem}.md" == page or not (pages / f"{stem}.md").is_file():
            return match.group(0)
        return f"[{stem}](../{stem}.md)"

    result, fenced = [], False
    for line in lines:
        if line.startswith("```"):
            fenced = not fenced
        result.append(line if fenced or "`" in line and re.search(r"`[^`]*\.hpp[^`]*`", line) else
                      re.sub(r"(?<![\w/<(])([a-z]+/\w+)\.(?:hpp|cuh)\b", link, line))
    return result


def head(library, page, paths, title=None, only=None):
    """The first generated part of `page` (below docs/reference)."""
    headers, main, same, _ = _all(library, paths, only)
    folder = page.split("/")[0]
    described = comment.parse(headers[0].doc or (main.doc if main else []))
    title = title or title_of(paths[0], main)
    lines = [BREADCRUMB.format(folder=folder, name=re.sub(r".*/|\.md$", "", page)), "", f"# {title}", ""]
    lines += comment.markdown(described.blocks)
    rest = [path for path in paths[1:] if not path.endswith(".cuh") and path not in library.reached(paths[0])]
    code = [include_line(library, path) for path in [paths[0], *rest]]
    for d in ([main] if main else []) + same:
        code += ["", *signature(d)]
    return linked([*lines, "", "```cpp", *code, "```"], library, page)


def section(library, declaration, level="##", titled=True):
    parsed = comment.parse(declaration.doc)
    lines = ["", f"{level} {declaration.name}", ""] if titled else [""]
    lines += ["```cpp", *signature(declaration), "```", ""]
    lines += comment.markdown(parsed.blocks)
    return lines + members(declaration) + field_lines(parsed)


def sections(library, declarations, level):
    lines, named, at = [], None, 0
    while at < len(declarations):
        d = declarations[at]
        group = [d]
        while d.kind == "variable" and at + len(group) < len(declarations):
            following = declarations[at + len(group)]
            if following.kind != "variable" or comment.parse(following.doc).fields:
                break
            group.append(following)
        if len(group) > 1 and not comment.parse(d.doc).fields:  # constants in one table
            lines += ["", f"{level} {', '.join(x.name for x in group)}", "", "```cpp"]
            for x in group:
                lines += signature(x)
            lines += ["```", "", "| constant | |", "|---|---|"]
            for x in group:
                lines.append(f"| `{x.name}` | {comment.inline(' '.join(comment.parse(x.doc).paragraphs()), True)} |")
            at += len(group)
            named = None
            continue
        lines += section(library, d, level, titled=d.name != named)
        named = d.name
        at += 1
    return lines


def details(library, page, paths, only=None):
    """The second generated part of `page`."""
    headers, main, same, others = _all(library, paths, only)
    lines = []
    if headers[0].doc:
        lines += field_lines(comment.parse(headers[0].doc))
    elif main:
        lines += members(main) + field_lines(comment.parse(main.doc))
    for number, d in enumerate(same, 2):
        parsed = comment.parse(d.doc)
        if parsed.fields:
            lines += ["", f"## Overload {number}", "", *comment.markdown(parsed.blocks)] + field_lines(parsed)
        else:
            lines += ["", *comment.markdown(parsed.blocks, first=f"**Overload {number}:** ")]
    lines += sections(library, others, "##")
    for header in headers[1:]:
        cuda = header.path.endswith(".cuh")
        if cuda:
            lines += ["", "## CUDA", "", "```cpp", include_line(library, header.path), "```"]
        if header.doc:
            parsed = comment.parse(header.doc)
            if not cuda:
                lines += ["", f"## {header.path}"]
            lines += ["", *comment.markdown(parsed.blocks)] + field_lines(parsed)
        lines += sections(library, selected(header, only), "###" if cuda or header.doc else "##")
    while lines and lines[0] == "":
        lines.pop(0)
    return linked(lines, library, page)


def summary(lines):
    """Title and first sentence of a page."""
    title, text, fenced = None, "", False
    for line in lines:
        if line.startswith("```"):
            fenced = not fenced
        if title is None:
            if line.startswith("# "):
                title = line[2:].strip()
            continue
        if fenced or re.match(r"[|<#`]|    |\[docs\]", line):
            if text:
                break
            continue
        if not line and text:
            break
        text += (" " if text else "") + line
    text = text.strip()
    end = re.search(r"[.;](?= )", text)
    if end:
        text = text[:end.end()]
    elif not re.search(r"[.:;]$", text):
        text = re.sub(r",[^,]*$", "", text)  # a formula follows
    return title, re.sub(r"[.:;]$", "", text)


def skeleton(page, header, example):
    """A page that does not exist yet."""
    lines = [f"<!-- head: {header} -->", "<!-- end -->", ""]
    if example:
        lines += [f"<!-- example: {example} -->", "```cpp", "```", ""]
    return lines + [f"<!-- details: {header} -->", "<!-- end -->"]
