// SPDX-License-Identifier: Apache-2.0
// Which golden files do the tests use? Looks at the string literals of the test sources; README.md says what counts.
#include <cctype>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <support/catch.hpp>
#include <support/golden_pattern.hpp>
#include <vector>

using seqprim::golden_matches;
namespace fs = std::filesystem;

namespace {

struct literal {
  std::string text;
  bool second = false;  // only a comma stands between this literal and the one before
};

/// The string literals of a C++ source in order, without comments and character literals. Raw strings are not special.
std::vector<literal> literals_of(const std::string& source) {
  std::vector<literal> result;
  std::string between;  // code since the last literal, without blanks
  for (std::size_t i = 0; i < source.size(); ++i) {
    const char c = source[i];
    const char next = i + 1 < source.size() ? source[i + 1] : '\0';
    if (c == '/' && next == '/') {
      while (i < source.size() && source[i] != '\n') ++i;
    } else if (c == '/' && next == '*') {
      i = source.find("*/", i + 2);
      if (i == std::string::npos) break;
      ++i;
    } else if (c == '\'' && i > 0 && std::isalnum(static_cast<unsigned char>(source[i - 1])) != 0) {
      continue;  // 1'000
    } else if (c == '"' || c == '\'') {
      std::string text;
      for (++i; i < source.size() && source[i] != c && source[i] != '\n'; ++i) {
        text += source[i];
        if (source[i] == '\\' && ++i < source.size()) text += source[i];
      }
      if (c == '"') result.push_back({text, between == ","});
      between.clear();
    } else if (std::isspace(static_cast<unsigned char>(c)) == 0) {
      between += c;
    }
  }
  return result;
}

using names = std::set<std::string>;

struct family {
  names present;  // in the folder
  names all;      // in files.txt
};

std::map<std::string, family> families() {
  std::map<std::string, family> result;
  for (const auto& folder : fs::directory_iterator(SEQPRIM_GOLDEN_DIR)) {
    if (!folder.is_directory()) continue;
    family& f = result[folder.path().filename().string()];
    for (const auto& entry : fs::directory_iterator(folder))
      if (entry.path().extension() == ".safetensors") f.present.insert(entry.path().stem().string());
    std::ifstream list(folder.path() / "files.txt");
    for (std::string line; std::getline(list, line);) f.all.insert(line);
  }
  return result;
}

/// What one source says about one family.
struct uses {
  names found;    // stems that it names
  names missing;  // literals that name no file
};

uses uses_of(const std::vector<literal>& literals, const std::string& name, const names& stems) {
  uses result;
  bool mentioned = false;
  for (const literal& l : literals) mentioned = mentioned || l.text == name;
  if (!mentioned) return result;
  for (std::size_t i = 0; i < literals.size(); ++i) {
    const std::string& text = literals[i].text;
    bool any = false;
    if (text.size() > 3)  // "*" is no name
      for (const std::string& stem : stems)
        if (golden_matches(text, stem)) {
          any = true;
          result.found.insert(stem);
        }
    if (!any && literals[i].second && literals[i - 1].text == name) result.missing.insert(text);
  }
  return result;
}

std::vector<fs::path> test_sources() {
  std::vector<fs::path> result;
  const fs::path root = SEQPRIM_TEST_DIR;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    const std::string extension = entry.path().extension().string();
    const std::string folder = entry.path().lexically_relative(root).begin()->string();
    const bool source = extension == ".cpp" || extension == ".hpp" || extension == ".cu" || extension == ".cuh";
    // io/ and fuzz/ read the files and do not check what is in them.
    const bool reader = folder == "io" || folder == "fuzz" || folder == "golden" || folder == "support";
    if (source && !reader) result.push_back(entry.path());
  }
  return result;
}

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string joined(const names& list) {
  std::string text;
  for (const std::string& name : list) text += (text.empty() ? "" : " ") + name;
  return text;
}

}  // namespace

TEST_CASE("golden_coverage: finds the literals of a source and skips comments", "[golden]") {
  const auto found = literals_of(
      "golden g(\"masks-text\", // why\n \"causal_a\"); // \"comment\"\n/* \"x\" */ f('\"', 1'000, \"a\\\"b\");");
  REQUIRE(found.size() == 3);
  REQUIRE(found[0].text == "masks-text");
  REQUIRE_FALSE(found[0].second);
  REQUIRE(found[1].text == "causal_a");
  REQUIRE(found[1].second);
  REQUIRE(found[2].text == "a\\\"b");
  REQUIRE_FALSE(found[2].second);
}

TEST_CASE("golden_coverage: tells used files from missing ones", "[golden]") {
  const names stems = {"cross_a", "doc_a", "doc_b", "other"};
  const auto in = [&](const std::string& source) { return uses_of(literals_of(source), "family", stems); };
  REQUIRE(in(R"(golden g("family", "cross_a");)").found == names{"cross_a"});
  REQUIRE(in(R"(golden_stems("family", "doc_*"))").found == names{"doc_a", "doc_b"});
  REQUIRE(in(R"(golden g("family", GENERATE("doc_a", "other"));)").found == names{"doc_a", "other"});
  REQUIRE(in(R"(golden g("elsewhere", "cross_a");)").found.empty());
  REQUIRE(in(R"(golden g("family", "cross_b");)").missing == names{"cross_b"});
  REQUIRE(in(R"(golden_stems("family", "dox_*"))").missing == names{"dox_*"});
  REQUIRE(in(R"(golden g("family", "cross_a"); f("a", "*");)").missing.empty());
  REQUIRE(in(R"(golden g("family", "cross_a"); f("a", "*");)").found == names{"cross_a"});
}

TEST_CASE("golden_coverage: every golden file is used, every file that a test names exists", "[golden]") {
  const auto sources = test_sources();
  REQUIRE(sources.size() > 1);
  for (const auto& [name, files] : families()) {
    names used;
    names wrong;
    for (const fs::path& source : sources) {
      const uses u = uses_of(literals_of(read(source)), name, files.present);
      used.insert(u.found.begin(), u.found.end());
      for (const std::string& stem : u.missing) wrong.insert(source.filename().string() + ": " + stem);
    }
    names unused;
    for (const std::string& stem : files.present)
      if (used.count(stem) == 0) unused.insert(stem);
    names later;
    for (const std::string& stem : files.all)
      if (used.count(stem) == 0) later.insert(stem);
    names unlisted;
    for (const std::string& stem : files.present)
      if (files.all.count(stem) == 0) unlisted.insert(stem);

    std::printf("%s: %zu of %zu files used; not yet used: %s\n", name.c_str(), used.size(), files.all.size(),
                later.empty() ? "none" : joined(later).c_str());
    CAPTURE(name);
    CHECK(joined(unused) == "");    // here, but in no test
    CHECK(joined(wrong) == "");     // in a test, but not here
    CHECK(joined(unlisted) == "");  // here, but not in files.txt
    CHECK_FALSE(files.present.empty());
  }
}
