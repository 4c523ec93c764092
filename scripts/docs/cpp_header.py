# SPDX-License-Identifier: Apache-2.0
"""Reads the documented declarations of a header: enough C++ for the headers of this library, no more.

A declaration is documented by the `///` lines right above it, a data member or enumerator also by `///<` behind it. What
stands in `namespace detail` or behind `private:` is not public. `///` lines right above `namespace seqprim::...` describe
the header as a whole.
"""
import re
from dataclasses import dataclass, field


@dataclass
class Declaration:
    kind: str  # struct, class, enum, concept, function, alias, variable, member
    name: str
    text: str  # without its body, on one line, without attributes and macros
    doc: list = field(default_factory=list)  # lines of the comment, without ///
    body: list = field(default_factory=list)  # of a struct or enum: public declarations
    line: int = 0
    source: list = field(default_factory=list)  # of a concept: its lines as they are written

    @property
    def documented(self):
        return bool(self.doc)


@dataclass
class Header:
    path: str  # below include/seqprim
    doc: list
    declarations: list


class ParseError(Exception):
    pass


NOISE = re.compile(r"\[\[[^\]]*\]\]\s*|\bSEQPRIM_[A-Z_]+\b(?!\()\s*|\b__forceinline__\s*")
COMMENT_BEHIND = re.compile(r"///<\s?(.*)")


def _skip_string(text, at):
    quote = text[at]
    at += 1
    while text[at] != quote:
        at += 2 if text[at] == "\\" else 1
    return at + 1


def _is_digit_separator(text, at):
    return text[at] == "'" and at > 0 and text[at - 1].isalnum() and text[at + 1].isalnum() and \
        re.search(r"\b\d[\da-fA-Fx']*$", text[max(0, at - 30):at]) is not None


def _balanced(text, at):
    """The position behind the bracket that closes the one at `at`."""
    depth = 0
    while at < len(text):
        c = text[at]
        if text.startswith("//", at):
            at = text.index("\n", at)
            continue
        if c in "\"'" and not _is_digit_separator(text, at):
            at = _skip_string(text, at)
            continue
        if c in "{([":
            depth += 1
        elif c in "})]":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    raise ParseError("a bracket does not close")


def _angles(text, at):
    """The position behind the > that closes the < at `at`, in a declaration."""
    depth = 0
    while at < len(text):
        c = text[at]
        if c == "<":
            depth += 1
        elif c == ">" and text[at - 1] not in "-=":
            depth -= 1
            if depth == 0:
                return at + 1
        elif c in "([{":
            at = _balanced(text, at)
            continue
        at += 1
    raise ParseError("a template parameter list does not close")


def _without_constraints(text):
    """A declaration without its template header and the constraints behind it."""
    while True:
        text = text.strip()
        if re.match(r"template\s*<", text):
            text = text[_angles(text, text.index("<")):]
            continue
        if not re.match(r"requires\b", text):
            return text
        at = len("requires")
        while True:  # terms joined by && and ||
            at += len(text[at:]) - len(text[at:].lstrip(" !"))
            inner = re.compile(r"requires\s*(?=[({])").match(text, at)
            if inner:
                at = inner.end()
                if text[at] == "(":
                    at = _balanced(text, at)
                    at += len(text[at:]) - len(text[at:].lstrip())
                at = _balanced(text, at)
            elif text[at] == "(":
                at = _balanced(text, at)
            else:
                at = re.compile(r"[\w:]+").match(text, at).end()
                if text[at:at + 1] == "<":
                    at = _angles(text, at)
                at = re.compile(r"(?:::\w+)*").match(text, at).end()
            joined = re.compile(r"\s*(?:&&|\|\|)").match(text, at)
            if not joined:
                break
            at = joined.end()
        text = text[at:]


def _function_name(core):
    """The name of the function that `core` declares, or None."""
    operator = re.search(r"(?<![\w:])operator\s*(\(\)|\[\]|[^\s\w(]+|[\w: ]+?)\s*\(", core)
    if operator:
        word = operator.group(1).strip()
        return "operator" + (" " + word if word[0].isalpha() else word)
    at = 0
    while at < len(core):
        c = core[at]
        if c == "=":
            return None
        if c == "<":
            at = _angles(core, at)
            continue
        if c == "(":
            name = re.search(r"(~?\w+)\s*$", core[:at])
            if name and name.group(1) not in ("decltype", "alignas", "requires", "noexcept", "explicit", "sizeof"):
                return name.group(1)
            at = _balanced(core, at)
            continue
        if c in "[{":
            at = _balanced(core, at)
            continue
        at += 1
    return None


