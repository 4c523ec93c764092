// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/io/detail/descriptor.hpp>
#include <seqprim/io/detail/text.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <fcntl.h>
#include <span>
#include <string>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace seqprim::io {

/// Writes a file as a whole: readers see the old content or the new one, never a part. POSIX.
///
/// The bytes go to "<path>.tmp-<process>-<number>" in the same folder. commit() writes them through to the disk,
/// renames the temporary to `path`, and writes the folder through. Without a commit - an exception, for example - the
/// destructor removes the temporary.
///
/// Edge    an existing file keeps its permission bits. A symbolic link is followed, also to a file that does not exist yet. Writers of one path do
///         not disturb each other; the last commit stays. A process that is killed leaves its temporary behind.
/// Errors  io_error naming the file: the folder is missing or not writable, the disk is full, the path is a folder, a
///         device or another kind of file that is not regular, or the file is marked read-only. The old file is
///         untouched.
/// Cost    one fsync of the file and one of the folder; writes are not buffered, so pass large pieces.
class replacement_file {
 public:
  explicit replacement_file(const std::string& path) : path_(path) {
    target_ = followed(path);
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
    // Best effort: some file systems do not allow to change the bits.
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
    // The new name is durable when the folder is. File systems without folder sync report an error, which is ignored.
    const std::size_t slash = target_.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : target_.substr(0, slash + 1);
    const detail::descriptor entries{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (entries.open()) static_cast<void>(::fsync(entries.number()));
  }

 private:
  static constexpr int max_attempts = 1000;

  /// The file that a name stands for, also when it does not exist yet: links are followed to their end.
  [[nodiscard]] std::string followed(std::string name) const {
    constexpr int most_links = 40;  // as Linux
    for (int link = 0; link < most_links; ++link) {
      char text[4096];
      const ssize_t length = ::readlink(name.c_str(), text, sizeof text);
      if (length < 0) return name;  // no link, or nothing
      if (length == static_cast<ssize_t>(sizeof text)) fail("is a symbolic link to a name that is too long");
      const std::string next(text, static_cast<std::size_t>(length));
      const std::size_t slash = name.rfind('/');
      name = next.front() == '/' || slash == std::string::npos ? next : name.substr(0, slash + 1) + next;
    }
    fail("is a symbolic link that leads through more than ", most_links, " others");
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
