# SPDX-License-Identifier: Apache-2.0
"""A documentation comment: paragraphs, formulas, then fields, as docs/style.md describes; and both as Markdown."""
import re
from dataclasses import dataclass, field

# The fields of a comment in the order in which a page shows them, and what they are called there.
FIELDS = {
    "Shapes": "Shapes",
    "Types": "Types",
    "Layout": "Layout",
    "Limits": "Limits",
    "Edge": "Edge values",
    "Errors": "Errors",
    "Repeat": "Repeatability",
    "Determinism": "Repeatability",
    "Trap": "Trap",
    "Cost": "Cost",
    "Evidence": "Evidence",
    "Source": "Source",
}
FIELD = re.compile(r"(" + "|".join([*FIELDS, "Page"]) + r")(?:  +|$)(.*)")
# Words that are code wherever they stand: exceptions, calls without arguments.
CODE_WORD = re.compile(r"(^|[\s(])((?:precondition|cuda|io)_error|[a-z_]\w*(?:::\w+)*(?:\(\)|\{\}))")
WIDTH = 120


@dataclass
class Comment:
    blocks: list = field(default_factory=list)  # ("text", [words]) or ("code", [lines]) or ("raw", [lines])
    fields: dict = field(default_factory=dict)  # name -> blocks

    def paragraphs(self):
        return [" ".join(lines) for kind, lines in self.blocks if kind == "text"]


def parse(lines):
    """The comment in `lines`, which come without ///."""
    comment = Comment()
    into, indent, fresh = comment.blocks, 0, True
    name = None
    for line in [*lines, ""]:
        begins = FIELD.match(line)
        if begins:
            name = begins.group(1)
            indent = len(line) - len(begins.group(2)) if begins.group(2) else len(name) + 2
            into = comment.fields.setdefault(name, [])
            fresh = True
            line = " " * indent + begins.group(2)
        elif name and line.strip() and not line.startswith("  "):
            name, into, indent, fresh = None, comment.blocks, 0, True
        if not line.strip():
            fresh = True
            if into and into[-1][0] == "code":
                into[-1][1].append("")
            continue
        text = line[indent:] if line[:indent].strip() == "" else line.strip()
        if text.startswith("    ") and (fresh or (into and into[-1][0] == "code")):
            if not (into and into[-1][0] == "code"):
                into.append(("code", []))
            into[-1][1].append(text[4:])
        else:
            kind = "raw" if re.match(r"[-*] |\||\d+\. ", text.strip()) or \
                (not fresh and into and into[-1][0] == "raw") else "text"
            if fresh or not into or into[-1][0] != kind:
                into.append((kind, []))
            into[-1][1].append(text.rstrip() if kind == "raw" else text.strip())
        fresh = False
    for blocks in [comment.blocks, *comment.fields.values()]:
        for kind, content in blocks:
            while kind == "code" and content and content[-1] == "":
                content.pop()
    for blocks in [comment.blocks, *comment.fields.values()]:  # where the page is, a page need not say
        for kind, content in blocks:
            if kind == "text" and re.search(r"\bPage:? ?docs/|^docs/reference/", " ".join(content)):
                text = re.sub(r"\s*\bPage:?\s*docs/\S+$", "", " ".join(content)).strip()
                content[:] = [text] if text else []
        blocks[:] = [(kind, content) for kind, content in blocks if content]
    comment.fields.pop("Page", None)
    return comment


def inline(text, in_table=False):
    """Words of a comment as Markdown: what stands between back-ticks stays, the rest cannot become markup by accident."""
    parts = re.split(r"(`[^`]*`)", text)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            part = re.sub(r"\[([^\]]*)\]\(([^)]*\.md[^)]*)\)", lambda m: f"\0{m.group(0)}\0", part)  # links stay
            pieces = part.split("\0")
            for n in range(0, len(pieces), 2):
                piece = CODE_WORD.sub(r"\1`\2`", pieces[n]) if "`" not in pieces[n] else pieces[n]
                if "`" in piece:
                    pieces[n] = inline(piece)
                    continue
                piece = re.sub(r"([*~$])", r"\\\1", piece)
                piece = re.sub(r"<(?=[A-Za-z/!?])", r"\\<", piece)
                piece = re.sub(r"(?<![A-Za-z0-9])_+|_+(?![A-Za-z0-9])", lambda m: "\\_" * len(m[0]), piece)
                pieces[n] = piece
            part = "".join(pieces)
        if in_table:
            part = part.replace("|", "\\|")
        parts[i] = part
    return "".join(parts)


def wrap(text):
    """Lines of at most WIDTH characters, none of which begins a list or a heading by accident."""
    lines, line = [], ""
    for word in text.split():
        starts_markup = re.fullmatch(r"[-+#>=|]+|\d+[.)]", word)
        if line and len(line) + 1 + len(word) > WIDTH and not starts_markup:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    if re.match(r"[-+#>]+ |\d+[.)] ", line if not lines else lines[0]):
        lines, line = [*lines], line
        first = lines[0] if lines else line
        escaped = re.sub(r"^(\d*)(.)", r"\1\\\2", first)
        if lines:
            lines[0] = escaped
        else:
            line = escaped
    return [*lines, line]


def is_code(lines):
    return any(re.search(r";\s*(//.*)?$|::\w+[({<]|^#include", line) for line in lines)


def markdown(blocks, first=""):
    """Blocks as lines of Markdown; `first` goes in front of the first paragraph."""
    result = []
    for kind, content in blocks:
        if result:
            result.append("")
        if kind == "code":
            if first:
                result += [first.strip(), ""]
            result += ["```cpp" if is_code(content) else "```text", *content, "```"]
        elif kind == "raw":
            if first:
                result += [first.strip(), ""]
            result += content
        else:
            result += wrap(first + inline(" ".join(content)))
        first = ""
    return result
