// SPDX-License-Identifier: Apache-2.0
#include "files.hpp"
#include <seqprim/io/mapped_file.hpp>

using namespace seqprim;
using namespace seqprim::test;

static_assert(!std::is_copy_constructible_v<io::mapped_file> && !std::is_copy_assignable_v<io::mapped_file>);
static_assert(std::is_nothrow_move_constructible_v<io::mapped_file>);

namespace {

// example-begin mapped_file
std::string text_of(const io::mapped_file& file) {
  const std::span<const std::byte> bytes = file.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
// example-end mapped_file

}  // namespace

TEST_CASE("mapped_file: shows the bytes of a file, also after a move", "[io]") {
  const temporary_folder folder;
  write_file(folder / "a", "first");
  write_file(folder / "b", "the second");
  io::mapped_file a(folder / "a");
  REQUIRE(text_of(a) == "first");
  const auto* const address = a.bytes().data();

  io::mapped_file moved(std::move(a));
  REQUIRE(moved.bytes().data() == address);
  REQUIRE(a.bytes().empty());

  moved = io::mapped_file(folder / "b");
  REQUIRE(text_of(moved) == "the second");
}

TEST_CASE("mapped_file: keeps the old bytes when the file is replaced by renaming", "[io]") {
  const temporary_folder folder;
  write_file(folder / "a", "old");
  const io::mapped_file file(folder / "a");
  write_file(folder / "new", "new");
  std::filesystem::rename(folder / "new", folder / "a");
  REQUIRE(text_of(file) == "old");
}

TEST_CASE("mapped_file: an empty file has no bytes", "[io][edge]") {
  const temporary_folder folder;
  write_file(folder / "empty", "");
  REQUIRE(io::mapped_file(folder / "empty").bytes().empty());
  REQUIRE(io::mapped_file().bytes().empty());
}

TEST_CASE("mapped_file: what cannot be mapped is named in one error", "[io][errors]") {
  const temporary_folder folder;
  const auto open = [](const std::string& path) { return [path] { io::mapped_file file(path); }; };
  REQUIRE(refuses(open(folder / "nothing"), "nothing\" cannot be opened: No such file or directory"));
  REQUIRE(refuses(open(""), "\"\" cannot be opened: No such file or directory"));
  REQUIRE(refuses(open(folder.path().string()), " is a directory, not a file"));

  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  REQUIRE(refuses(open(folder / "pipe"), "pipe\" is not a regular file"));  // and does not wait for a writer
  REQUIRE(refuses(open("/dev/zero"), "is not a regular file"));

  write_file(folder / "secret", "content");
  REQUIRE(::chmod((folder / "secret").c_str(), 0) == 0);
  REQUIRE(as_ordinary_user([&] { return refuses(open(folder / "secret"), "cannot be opened: Permission denied"); }));
}
