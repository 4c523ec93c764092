// SPDX-License-Identifier: Apache-2.0
// Rules about the tree that no compiler checks. Each rule collects its violations, so that one run names them all.
#include "source_tree.hpp"

#include <support/catch.hpp>

using namespace structure;

namespace {

const fs::path root = SEQPRIM_SOURCE_DIR;

const std::map<std::string, std::string>& headers() {  // "mask/causal.hpp" -> its text
  static const std::map<std::string, std::string> all = [] {
    std::map<std::string, std::string> result;
    for (const std::string& path : files(root / "include/seqprim", ".", {".hpp", ".cuh"}))
      result[fs::path(path).lexically_normal().generic_string()] = read(root / "include/seqprim" / path);
    return result;
  }();
  return all;
}

std::vector<std::string> all_sources() {
  std::vector<std::string> result;
  for (const char* folder : {"include", "tests", "examples", "benchmarks"})
    for (const std::string& path : files(root, folder, {".hpp", ".cuh", ".cpp", ".cu"})) result.push_back(path);
  return result;
}

/// Build files and scripts: whatever comments with '#'.
std::vector<std::string> build_files_and_scripts() {
  std::vector<std::string> result = {"CMakeLists.txt", ".clang-format", ".ci/run"};
  for (const char* folder : {"cmake", "scripts", "tests", "examples", "benchmarks"}) {
    for (const std::string& path : files(root, folder, {".cmake", ".sh", ".in"})) result.push_back(path);
    for (const std::string& path : files(root, folder, {".txt"}))
      if (fs::path(path).filename() == "CMakeLists.txt") result.push_back(path);
  }
  return result;
}

std::vector<std::string> pages() {
  std::vector<std::string> result = files(root, "docs", {".md"});
  for (const char* page : {"README.md", "CHANGELOG.md"}) result.push_back(page);
  return result;
}

using violations = std::vector<std::string>;

std::string joined(const violations& list) {
  std::string text = std::to_string(list.size()) + " violations";
  for (const std::string& entry : list) text += "\n  " + entry;
  return text;
}

void require_none(const violations& list) {
  INFO(joined(list));
  REQUIRE(list.empty());
}

/// Every header that `start` reaches through includes.
std::set<std::string> reach(const std::string& start) {
  std::set<std::string> seen;
  std::vector<std::string> open = {start};
  while (!open.empty()) {
    const std::string header = open.back();
    open.pop_back();
    if (!seen.insert(header).second || !headers().count(header)) continue;
    for (const std::string& include : includes_of(headers().at(header)))
      if (!own_header(include).empty()) open.push_back(own_header(include));
  }
  return seen;
}

}  // namespace

TEST_CASE("structure: the readers of this test see what they should", "[structure]") {
  REQUIRE(headers().count("core/index.hpp") == 1);
  REQUIRE(directive("#  include <a>", "include") == "<a>");
  REQUIRE(directive("#include_next <a>", "include").empty());
  REQUIRE(includes_of("int a;\n# include <vector>  // why\n#include \"b.hpp\"\n// #include <no>\n") ==
          std::vector<std::string>{"<vector>", "\"b.hpp\""});
  REQUIRE(own_header("<seqprim/mask/causal.hpp>") == "mask/causal.hpp");
  REQUIRE(own_header("<vector>").empty());
  REQUIRE(folder_of("attention/detail/rows.hpp") == "attention");
  REQUIRE(may_include("mask", "core"));
  REQUIRE(may_include("mask", "mask"));
  REQUIRE(may_include("io", "nn"));
  REQUIRE_FALSE(may_include("nn", "io"));
  REQUIRE_FALSE(may_include("core", "mask"));
  REQUIRE_FALSE(may_include("mask", "score"));
  REQUIRE_FALSE(may_include("mask", "attention"));
  REQUIRE_FALSE(may_include("mask", "unknown"));
  REQUIRE(is_umbrella("mask/mask.hpp"));
  REQUIRE(is_umbrella("seqprim.hpp"));
  REQUIRE_FALSE(is_umbrella("mask/full.hpp"));
  REQUIRE(anchor_of("Write a mask: three answers") == "write-a-mask-three-answers");
  REQUIRE(links_of("[a](b.md#c)\n```\n[no](no)\n```\n<img src=\"d.svg\">") ==
          std::vector<std::string>{"b.md#c", "d.svg"});
  REQUIRE(anchors_of("# One\n```\n# no\n```\n## Two three\n") == std::set<std::string>{"one", "two-three"});
}