def _without_other_branches(text):
    """Keeps the first branch of each #if, and the lines where they are."""
    lines, stack = [], []
    for line in text.split("\n"):
        word = re.match(r"\s*#\s*(if|ifdef|ifndef|elif|else|endif)\b", line)
        if word and word.group(1).startswith("if"):
            stack.append(True)
        elif word and word.group(1) == "endif":
            if stack:
                stack.pop()
        elif word:
            stack[-1] = False
        lines.append(line if all(stack) else "")
    return "\n".join(lines)


def _tidy(text):
    """A declaration on one line, without comments, attributes and macros."""
    text = re.sub(r"//[^\n]*", "", text)
    text = NOISE.sub("", text)
    text = re.sub(r"^\s*inline\s+|(?<=\s)inline\s+", "", text)
    text = text.replace("__builtin_huge_valf()", "infinity").replace("__builtin_huge_val()", "infinity")
    return re.sub(r"\s+", " ", text).strip()


class _Reader:
    def __init__(self, text, name):
        self.text, self.name = text, name

    def fail(self, at, what):
        raise ParseError(f"{self.name}:{self.text.count(chr(10), 0, at) + 1}: {what}")

    def declarations(self, at, end, owner=None, result=None, header_doc=None):
        """Declarations in [at, end); owner is the name of the surrounding struct, if any, and None in a namespace."""
        text = self.text
        if result is None:
            result = []
        doc, access = [], "public"
        if owner and owner[0] == "class":
            access = "private"
        while at < end:
            line_end = text.find("\n", at)
            line_end = end if line_end < 0 or line_end > end else line_end
            if text[at].isspace():
                if text[at] == "\n" and text[at + 1:line_end + 1].strip() == "" and re.match(r"\n[ \t]*\n", text[at:]):
                    doc = []  # a blank line separates a comment from what follows
                at += 1
                continue
            if text.startswith("///", at):
                behind = COMMENT_BEHIND.match(text, at)
                if behind:
                    if result and access == "public" and result[-1].line == text.count("\n", 0, at) + 1:
                        result[-1].doc.append(behind.group(1).rstrip())
                else:
                    comment = text[at + 3:line_end].rstrip()
                    doc.append(comment[1:] if comment.startswith(" ") else comment)
                at = line_end
                continue
            if text.startswith("//", at):
                at = line_end
                continue
            if text[at] == "#":
                while text[line_end - 1] == "\\":
                    line_end = text.find("\n", line_end + 1)
                at = line_end
                if doc and header_doc is not None and not header_doc and not result:
                    header_doc.extend(doc)  # of a header that only includes others
                doc = []
                continue
            if text[at] == ";" or text[at] == "}":
                at += 1
                continue
            label = re.compile(r"(public|private|protected)\s*:").match(text, at)
            if owner and label:
                access, doc, at = label.group(1), [], label.end()
                continue
            space = re.compile(r"(?:inline\s+)?namespace(?:\s+([\w:]+))?\s*\{").match(text, at)
            if space:
                close = _balanced(text, space.end() - 1)
                if space.group(1) and (space.group(1) == "detail" or space.group(1).endswith("::detail")):
                    at = close
                else:
                    inline, first = text.startswith("inline", at), len(result)
                    if header_doc is not None and doc and not inline:
                        header_doc.extend(doc)
                    self.declarations(space.end(), close - 1, None, result, header_doc)
                    if inline and len(result) > first and not result[first].doc:
                        result[first].doc = doc  # the comment of an inline namespace is that of what it holds
                    at = close
                doc = []
                continue
            stop, declaration = self.one(at, end, owner)
            if declaration and access == "public":
                declaration.doc = doc
                declaration.line = text.count("\n", 0, stop) + 1
                result.append(declaration)
            doc, at = [], stop
        return result

    def one(self, at, end, owner):
        """One declaration that begins at `at`: the position behind it, and the declaration or None if it does not count."""
        text, start = self.text, at
        body = None
        seen_equals = False
        cut = None
        while True:
            if at >= end:
                self.fail(start, "a declaration does not end")
            c = text[at]
            if text.startswith("//", at):
                at = text.index("\n", at)
                continue
            if c in "\"'" and not _is_digit_separator(text, at):
                at = _skip_string(text, at)
                continue
            if c == "<" and re.search(r"\btemplate\s*$", text[start:at]):
                at = _angles(text, at)
                continue
            if c in "([":
                at = _balanced(text, at)
                continue
            if c == "=" and not re.search(r"operator\s*[=!<>+\-*/&|^%]*$", text[start:at]):
                seen_equals = True
            if c == ":" and text[at + 1] != ":" and text[at - 1] != ":" and cut is None and \
                    re.search(r"\)[^()]*$", text[start:at]) and "?" not in text[start:at] and not seen_equals:
                cut = at  # the initializers of a constructor follow
            if c == "{":
                before = text[start:at]
                in_requires = re.search(r"\brequires\s*(?:\((?:[^()]|\([^()]*\))*\))?\s*$", before) and \
                    not re.search(r"\)\s*(?:(?:const|noexcept|override|&)\s*)*$", before.rsplit("requires", 1)[0])
                in_initializer = cut is not None and re.search(r"[\w>]\s*$", before)
                if seen_equals or in_requires or in_initializer:
                    at = _balanced(text, at)
                    continue
                body = at
                at = _balanced(text, at)
                head = text[start:body]
                if re.match(r"(?:template\s*<.*>\s*)?(?:requires\b.*)?(?:struct|class|union|enum)\b", _tidy(head)):
                    at = text.index(";", at)  # struct x { ... } y;
                break
            if c == ";":
                break
            at += 1
        stop = at + 1 if at < len(text) and text[at] == ";" else at
        head = text[start:cut if cut is not None else (body if body is not None else at)]
        return stop, self.classify(head, body, owner)

    def classify(self, head, body, owner):
        flat = _tidy(head)
        if not flat or re.match(r"(?:static_assert|using namespace|friend|extern|SEQPRIM_)\b", flat):
            return None
        if flat.startswith("template <>"):
            return None  # an explicit specialization
        core = _without_constraints(flat)
        record = re.match(r"(struct|class|union|enum(?: class| struct)?)\s+(?:\[\[.*?\]\]\s*|alignas\([^)]*\)\s*)*([\w:]+)", core)
        if record and (body is not None or re.fullmatch(r"[\w ]+", core)):
            kind, name = record.group(1).split()[0], record.group(2)
            if body is None:
                return None  # a declaration of what is defined elsewhere
            close = _balanced(self.text, body)
            if re.search(r"<[^<>]*>\s*$", core.split("{")[0]) and not record.group(1).startswith("enum"):
                name_end = core[record.end(2):].strip()
                if name_end.startswith("<"):
                    return None  # a specialization
            if kind == "enum":
                return Declaration("enum", name, flat, body=self.enumerators(body + 1, close - 1))
            return Declaration(kind, name, flat, body=self.declarations(body + 1, close - 1, (kind, name)))
        concept = re.match(r"concept\s+(\w+)\s*=", core)
        if concept:
            return Declaration("concept", concept.group(1), flat, source=(head.strip() + ";").split("\n"))
        alias = re.match(r"using\s+(\w+)\s*=", core)
        if alias:
            return Declaration("alias", alias.group(1), flat)
        if re.match(r"(?:explicit\s+)?(\w+)\s*\(.*\)\s*->\s*\1\s*<", core) or core.startswith("using "):
            return None  # a deduction guide, inherited constructors
        name = _function_name(core)
        if name:
            kind = "constructor" if owner and name == owner[1] else "function"
            return Declaration(kind, name, flat)
        variable = re.match(r"^.*?(\w+)\s*(?:\[[^\]]*\])?\s*(?:=.*|\{.*)?$", core.split("=")[0].rstrip())
        if variable:
            kind = "member" if owner and not re.match(r"static\b", core) else "variable"
            if re.search(r"=\s*\[", flat) and "{" in flat:
                flat = flat[:flat.index("=")].strip()  # computed by a lambda
            return Declaration(kind, variable.group(1), flat)
        return None

    def enumerators(self, at, end):
        result = []
        for line in self.text[at:end].split("\n"):
            code, _, comment = line.partition("//")
            note = COMMENT_BEHIND.match("//" + comment)
            names = [part.strip() for part in re.sub(r"\([^)]*\)", "", code).split(",") if part.strip()]
            for name in names:
                word = re.match(r"\w+", name)
                if word:
                    result.append(Declaration("enumerator", word.group(0), name))
            if note and result and names:
                result[-1].doc.append(note.group(1).rstrip())
        return result


def read(path, text):
    """The header `path` (below include/seqprim) from its text."""
    header_doc = []
    text = _without_other_branches(text)
    reader = _Reader(text, path)
    declarations = reader.declarations(0, len(text), None, None, header_doc)
    return Header(path, header_doc, declarations)
