#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""scripts/update_docs.py on small trees: what it writes, and that it sees a page that is out of date."""
import io
import pathlib
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import update_docs  # noqa: E402
from update_docs import comment, cpp_header, pages  # noqa: E402

HEADER = """// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

namespace detail {
/// Nobody's business.
struct hidden {};
}  // namespace detail

/// Near: a query attends to keys at most `reach` away.
///
///     visible(q, k)  <=>  |q - k| <= reach
///
/// Errors  precondition_error: reach < 0,
///         or too large.
/// Cost    a * b * c.
/// Source  A paper.  Page docs/reference/mask/near.md
struct near {
  index_t reach = 4;  ///< distance, a | b

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept { return q - k <= reach && k - q <= reach; }

  /// Another reach.
  [[nodiscard]] constexpr near widened(index_t by = {}) const noexcept { return {reach + by}; }

 private:
  /// Not public.
  int cache = 0;
};

/// Two of them.
template <class A, class B = near>
requires(sizeof(A) > 0) [[nodiscard]] constexpr A both(const A& a, B b = {1}) noexcept : a(b) {
  return a;
}

struct undocumented {};

}  // namespace seqprim::mask
"""
PAGE = """<!-- head: mask/near.hpp -->
<!-- end -->

Notes.

<!-- details: mask/near.hpp -->
<!-- end -->
"""


def tree(folder, files):
    for name, text in files.items():
        path = pathlib.Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return pathlib.Path(folder)


class Headers(unittest.TestCase):
    def test_finds_the_documented_public_declarations(self):
        header = cpp_header.read("mask/near.hpp", HEADER)
        self.assertEqual([d.name for d in header.declarations], ["near", "both", "undocumented"])
        near = header.declarations[0]
        self.assertEqual([d.name for d in near.body], ["reach", "operator()", "widened"])
        self.assertEqual(near.body[0].doc, ["distance, a | b"])
        self.assertEqual(near.body[2].doc, ["Another reach."])

    def test_declarations_lose_bodies_macros_and_initializers(self):
        both = cpp_header.read("mask/near.hpp", HEADER).declarations[1]
        self.assertEqual(both.text, "template <class A, class B = near> requires(sizeof(A) > 0) "
                                    "constexpr A both(const A& a, B b = {1}) noexcept")

    def test_a_brace_that_does_not_close_is_an_error(self):
        with self.assertRaises(cpp_header.ParseError):
            cpp_header.read("x.hpp", "namespace seqprim {\nstruct x {\n")

    def test_every_header_of_the_library_can_be_read(self):
        library = pages.Library(ROOT / "include/seqprim")
        files = [f for kind in ("hpp", "cuh") for f in (ROOT / "include/seqprim").rglob(f"*.{kind}")]
        self.assertGreater(len(files), 100)
        for file in files:
            if "detail" not in file.parts:
                library.header(str(file.relative_to(ROOT / "include/seqprim")))


class Comments(unittest.TestCase):
    def test_fields_end_with_the_next_field(self):
        parsed = comment.parse(["One.", "", "    x = 1", "", "Errors  a,", "        b.", "Cost    c."])
        self.assertEqual([kind for kind, _ in parsed.blocks], ["text", "code"])
        self.assertEqual(parsed.fields["Errors"], [("text", ["a,", "b."])])
        self.assertEqual(parsed.fields["Cost"], [("text", ["c."])])

    def test_words_cannot_become_markup(self):
        self.assertEqual(comment.inline("a * b * c, files_*, <T>, `x * y`"), r"a \* b \* c, files\_\*, \<T>, `x * y`")
        self.assertEqual(comment.inline("throws precondition_error when f()"), "throws `precondition_error` when `f()`")