TEST_CASE("structure: a folder includes only what stands to its left", "[structure]") {
  violations wrong;
  for (const auto& [header, text] : headers()) {
    const std::string folder = folder_of(header);
    if (!folder.empty() && group_of(folder) < 0) wrong.push_back(header + ": folder '" + folder + "' has no place");
    for (const std::string& include : includes_of(text)) {
      const std::string target = own_header(include);
      if (target.empty() || folder.empty()) continue;
      if (!may_include(folder, folder_of(target))) wrong.push_back(header + " includes " + include);
      if (is_detail(target) && folder_of(target) != folder)
        wrong.push_back(header + " includes " + include + ", which is private to its folder");
    }
  }
  require_none(wrong);
}

TEST_CASE("structure: includes of the library exist, in angle brackets", "[structure]") {
  violations wrong;
  for (const auto& [header, text] : headers()) {
    for (const std::string& include : includes_of(text)) {
      const std::string target = own_header(include);
      if (include[0] == '"') wrong.push_back(header + " includes " + include + " in quotes");
      if (target.empty()) continue;
      if (!headers().count(target)) wrong.push_back(header + " includes " + include + ", which does not exist");
    }
  }
  require_none(wrong);
}

TEST_CASE("structure: intrinsics stay in arch, CUDA in .cuh, heavy standard headers out", "[structure]") {
  violations wrong;
  for (const auto& [header, text] : headers()) {
    for (const std::string& include : includes_of(text)) {
      const std::string name = include.substr(1, include.size() - 2);
      if (folder_of(header) != "arch" && ends_with(name, "intrin.h")) wrong.push_back(header + " includes " + include);
      const bool cuda = starts_with(name, "cuda") || starts_with(name, "cub/") || starts_with(name, "thrust/") ||
                        starts_with(name, "mma") || ends_with(name, ".cuh");
      if (cuda && !ends_with(header, ".cuh")) wrong.push_back(header + " includes " + include);
      for (const char* heavy : {"iostream", "functional", "ranges", "regex", "thrust/", "cub/cub.cuh"})
        if (name == heavy || (ends_with(heavy, "/") && starts_with(name, heavy)))
          wrong.push_back(header + " includes " + include + ", which costs every user too much");
    }
    if (folder_of(header) == "core") {
      for (const char* heavy : {"<algorithm>", "<memory>", "<vector>"})
        if (text.find(std::string("#include ") + heavy) != std::string::npos)
          wrong.push_back(header + " includes " + heavy + ", too heavy for core");
    }
  }
  require_none(wrong);
}

TEST_CASE("structure: at most ten macros, all named SEQPRIM_", "[structure]") {
  violations wrong;
  std::set<std::string> macros;
  for (const auto& [header, text] : headers()) {
    for (const std::string& line : lines_of(text)) {
      const std::string definition = directive(line, "define");
      if (definition.empty()) continue;
      const std::string name = definition.substr(0, definition.find_first_of(" (\t"));
      if (text.find("#undef " + name) != std::string::npos) continue;  // local to the header
      if (!starts_with(name, "SEQPRIM_")) wrong.push_back(header + " defines " + name);
      macros.insert(name);
    }
  }
  require_none(wrong);
  INFO(joined({macros.begin(), macros.end()}));
  REQUIRE(macros.size() >= 1);
  REQUIRE(macros.size() <= 10);
}

TEST_CASE("structure: sources name their license, headers are included once and open no namespace", "[structure]") {
  violations wrong;
  for (const std::string& path : all_sources()) {
    const std::string text = read(root / path);
    if (!starts_with(text, "// SPDX-License-Identifier: Apache-2.0\n")) wrong.push_back(path + ": no SPDX line first");
    if (!ends_with(path, ".hpp") && !ends_with(path, ".cuh")) continue;
    if (text.find("\n#pragma once\n") == std::string::npos) wrong.push_back(path + ": no #pragma once");
    if (!starts_with(path, "include/")) continue;
    for (const std::string& line : lines_of(text))
      if (starts_with(trimmed(line), "using namespace")) wrong.push_back(path + ": " + trimmed(line));
  }
  require_none(wrong);
}

