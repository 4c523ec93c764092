// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace seqprim::io::detail {

/// "No such file or directory", from an errno value; thread-safe.
[[nodiscard]] inline std::string system_reason(int error) { return std::generic_category().message(error); }

/// An open file descriptor that closes itself.
class descriptor {
 public:
  explicit descriptor(int number) noexcept : number_(number) {}
  descriptor(descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  descriptor& operator=(descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~descriptor() {
    if (number_ >= 0) ::close(number_);
  }

  [[nodiscard]] int number() const noexcept { return number_; }
  [[nodiscard]] bool open() const noexcept { return number_ >= 0; }
  /// Releases the descriptor and returns the result of close().
  [[nodiscard]] int close() noexcept { return ::close(std::exchange(number_, -1)); }

 private:
  int number_;
};

}  // namespace seqprim::io::detail