class Pages(unittest.TestCase):
    def update(self, files, check=False):
        with tempfile.TemporaryDirectory() as folder:
            root = tree(folder, files)
            out = io.StringIO()
            stale = update_docs.update(root, check, out)
            return stale, out.getvalue(), {str(f.relative_to(root)): f.read_text() for f in root.rglob("*.md")}

    def test_a_page_takes_everything_from_its_header(self):
        _, _, documents = self.update({"include/seqprim/mask/near.hpp": HEADER, "docs/reference/mask/near.md": PAGE})
        page = documents["docs/reference/mask/near.md"]
        for expected in ["> [mask](../index.md#mask) > near", "\n# mask::near\n", "#include <seqprim/mask/near.hpp>",
                         "```text\nvisible(q, k)  <=>  |q - k| <= reach\n```", "  index_t reach = 4;\n",
                         "| `reach` | distance, a \\| b |", "| `widened(by)` | Another reach. |",
                         "**Errors:** `precondition_error`: reach < 0, or too large.", "**Source:** A paper.",
                         "\n## both\n", "\nNotes.\n"]:
            self.assertIn(expected, page)
        for unexpected in ["hidden", "operator()", "undocumented", "cache", "docs/reference/mask/near.md"]:
            self.assertNotIn(unexpected, page)
        self.assertIn("| [mask::near](mask/near.md) | Near: a query attends to keys at most `reach` away |",
                      documents["docs/reference/index.md"])

    def test_a_second_run_changes_nothing_and_a_changed_header_is_seen(self):
        _, _, documents = self.update({"include/seqprim/mask/near.hpp": HEADER, "docs/reference/mask/near.md": PAGE})
        stale, _, _ = self.update({"include/seqprim/mask/near.hpp": HEADER, **documents}, check=True)
        self.assertEqual(stale, 0)
        changed = HEADER.replace("reach < 0", "reach < 1")
        stale, out, after = self.update({"include/seqprim/mask/near.hpp": changed, **documents}, check=True)
        self.assertEqual(stale, 1)
        self.assertIn("+**Errors:** `precondition_error`: reach < 1", out)
        self.assertEqual(after, documents)

    def test_a_source_that_nobody_can_read_is_an_error(self):
        for source in ["spec masks 4.2", "A paper; golden masks/near_*"]:
            with self.assertRaises(update_docs.DocumentError):
                self.update({"include/seqprim/mask/near.hpp": HEADER.replace("A paper.", source),
                             "docs/reference/mask/near.md": PAGE})

    def test_a_new_header_gets_a_page_with_the_example_of_its_name(self):
        test = "int main() {\n  // example-begin near\n  int x;\n  // example-end near\n}\n"
        _, _, documents = self.update({"include/seqprim/mask/near.hpp": HEADER, "tests/mask/near_test.cpp": test,
                                       "docs/index.md": "# x\n"})
        self.assertIn("<!-- example: tests/mask/near_test.cpp near -->\n```cpp\nint x;\n```",
                      documents["docs/reference/mask/near.md"])

    def test_an_umbrella_header_includes_every_header_of_its_folder(self):
        with tempfile.TemporaryDirectory() as folder:
            root = tree(folder, {"include/seqprim/mask/near.hpp": HEADER, "docs/index.md": "# x\n",
                                 "include/seqprim/mask/mask.hpp": "#pragma once\n\n/// All.\n#include <seqprim/mask/gone.hpp>\n"})
            self.assertGreater(update_docs.update(root, True, io.StringIO()), 0)
            update_docs.update(root, False, io.StringIO())
            self.assertEqual((root / "include/seqprim/mask/mask.hpp").read_text(),
                             "#pragma once\n\n/// All.\n#include <seqprim/mask/near.hpp>\n")

    def test_an_example_that_does_not_exist_is_an_error(self):
        page = "<!-- example: a.cpp b -->\n```cpp\n```\n"
        for files in [{}, {"a.cpp": "int x;\n"}, {"a.cpp": "// example-begin b\nint x;\n"}]:
            with self.assertRaises(update_docs.DocumentError):
                self.update({"docs/a.md": page, **files})

    def test_a_whole_file_is_quoted_without_its_first_comment(self):
        source = "// SPDX\n// What it is.\n\n#include <x>\n\n// example-begin y\nint x;\n// example-end y\n"
        _, _, documents = self.update({"docs/a.md": "<!-- file: a.cpp -->\n```cpp\nold\n```\n", "a.cpp": source})
        self.assertEqual(documents["docs/a.md"], "<!-- file: a.cpp -->\n```cpp\n#include <x>\n\nint x;\n```\n")


if __name__ == "__main__":
    unittest.main()