/// Numbers of the constants "random_domain name{number}".
std::vector<unsigned long> random_domains_in(const std::string& text) {
  const std::string start = "constexpr random_domain ";
  std::vector<unsigned long> result;
  for (auto at = text.find(start); at != std::string::npos; at = text.find(start, at + 1))
    result.push_back(std::stoul(text.substr(text.find('{', at) + 1), nullptr, 0));
  return result;
}

TEST_CASE("structure: no two parts of the library draw the same random words, and callers have their own",
          "[structure]") {
  REQUIRE(random_domains_in("inline constexpr random_domain a{3};\nconstexpr random_domain b{0x10};") ==
          std::vector<unsigned long>{3, 16});
  violations wrong;
  std::map<unsigned long, std::string> used;
  for (const auto& [header, text] : headers())
    for (const unsigned long number : random_domains_in(text)) {
      const auto [known, added] = used.emplace(number, header);
      if (!added) wrong.push_back(header + " has the random domain of " + known->second);
      if (number >= 1ul << 16) wrong.push_back(header + " has a random domain of callers");
    }
  REQUIRE(used.size() >= 3);
  require_none(wrong);
}

/// The first line is the license, or the second one below "#!".
bool starts_with_licence(const std::string& text) {
  const std::size_t first = starts_with(text, "#!") ? text.find('\n') + 1 : 0;
  return starts_with(std::string_view(text).substr(first), "# SPDX-License-Identifier: Apache-2.0\n");
}

TEST_CASE("structure: build files and scripts name their license", "[structure]") {
  REQUIRE(starts_with_licence("#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\nls\n"));
  REQUIRE_FALSE(starts_with_licence("ls\n# SPDX-License-Identifier: Apache-2.0\n"));
  violations wrong;
  const std::vector<std::string> all = build_files_and_scripts();
  REQUIRE(all.size() > 40);
  for (const std::string& path : all)
    if (!starts_with_licence(read(root / path))) wrong.push_back(path + ": no SPDX line first");
  require_none(wrong);
}

TEST_CASE("structure: seqprim.hpp reaches every public header without a further dependency", "[structure]") {
  // Left out on purpose: io/ needs a JSON parser, the adapters and the choice of an instruction set at
  // run time are for who wants them, the index arithmetic of CUDA engines belongs to the .cuh files.
  const std::set<std::string> left_out = {"core/mdspan.hpp", "core/dlpack.hpp", "core/raw.hpp",
                                          "arch/cuda/fragment.hpp", "arch/dispatch.hpp"};
  const std::set<std::string> reached = reach("seqprim.hpp");
  violations wrong;
  for (const auto& [header, text] : headers()) {
    const bool wanted = ends_with(header, ".hpp") && folder_of(header) != "io" && !is_detail(header) &&
                        !left_out.count(header) && fs::path(header).stem() != "reference";
    if (wanted && !reached.count(header)) wrong.push_back(header + " is missing");
    if (!wanted && !is_detail(header) && fs::path(header).stem() != "reference" && reached.count(header))
      wrong.push_back(header + " should stay out");
  }
  require_none(wrong);
}

TEST_CASE("structure: links in the documents lead to existing files and headings", "[structure]") {
  violations wrong;
  for (const std::string& page : pages()) {
    const std::string text = read(root / page);
    if (text.empty()) wrong.push_back(page + " is missing or empty");
    for (const std::string& link : links_of(text)) {
      if (link.find("://") != std::string::npos || starts_with(link, "mailto:")) continue;
      const auto hash = link.find('#');
      const std::string file = link.substr(0, hash);
      const fs::path target = file.empty() ? root / page : (root / page).parent_path() / file;
      if (!fs::exists(target)) {
        wrong.push_back(page + " -> " + link);
      } else if (hash != std::string::npos && target.extension() == ".md" &&
                 !anchors_of(read(target)).count(link.substr(hash + 1))) {
        wrong.push_back(page + " -> " + link + " (no such heading)");
      }
    }
  }
  require_none(wrong);
}

