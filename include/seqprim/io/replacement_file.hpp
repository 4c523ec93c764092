// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/io/detail/descriptor.hpp>
#include <seqprim/io/detail/text.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <span>
#include <string>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace seqprim::io {

/// Writes a file as a whole: others see the old file or the new one, never a part. The bytes go to a temporary name in the
/// same folder; commit() makes them durable and renames. Without a commit the temporary is removed, also by an exception.
/// POSIX.
///
///     replacement_file file("loss.svg");
///     file.write(as_bytes(text));
///     file.commit();
///
/// Edge     a file that exists keeps its permission bits; a symbolic link to a file is followed. Neither a folder nor a
///          device is ever replaced, nor a file that is marked read-only. A process that is killed leaves its temporary,
///          "<path>.tmp-<process>-<number>".
/// Errors   io_error: no such folder, no permission, no space, no regular file under this name. The old file is untouched.
/// Cost     one fsync of the file and one of the folder.
class replacement_file {
 public:
  explicit replacement_file(const std::string& path) : path_(path), target_(resolve(path)) {
    struct stat status {};
    const bool exists = ::stat(target_.c_str(), &status) == 0;
    if (exists) {
      if (!S_ISREG(status.st_mode)) fail("exists and is not a regular file");
      if (::access(target_.c_str(), W_OK) != 0) fail("is not writable");
    }
    int error = EEXIST;
    for (int attempt = 0; attempt < max_attempts && error == EEXIST; ++attempt) {
      temporary_ = message(target_, ".tmp-", ::getpid(), '-', attempt);
      file_ = detail::descriptor{::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)};
      error = file_.open() ? 0 : errno;
    }
    if (error != 0) {
      const std::string name = std::exchange(temporary_, {});  // not ours to remove
      fail("cannot be written: the temporary ", detail::in_quotes(name),
           " cannot be created: ", detail::system_reason(error));
    }
    // Best effort: on some file systems nobody may change the bits.
    if (exists) static_cast<void>(::fchmod(file_.number(), status.st_mode & 07777u));
  }

  replacement_file(replacement_file&&) = delete;
  ~replacement_file() {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }

  /// Appends bytes.
  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(file_.number(), bytes.data(), bytes.size());
      if (written < 0) {
        if (errno == EINTR) continue;
        fail("cannot be written: ", detail::system_reason(errno));
      }
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }

  /// Puts the new file in the place of the old one. Once.
  void commit() {
    if (::fsync(file_.number()) != 0) fail("cannot be written: ", detail::system_reason(errno));
    if (file_.close() != 0) fail("cannot be written: ", detail::system_reason(errno));
    if (std::rename(temporary_.c_str(), target_.c_str()) != 0)
      fail("cannot be replaced: ", detail::system_reason(errno));
    temporary_.clear();
    // The new name is durable when the folder is. File systems without folder sync refuse, which is no error of ours.
    const std::size_t slash = target_.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : target_.substr(0, slash + 1);
    const detail::descriptor entries{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (entries.open()) static_cast<void>(::fsync(entries.number()));
  }

 private:
  static constexpr int max_attempts = 1000;

  [[nodiscard]] static std::string resolve(const std::string& path) {
    char* const real = ::realpath(path.c_str(), nullptr);
    if (real == nullptr) return path;
    std::string result = real;
    std::free(real);
    return result;
  }

  template <class... Parts> [[noreturn]] void fail(const Parts&... parts) const {
    detail::throw_io(detail::in_quotes(path_), " ", parts...);
  }

  std::string path_;       // as the caller named it
  std::string target_;     // what will be replaced
  std::string temporary_;  // exists and must go unless this is empty
  detail::descriptor file_{-1};
};

}  // namespace seqprim::io
