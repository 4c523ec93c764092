// SPDX-License-Identifier: Apache-2.0
// Which tensors of the golden files did the tests read? Every test program leaves the names of those that it read; this one
// runs after them. tests/golden/README.md says what files.txt holds.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <support/catch.hpp>
#include <support/golden.hpp>

using namespace seqprim;
namespace fs = std::filesystem;

namespace {

using names = std::set<std::string>;

names lines_of(const fs::path& path) {
  names lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.insert(line);
  return lines;
}

std::string joined(const names& list) {
  std::string text;
  for (const std::string& name : list) text += "\n  " + name;
  return text;
}

/// What one family has and lacks; entries are "stem" or "stem:tensor".
struct coverage {
  names unread;    // in a file, read by no test, not listed
  names stale;     // listed as unread, but read, or in no file
  names unlisted;  // files that files.txt does not name
  names later;     // files that files.txt names and the folder lacks
  index_t read = 0, tensors = 0;
};

/// `files`: the tensors of each file of the folder; `listed`: files.txt; `read`: what the tests read, as "stem:tensor".
coverage cover(const std::map<std::string, names>& files, const names& listed, const names& read) {
  coverage result;
  names all;
  for (const auto& [stem, tensors] : files) {
    if (!listed.count(stem)) result.unlisted.insert(stem);
    for (const std::string& name : tensors) {
      const std::string tensor = stem + ':' + name;
      all.insert(tensor);
      ++result.tensors;
      result.read += read.count(tensor) != 0;
      if (!read.count(tensor) && !listed.count(tensor)) result.unread.insert(tensor);
    }
  }
  for (const std::string& entry : listed) {
    if (entry.find(':') == std::string::npos) {
      if (!files.count(entry)) result.later.insert(entry);
    } else if (!all.count(entry) || read.count(entry)) {
      result.stale.insert(entry);
    }
  }
  return result;
}

}  // namespace

TEST_CASE("golden_coverage: counts tensors, and notices what is unread, stale or unlisted", "[golden]") {
  const std::map<std::string, names> files = {{"a", {"x", "y", "z"}}, {"b", {"x"}}};
  const coverage c = cover(files, {"a", "a:y", "a:z", "a:gone", "c"}, {"a:x", "a:z"});
  REQUIRE(c.unread == names{"b:x"});
  REQUIRE(c.stale == names{"a:z", "a:gone"});
  REQUIRE(c.unlisted == names{"b"});
  REQUIRE(c.later == names{"c"});
  REQUIRE(c.read == 2);
  REQUIRE(c.tensors == 4);
}

TEST_CASE("golden_coverage: every tensor of the golden files is read by a test or listed as unread", "[golden]") {
  names read;
  for (const std::string& program : lines_of(fs::path(SEQPRIM_GOLDEN_READS) / "programs")) {
    const names tensors = lines_of(fs::path(SEQPRIM_GOLDEN_READS) / (program + ".txt"));
    CAPTURE(program);
    CHECK_FALSE(tensors.empty());  // it includes support/golden.hpp
    read.insert(tensors.begin(), tensors.end());
  }
  for (const auto& folder : fs::directory_iterator(SEQPRIM_GOLDEN_DIR)) {
    if (!folder.is_directory()) continue;
    const std::string family = folder.path().filename().string();
    std::map<std::string, names> files;
    for (const auto& entry : fs::directory_iterator(folder))
      if (entry.path().extension() == ".safetensors") {
        const golden g(family, entry.path().stem().string());
        files[entry.path().stem().string()] = {g.names().begin(), g.names().end()};
      }
    names read_here;
    for (const std::string& entry : read)
      if (entry.starts_with(family + '/')) read_here.insert(entry.substr(family.size() + 1));
    const names listed = lines_of(folder.path() / "files.txt");
    const coverage c = cover(files, listed, read_here);

    std::printf("%s: %lld of %lld tensors read; files of primitives that do not exist yet: %zu\n", family.c_str(),
                static_cast<long long>(c.read), static_cast<long long>(c.tensors), c.later.size());
    CAPTURE(family);
    CHECK(joined(c.unread) == "");  // no test reads them; a new include of support/golden.hpp needs cmake to run again
    CHECK(joined(c.stale) == "");   // listed as unread in files.txt, but read or gone
    CHECK(joined(c.unlisted) == "");  // not in files.txt
    CHECK(c.tensors > 0);
  }
}
