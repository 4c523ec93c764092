// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/io/detail/descriptor.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <support/catch.hpp>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

// What the tests of io/ share: a folder of their own, whole files as strings, safetensors files from parts, a process with
// fewer rights.
namespace seqprim::test {

/// A new folder that goes with everything in it.
class temporary_folder {
 public:
  temporary_folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "seqprim-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  temporary_folder(const temporary_folder&) = delete;
  ~temporary_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  [[nodiscard]] std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

  /// Names of the entries.
  [[nodiscard]] std::vector<std::string> entries() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::filesystem::path path_;
};

inline void write_file(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}
[[nodiscard]] inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

using byte_vector = std::vector<std::byte>;

[[nodiscard]] inline byte_vector to_bytes(const std::string& text) {
  byte_vector bytes(text.size());
  if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

/// A safetensors file from its JSON header and `data` zero bytes.
[[nodiscard]] inline byte_vector safetensors_bytes(const std::string& header, std::size_t data) {
  const std::uint64_t length = header.size();
  byte_vector bytes(8 + header.size() + data);
  std::memcpy(bytes.data(), &length, 8);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  return bytes;
}

/// Runs body in a child process that has the rights of an ordinary user; true when the body returned true.
template <class Body> [[nodiscard]] bool as_ordinary_user(const Body& body) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    constexpr unsigned nobody = 65534;
    bool good = ::geteuid() != 0 || (::setgid(nobody) == 0 && ::setuid(nobody) == 0);
    try {
      good = good && body();
    } catch (...) {
      good = false;
    }
    ::_exit(good ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/// True when call() throws io_error with this text.
template <class Call> [[nodiscard]] bool refuses(const Call& call, const std::string& text) {
  try {
    call();
  } catch (const io_error& error) {
    return std::string(error.what()).find(text) != std::string::npos;
  }
  return false;
}

}  // namespace seqprim::test