/// The documents that a header names, in comments and in messages: "... See docs/reference/mask/rule.md". A message that
/// puts the name together at run time ("docs/reference/nn/" and a page) counts as the folder.
std::set<std::string> pages_named_in(const std::string& text) {
  // A message may be split over two string literals in the middle of a path.
  std::string flat;
  for (const std::string& line : lines_of(text)) {
    std::string part = trimmed(line);
    if (ends_with(flat, "\"") && starts_with(part, "\"")) {
      flat.pop_back();
      part.erase(0, 1);
    } else {
      flat += '\n';
    }
    flat += part;
  }
  std::set<std::string> result;
  for (auto at = flat.find("docs/"); at != std::string::npos; at = flat.find("docs/", at + 1)) {
    auto end = at;
    while (end < flat.size() && (std::isalnum(static_cast<unsigned char>(flat[end])) || flat[end] == '_' ||
                                 flat[end] == '/' || flat[end] == '.' || flat[end] == '-'))
      ++end;
    std::string page = flat.substr(at, end - at);
    if (const auto suffix = page.find(".md"); suffix != std::string::npos) page.resize(suffix + 3);
    result.insert(page);
  }
  // The second string of "subject self{"mask::prefix", "mask/prefix"}".
  for (auto at = flat.find("subject "); at != std::string::npos; at = flat.find("subject ", at + 1)) {
    auto brace = at + std::string("subject ").size();
    while (brace < flat.size() && (std::isalnum(static_cast<unsigned char>(flat[brace])) || flat[brace] == '_'))
      ++brace;
    if (flat.compare(brace, 2, "{\"") != 0) continue;
    const auto comma = flat.find("\",", brace + 2);
    const auto open = flat.find('"', comma + 2);
    const auto close = flat.find('"', open + 1);
    if (comma == std::string::npos || close == std::string::npos) continue;
    result.insert("docs/reference/" + flat.substr(open + 1, close - open - 1) + ".md");
  }
  return result;
}

TEST_CASE("structure: every public header has a reference page, and every page a header", "[structure]") {
  // Machinery that the pages of what uses it explain; arch, reference.hpp and tuning.hpp belong to their families.
  const std::set<std::string> no_page = {"core/bits", "core/config", "core/scratch", "core/target", "linalg/buffer"};
  violations wrong;
  std::set<std::string> explained;
  for (const auto& [header, text] : headers()) {
    const fs::path path = header;
    const std::string stem = fs::path(path).replace_extension("").generic_string();
    const std::set<std::string> named = pages_named_in(text);
    explained.insert("docs/reference/" + stem + ".md");
    explained.insert(named.begin(), named.end());
    if (is_detail(header) || is_umbrella(header) || no_page.count(stem) || folder_of(header) == "arch" ||
        path.stem() == "reference" || path.stem() == "tuning" || fs::exists(root / "docs/reference" / (stem + ".md")))
      continue;
    // A page may explain neighbors too; their headers then name it.
    const std::string folder = "docs/reference/" + folder_of(header) + "/";
    const bool neighbor = std::any_of(named.begin(), named.end(), [&](const std::string& page) {
      return starts_with(page, folder) && ends_with(page, ".md");
    });
    if (!neighbor) wrong.push_back(header + " has no docs/reference/" + stem + ".md and names no page of its folder");
  }
  for (const std::string& file : files(root, "docs/reference", {".md"}))
    if (fs::path(file).stem() != "index" && !explained.count(file)) wrong.push_back(file + " describes no header");
  require_none(wrong);
}

TEST_CASE("structure: pages that comments and messages point to exist", "[structure]") {
  REQUIRE(pages_named_in("/// x.  Page docs/a.md\n  \"See docs/\"\n  \"b/c.md.\"\n\"docs/d/\", page") ==
          std::set<std::string>{"docs/a.md", "docs/b/c.md", "docs/d/"});
  REQUIRE(pages_named_in("static constexpr subject self{\"a::b\",\n  \"a/b\"};\nvoid f(const subject& self);") ==
          std::set<std::string>{"docs/reference/a/b.md"});
  violations wrong;
  for (const auto& [header, text] : headers())
    for (const std::string& page : pages_named_in(text))
      if (!fs::exists(root / page)) wrong.push_back(header + " points to " + page);
  require_none(wrong);
}
