// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

/// Reading of the source tree for the tests of its structure: plain text, no compiler.
namespace structure {

namespace fs = std::filesystem;

inline std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// All files below a folder with one of the extensions, relative to `root`, sorted.
inline std::vector<std::string> files(const fs::path& root, const std::string& folder,
                                      const std::set<std::string>& extensions) {
  std::vector<std::string> result;
  if (!fs::exists(root / folder)) return result;
  for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
    if (entry.is_regular_file() && extensions.count(entry.path().extension().string()))
      result.push_back(fs::relative(entry.path(), root).generic_string());
  }
  std::sort(result.begin(), result.end());
  return result;
}

inline bool starts_with(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }
inline bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

inline std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

/// The rest of a preprocessor line after its directive, or an empty string: ("#  include <a>", "include") -> "<a>".
inline std::string directive(const std::string& line, const std::string& name) {
  std::string text = trimmed(line);
  if (text.empty() || text[0] != '#') return "";
  text = trimmed(text.substr(1));
  if (!starts_with(text, name)) return "";
  const std::string rest = text.substr(name.size());
  if (!rest.empty() && (std::isalnum(static_cast<unsigned char>(rest[0])) || rest[0] == '_')) return "";
  return trimmed(rest);
}

/// What a source includes, with its brackets or quotes: {"<vector>", "<seqprim/core/index.hpp>"}.
inline std::vector<std::string> includes_of(const std::string& text) {
  std::vector<std::string> result;
  for (const std::string& line : lines_of(text)) {
    const std::string target = directive(line, "include");
    if (target.empty()) continue;
    const char close = target[0] == '<' ? '>' : '"';
    result.push_back(target.substr(0, target.find(close, 1) + 1));
  }
  return result;
}

/// "<seqprim/mask/causal.hpp>" -> "mask/causal.hpp"; empty for other includes.
inline std::string own_header(const std::string& include) {
  const std::string start = "<seqprim/";
  return starts_with(include, start) ? include.substr(start.size(), include.size() - start.size() - 1) : "";
}

/// "mask/causal.hpp" -> "mask"; the umbrella headers lie in "".
inline std::string folder_of(const std::string& header) {
  const auto slash = header.find('/');
  return slash == std::string::npos ? "" : header.substr(0, slash);
}

/// The folders of the library from left to right; a folder includes itself and what stands in a group to its left.
inline const std::vector<std::set<std::string>>& arrows() {
  static const std::vector<std::set<std::string>> groups = {
      {"core"},
      {"arch"},
      {"linalg"},
      {"mask", "score", "position", "tokenize", "transform"},
      {"attention", "recurrence", "sampling"},
      {"decoding", "nn", "loss"},
      {"io", "dist"},
  };
  return groups;
}

/// Place of a folder in `arrows`, or -1.
inline int group_of(const std::string& folder) {
  for (std::size_t i = 0; i < arrows().size(); ++i)
    if (arrows()[i].count(folder)) return static_cast<int>(i);
  return -1;
}

inline bool may_include(const std::string& from, const std::string& to) {
  return from == to || (group_of(from) >= 0 && group_of(to) >= 0 && group_of(to) < group_of(from));
}

inline bool is_detail(const std::string& header) { return header.find("/detail/") != std::string::npos; }

/// "mask/mask.hpp" only collects the headers of its folder.
inline bool is_umbrella(const std::string& header) {
  return folder_of(header).empty() || fs::path(header).stem() == folder_of(header);
}

/// GitHub's anchor of a heading: lower case, punctuation dropped, spaces to hyphens.
inline std::string anchor_of(const std::string& heading) {
  std::string anchor;
  for (const char c : heading) {
    const auto u = static_cast<unsigned char>(c);
    if (std::isalnum(u) || c == '_' || c == '-') anchor += static_cast<char>(std::tolower(u));
    if (c == ' ') anchor += '-';
  }
  return anchor;
}

/// Text without fenced code blocks.
inline std::string without_code(const std::string& markdown) {
  std::string result;
  bool code = false;
  for (const std::string& line : lines_of(markdown)) {
    if (starts_with(trimmed(line), "```")) {
      code = !code;
    } else if (!code) {
      result += line + '\n';
    }
  }
  return result;
}

inline std::set<std::string> anchors_of(const std::string& markdown) {
  std::set<std::string> anchors;
  for (const std::string& line : lines_of(without_code(markdown))) {
    const auto hashes = line.find_first_not_of('#');
    if (hashes == 0 || hashes == std::string::npos || line[hashes] != ' ') continue;
    anchors.insert(anchor_of(trimmed(line.substr(hashes))));
  }
  return anchors;
}

/// Targets of [text](target), ![image](target) and src="target" outside code blocks.
inline std::vector<std::string> links_of(const std::string& markdown) {
  std::vector<std::string> links;
  const std::string text = without_code(markdown);
  for (const std::string& open : {std::string("]("), std::string("src=\""), std::string("href=\"")}) {
    const char close = open == "](" ? ')' : '"';
    for (auto at = text.find(open); at != std::string::npos; at = text.find(open, at + 1)) {
      const auto begin = at + open.size();
      links.push_back(text.substr(begin, text.find(close, begin) - begin));
    }
  }
  return links;
}

}  // namespace structure
