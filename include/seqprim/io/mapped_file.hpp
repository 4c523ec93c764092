// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/io/detail/descriptor.hpp>
#include <seqprim/io/detail/text.hpp>

#include <cerrno>
#include <cstddef>
#include <fcntl.h>
#include <span>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <utility>

namespace seqprim::io {

/// A regular file, mapped read-only into memory; its pages are read when touched. Move-only, POSIX. The bytes start at
/// a page boundary and keep their address when the object moves.
///
/// Edge    an empty or default-constructed file has no bytes.
/// Errors  io_error naming the file: missing, unreadable, a folder, or not a regular file. A pipe is an error at once;
///         the call does not wait for it.
/// Trap: a file that is truncated while it is mapped ends the process with SIGBUS; one that is overwritten in place
/// changes under the reader. Replace files by renaming, as `replacement_file` does.
///
/// Cost    three system calls; no copy.
class mapped_file {
 public:
  mapped_file() = default;

  explicit mapped_file(const std::string& path) {
    // Non-blocking, so that opening a pipe returns at once.
    const detail::descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (!file.open()) detail::throw_io(detail::in_quotes(path), " cannot be opened: ", detail::system_reason(errno));
    struct stat status {};
    if (::fstat(file.number(), &status) != 0)
      detail::throw_io(detail::in_quotes(path), " cannot be examined: ", detail::system_reason(errno));
    if (S_ISDIR(status.st_mode)) detail::throw_io(detail::in_quotes(path), " is a directory, not a file");
    if (!S_ISREG(status.st_mode)) detail::throw_io(detail::in_quotes(path), " is not a regular file");
    if (status.st_size == 0) return;
    const auto size = static_cast<std::size_t>(status.st_size);
    void* const address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number(), 0);
    if (address == MAP_FAILED)
      detail::throw_io(detail::in_quotes(path), " cannot be mapped: ", detail::system_reason(errno));
    bytes_ = {static_cast<const std::byte*>(address), size};
  }

  mapped_file(mapped_file&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  mapped_file& operator=(mapped_file&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~mapped_file() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace seqprim::io
