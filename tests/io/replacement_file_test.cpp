// SPDX-License-Identifier: Apache-2.0
#include "files.hpp"
#include <seqprim/io/replacement_file.hpp>

#include <csignal>
#include <span>
#include <sys/resource.h>

using namespace seqprim;
using namespace seqprim::test;

namespace {

// example-begin replacement_file
void replace(const std::string& path, const std::string& text) {
  io::replacement_file file(path);  // creates <path>.tmp-...
  file.write(std::as_bytes(std::span(text)));
  file.commit();  // fsync, rename
}
// example-end replacement_file

unsigned permissions(const std::string& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777u;
}

using names = std::vector<std::string>;

}  // namespace

TEST_CASE("replacement_file: a commit makes or replaces the file and leaves nothing else", "[io]") {
  const temporary_folder folder;
  replace(folder / "a", "one");
  REQUIRE(read_file(folder / "a") == "one");
  replace(folder / "a", "");
  REQUIRE(read_file(folder / "a").empty());

  io::replacement_file file(folder / "a");
  file.write(to_bytes("two "));
  file.write({});
  file.write(to_bytes("parts"));
  REQUIRE(read_file(folder / "a").empty());
  REQUIRE(folder.entries().size() == 2);
  file.commit();
  REQUIRE(read_file(folder / "a") == "two parts");
  REQUIRE(folder.entries() == names{"a"});
}

TEST_CASE("replacement_file: without a commit the old file stays and the temporary goes", "[io]") {
  const temporary_folder folder;
  write_file(folder / "a", "old");
  { io::replacement_file(folder / "a").write(to_bytes("new")); }
  REQUIRE(read_file(folder / "a") == "old");
  REQUIRE(folder.entries() == names{"a"});
}

TEST_CASE("replacement_file: two writers of one name do not disturb each other", "[io]") {
  const temporary_folder folder;
  io::replacement_file first(folder / "a");
  io::replacement_file second(folder / "a");
  first.write(to_bytes("first"));
  second.write(to_bytes("second"));
  second.commit();
  REQUIRE(read_file(folder / "a") == "second");
  first.commit();
  REQUIRE(read_file(folder / "a") == "first");
  REQUIRE(folder.entries() == names{"a"});
}

TEST_CASE("replacement_file: permission bits stay, and links are followed", "[io]") {
  const temporary_folder folder;
  write_file(folder / "a", "old");
  REQUIRE(::chmod((folder / "a").c_str(), 0640) == 0);
  std::filesystem::create_symlink("a", folder / "link");
  replace(folder / "link", "new");
  REQUIRE(std::filesystem::is_symlink(folder / "link"));
  REQUIRE(read_file(folder / "a") == "new");
  REQUIRE(permissions(folder / "a") == 0640u);
}

TEST_CASE("replacement_file: a link to a file that does not exist makes that file", "[io]") {
  const temporary_folder folder;
  std::filesystem::create_directory(folder / "sub");
  std::filesystem::create_symlink("second", folder / "sub/first");  // relative to its own folder
  std::filesystem::create_symlink(folder / "sub/first", folder / "link");
  replace(folder / "link", "new");
  REQUIRE(std::filesystem::is_symlink(folder / "link"));
  REQUIRE(std::filesystem::is_symlink(folder / "sub/first"));
  REQUIRE(read_file(folder / "sub/second") == "new");
  REQUIRE(folder.entries() == names{"link", "sub"});
}

TEST_CASE("replacement_file: links in a circle are an error and stay", "[io][errors]") {
  const temporary_folder folder;
  std::filesystem::create_symlink("b", folder / "a");
  std::filesystem::create_symlink("a", folder / "b");
  REQUIRE(
      refuses([&] { io::replacement_file file(folder / "a"); }, "a\" is a symbolic link that leads through more than"));
  REQUIRE(std::filesystem::is_symlink(folder / "a"));
  REQUIRE(folder.entries() == names{"a", "b"});
}

TEST_CASE("replacement_file: refuses what it must not or cannot replace", "[io][errors]") {
  const temporary_folder folder;
  const auto begin = [](const std::string& path) { return [path] { io::replacement_file file(path); }; };
  REQUIRE(refuses(begin(folder / "no/a"), "no/a\" cannot be written: the temporary"));
  REQUIRE(refuses(begin(folder / "no/a"), "No such file or directory"));
  REQUIRE(refuses(begin(folder.path().string()), "exists and is not a regular file"));
  REQUIRE(refuses(begin("/dev/null"), "exists and is not a regular file"));
  write_file(folder / "a", "old");
  REQUIRE(refuses(begin(folder / "a/b"), "Not a directory"));

  REQUIRE(as_ordinary_user([&] { return refuses(begin(folder / "b"), "cannot be created: Permission denied"); }));
  REQUIRE(::chmod(folder.path().c_str(), 0777) == 0);
  REQUIRE(::chmod((folder / "a").c_str(), 0444) == 0);
  REQUIRE(as_ordinary_user([&] { return refuses(begin(folder / "a"), "a\" is not writable"); }));
  REQUIRE(folder.entries() == names{"a"});
}

TEST_CASE("replacement_file: when the disk is full the old file stays and the temporary goes", "[io][errors]") {
  const temporary_folder folder;
  write_file(folder / "a", "old");
  REQUIRE(::chmod(folder.path().c_str(), 0777) == 0);
  REQUIRE(::chmod((folder / "a").c_str(), 0666) == 0);
  REQUIRE(as_ordinary_user([&] {
    const rlimit limit{100, 100};  // files may not grow beyond 100 bytes: stands for a disk that is full
    std::signal(SIGXFSZ, SIG_IGN);
    return ::setrlimit(RLIMIT_FSIZE, &limit) == 0 &&
           refuses([&] { replace(folder / "a", std::string(1000, 'x')); }, "a\" cannot be written: File too large");
  }));
  REQUIRE(read_file(folder / "a") == "old");
  REQUIRE(folder.entries() == names{"a"});
}

TEST_CASE("replacement_file: a name that became a folder is not replaced", "[io][errors]") {
  const temporary_folder folder;
  {
    io::replacement_file file(folder / "a");
    file.write(to_bytes("new"));
    std::filesystem::create_directory(folder / "a");
    REQUIRE(refuses([&] { file.commit(); }, "a\" cannot be replaced: Is a directory"));
  }
  REQUIRE(folder.entries() == names{"a"});
}
