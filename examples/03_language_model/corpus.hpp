// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/core/index.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>
#include <system_error>
#include <vector>

/// The text of the demonstration: where it comes from, how it is split, how predictable it is to simple counting.
namespace demo {

using bytes = std::vector<std::uint8_t>;

/// Training and held-out text. The last tenth of every file is held out, so both parts hold the same kinds of text and no
/// held-out byte is trained on.
struct corpus {
  bytes train, held_out;
  int files = 0;
  std::uint64_t fingerprint = 0xcbf29ce484222325u;  ///< FNV-1a over all bytes: tells whether a checkpoint saw this text

  void add(const bytes& text) {
    for (const std::uint8_t b : text) fingerprint = (fingerprint ^ b) * 0x100000001b3u;
    const auto kept = static_cast<std::ptrdiff_t>(text.size() - text.size() / 10);
    train.insert(train.end(), text.begin(), text.begin() + kept);
    held_out.insert(held_out.end(), text.begin() + kept, text.end());
    ++files;
  }
};

inline bytes read_file(const std::string& path) {
  std::error_code failure;
  const auto status = std::filesystem::status(path, failure);
  if (!std::filesystem::exists(status)) throw seqprim::io_error("text file '" + path + "' does not exist");
  if (!std::filesystem::is_regular_file(status)) throw seqprim::io_error("'" + path + "' is not a file with text");
  std::FILE* const file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) throw seqprim::io_error("text file '" + path + "' cannot be read");
  bytes text;
  std::uint8_t block[1 << 16];
  std::size_t count;
  while ((count = std::fread(block, 1, sizeof block, file)) > 0) text.insert(text.end(), block, block + count);
  const bool failed = std::ferror(file) != 0;
  std::fclose(file);
  if (failed) throw seqprim::io_error("text file '" + path + "' cannot be read to its end");
  return text;
}

/// The files of the default text, in a fixed order: the sources and pages of this repository, and the license texts that a
/// Debian system carries.
inline std::vector<std::string> default_files(const std::string& repository) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  const auto collect = [&](const fs::path& folder, const std::vector<std::string>& extensions) {
    std::error_code failure;
    for (fs::recursive_directory_iterator it(folder, failure), end; !failure && it != end; it.increment(failure)) {
      const auto extension = it->path().extension().string();
      const bool wanted =
          extensions.empty() || std::find(extensions.begin(), extensions.end(), extension) != extensions.end();
      if (wanted && it->is_regular_file(failure) && !it->is_symlink(failure)) files.push_back(it->path().string());
    }
  };
  for (const char* folder : {"include", "docs", "examples", "tests", "benchmarks"})
    collect(fs::path(repository) / folder, {".hpp", ".cuh", ".cpp", ".cu", ".md"});
  for (const char* page : {"README.md", "CHANGELOG.md"})
    if (fs::exists(fs::path(repository) / page)) files.push_back((fs::path(repository) / page).string());
  // In the order of their names below the repository, so that its place on the disk changes nothing.
  std::sort(files.begin(), files.end());
  const auto own = static_cast<std::ptrdiff_t>(files.size());
  collect("/usr/share/common-licenses", {});
  std::sort(files.begin() + own, files.end());
  return files;
}

/// Bits per byte that counting reaches on this very text: single bytes (unigram), and each byte after the one before it
/// (bigram). Both are measured on the text itself, which flatters them: no model of that order does better on it.
struct entropies {
  double unigram = 0, bigram = 0;
};
inline entropies measure(const bytes& text) {
  std::vector<double> single(256), pair(65536), first(256);
  for (std::size_t i = 0; i < text.size(); ++i) {
    single[text[i]] += 1;
    if (i > 0) {
      pair[std::size_t{text[i - 1]} * 256 + text[i]] += 1;
      first[text[i - 1]] += 1;
    }
  }
  const auto n = static_cast<double>(text.size());
  entropies result;
  for (const double c : single)
    if (c > 0) result.unigram -= c / n * std::log2(c / n);
  for (std::size_t a = 0; a < 256; ++a)
    for (std::size_t b = 0; b < 256; ++b)
      if (const double c = pair[a * 256 + b]; c > 0) result.bigram -= c / (n - 1) * std::log2(c / first[a]);
  return result;
}

}  // namespace demo
