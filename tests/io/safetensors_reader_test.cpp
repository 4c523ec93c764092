// SPDX-License-Identifier: Apache-2.0
#include "files.hpp"
#include <seqprim/io/safetensors.hpp>

#include <span>

using namespace seqprim;
using namespace seqprim::test;

static_assert(!std::is_copy_constructible_v<io::safetensors_file>);
static_assert(std::is_move_constructible_v<io::safetensors_file>);

namespace {

io::safetensors_view parse(const byte_vector& bytes) { return io::safetensors_view::parse(bytes, "test.safetensors"); }

/// A small file with every kind of header entry: metadata, several dtypes, no axes, no elements, a name to escape.
byte_vector sample() {
  const std::string header = R"({"__metadata__":{"format":"pt","note":"caf\u00e9"},)"
                             R"("weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                             R"("step":{"dtype":"I64","shape":[],"data_offsets":[24,32]},)"
                             R"("none":{"dtype":"F64","shape":[0,4],"data_offsets":[32,32]},)"
                             R"("a \"b\"":{"dtype":"BF16","shape":[2],"data_offsets":[32,36]},)"
                             R"("mask":{"dtype":"BOOL","shape":[1,2],"data_offsets":[36,38]},)"
                             R"("f8":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[38,40]}})";
  byte_vector bytes = safetensors_bytes(header + std::string((8 - header.size() % 8) % 8, ' '), 40);
  const float weight[] = {0, 1, 2, 3, 4, 5};
  const std::int64_t step = -7;
  const bfloat16 pair[] = {bfloat16(1.5f), bfloat16(-2.0f)};
  const unsigned char rest[] = {1, 0, 0x38, 0xb8};
  std::byte* const data = bytes.data() + bytes.size() - 40;
  std::memcpy(data, weight, 24);
  std::memcpy(data + 24, &step, 8);
  std::memcpy(data + 32, pair, 4);
  std::memcpy(data + 36, rest, 4);
  return bytes;
}

/// Touches all that a file claims to have, as a sanitizer would want it.
unsigned read_everything(const io::safetensors_view& file) {
  unsigned sum = 0;
  for (const auto& tensor : file.tensors())
    for (const std::byte value : file.bytes(tensor.name)) sum += std::to_integer<unsigned>(value);
  for (const auto& [key, value] : file.metadata()) sum += static_cast<unsigned>(key.size() + value.size());
  return sum;
}

}  // namespace

TEST_CASE("safetensors: names, shapes, types, metadata and values of a file arrive", "[io]") {
  const byte_vector bytes = sample();
  const auto file = parse(bytes);
  REQUIRE(file.names() == std::vector<std::string>{"a \"b\"", "f8", "mask", "none", "step", "weight"});
  REQUIRE(file.contains("step"));
  REQUIRE_FALSE(file.contains("ste"));
  REQUIRE(file.dtype("weight") == io::dtype::f32);
  REQUIRE(file.shape("weight") == std::vector<index_t>{2, 3});
  REQUIRE(file.metadata("format") == "pt");
  REQUIRE(file.metadata("note") == "caf\xc3\xa9");
  REQUIRE(file.has_metadata("note"));
  REQUIRE_FALSE(file.has_metadata("other"));

  const auto weight = file.view<float, 2>("weight");
  REQUIRE(weight.extent(0) == 2);
  REQUIRE(weight.contiguous());
  REQUIRE(weight(1, 2) == 5.0f);
  REQUIRE(reinterpret_cast<const std::byte*>(weight.data) == file.bytes("weight").data());
  REQUIRE(file.load<float, 2>("weight")(1, 0) == 3.0f);
  REQUIRE(file.scalar<std::int64_t>("step") == -7);
  REQUIRE(static_cast<float>(file.view<bfloat16, 1>("a \"b\"")(0)) == 1.5f);
  const auto mask = file.view<bool, 2>("mask");
  REQUIRE((mask(0, 0) && !mask(0, 1)));
  REQUIRE(file.bytes("f8")[1] == std::byte{0xb8});
}

TEST_CASE("safetensors: a file on disk is mapped, and views survive a move of the file", "[io]") {
  const temporary_folder folder;
  const byte_vector bytes = sample();
  write_file(folder / "a", {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  io::safetensors_file file(folder / "a");
  const auto weight = file.view<float, 2>("weight");
  const io::safetensors_file moved(std::move(file));
  REQUIRE(weight(1, 2) == 5.0f);
  REQUIRE(moved.view<float, 2>("weight").data == weight.data);
  REQUIRE(moved.source() == folder / "a");
}

TEST_CASE("safetensors: the file without tensors, and tensors without elements, are valid", "[io][edge]") {
  REQUIRE(parse(safetensors_bytes("{}", 0)).tensors().empty());
  REQUIRE(parse(safetensors_bytes(R"({"__metadata__":{}})", 0)).metadata().empty());
  REQUIRE(parse(safetensors_bytes("{}      ", 0)).names().empty());

  const byte_vector bytes = sample();
  const auto file = parse(bytes);
  const auto none = file.view<double, 2>("none");
  REQUIRE(none.size() == 0);
  REQUIRE(none.data == nullptr);
  REQUIRE(none.extent(1) == 4);
  REQUIRE(file.load<double, 2>("none").extent(1) == 4);

  // Without elements a tensor may stand at any border between others.
  const auto borders = parse(safetensors_bytes(
      R"({"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"y":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
      R"("z":{"dtype":"U8","shape":[3,0],"data_offsets":[2,2]}})",
      2));
  REQUIRE(borders.bytes("z").empty());
}

TEST_CASE("safetensors: load and copy_to read tensors that are not aligned, view refuses them", "[io][edge]") {
  const std::string header =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"I32","shape":[2],"data_offsets":[1,9]}})";
  byte_vector bytes = safetensors_bytes(header + std::string((8 - header.size() % 8) % 8, ' '), 9);
  const std::int32_t values[] = {123456789, -5};
  std::memcpy(bytes.data() + bytes.size() - 8, values, 8);
  const auto file = parse(bytes);
  REQUIRE(file.load<std::int32_t, 1>("b")(0) == 123456789);
  tensor<std::int32_t, 1> copy(2);
  file.copy_to("b", copy);
  REQUIRE(copy(1) == -5);
  REQUIRE(
      refuses([&] { static_cast<void>(file.view<std::int32_t, 1>("b")); },
              "tensor \"b\": begins at byte 1 of the data, which is not aligned to the 4 bytes of I32; use load()"));
}

TEST_CASE("safetensors: copy_to fills views with any strides", "[io]") {
  const byte_vector bytes = sample();
  const auto file = parse(bytes);
  tensor<float, 2> columns(3, 2);
  file.copy_to("weight", columns.view().transposed(0, 1));
  for (index_t i = 0; i < 2; ++i)
    for (index_t j = 0; j < 3; ++j) REQUIRE(columns(j, i) == static_cast<float>(3 * i + j));
  tensor<double, 2> none(0, 4);
  file.copy_to("none", none);
}

TEST_CASE("safetensors: typed access names what it found and what it expected", "[io][errors]") {
  byte_vector bytes = sample();
  const auto file = parse(bytes);
  const auto view = [&]<class T, int Rank>(const char* name) {
    return [&file, name] { static_cast<void>(file.view<T, Rank>(name)); };
  };
  REQUIRE(refuses(view.operator()<float, 1>("other"), "tensor \"other\" is missing; the file has 6 tensors"));
  REQUIRE(refuses(view.operator()<float16, 2>("weight"), "tensor \"weight\": has dtype F32, expected F16"));
  REQUIRE(refuses(view.operator()<float, 3>("weight"), "\"weight\": has rank 2 (shape [2, 3]), expected rank 3"));
  REQUIRE(refuses(view.operator()<std::int64_t, 1>("step"), "has rank 0 (shape []), expected rank 1"));
  REQUIRE(refuses(view.operator()<std::uint8_t, 1>("f8"), "has dtype F8_E4M3, expected U8"));
  REQUIRE(refuses([&] { static_cast<void>(file.scalar<float>("weight")); }, "has shape [2, 3], expected one element"));
  REQUIRE(refuses([&] { static_cast<void>(file.metadata("other")); }, "metadata \"other\" is missing"));
  REQUIRE(refuses([&] { static_cast<void>(file.shape("x\n")); }, "tensor \"x\\x0a\" is missing"));
  tensor<float, 2> other(3, 2);
  REQUIRE(refuses([&] { file.copy_to("weight", other.view()); }, "has shape [2, 3], expected [3, 2]"));

  bytes[bytes.size() - 3] = std::byte{2};
  REQUIRE(refuses([&] { static_cast<void>(parse(bytes).load<bool, 2>("mask")); },
                  "tensor \"mask\": element 1 of BOOL is 2, expected 0 or 1"));
}

TEST_CASE("safetensors: a hostile file gives one clear error", "[io][errors]") {
  struct hostile {
    const char* mistake;
    std::string header;
    std::size_t data;
    const char* text;  // of the error
  };
  const auto one = [](const std::string& type, const std::string& shape, const std::string& offsets) {
    return "{\"t\":{\"dtype\":" + type + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}";
  };
  const auto two = [](const std::string& first, const std::string& second) {
    const std::string begin = R"(":{"dtype":"U8","shape":)", middle = R"(,"data_offsets":)";
    return "{\"a" + begin + "[4]" + middle + first + "},\"b" + begin + "[4]" + middle + second + "}}";
  };
  const std::string u8 = "\"U8\"";
  const std::string max = "9223372036854775807";
  const hostile cases[] = {
      // the header as JSON
      {"no object", "[]", 0, "the header (2 bytes) must begin with '{'"},
      {"space first", " {}", 0, "the header (3 bytes) must begin with '{'"},
      {"byte order mark", "\xef\xbb\xbf{}", 0, "must begin with '{'"},
      {"no header", "", 0, "the header (0 bytes) must begin with '{'"},
      {"cut off", R"({"t":{"dtype")", 0, "not valid JSON at header byte"},
      {"two objects", "{}{}", 0, "not valid JSON at header byte 3"},
      {"zero bytes behind", std::string("{}\0\0", 4), 0, "the header holds a zero byte at header byte 2"},
      {"trailing comma", R"({"__metadata__":{},})", 0, "not valid JSON"},
      {"comment", "{/**/}", 0, "not valid JSON"},
      {"invalid UTF-8 in a name", "{\"\xff\":{}}", 0, "invalid string: ill-formed UTF-8 byte"},
      {"overlong UTF-8", "{\"\xc0\xaf\":{}}", 0, "invalid string: ill-formed UTF-8 byte"},
      {"lone surrogate", R"({"\ud800":{}})", 0, "not valid JSON"},
      {"control character", "{\"a\nb\":{}}", 0, "not valid JSON"},
      {"number out of range", one(u8, "[1e999]", "[0,1]"), 1, "not valid JSON"},
      // its grammar
      {"entry is a number", R"({"t":1})", 0,
       "tensor \"t\": must be an object with dtype, shape and data_offsets, found a number"},
      {"entry is null", R"({"t":null})", 0, "found null"},
      {"entry is an array", R"({"t":[]})", 0, "found an array"},
      {"no dtype", R"({"t":{"shape":[],"data_offsets":[0,1]}})", 1, "tensor \"t\": dtype is missing"},
      {"no shape", R"({"t":{"dtype":"U8","data_offsets":[0,1]}})", 1, "tensor \"t\": shape is missing"},
      {"no offsets", R"({"t":{"dtype":"U8","shape":[]}})", 1, "tensor \"t\": data_offsets are missing"},
      {"unknown key", R"({"t":{"dtype":"U8","strides":[]}})", 1, "tensor \"t\": unknown key \"strides\""},
      {"key twice", R"({"t":{"dtype":"U8","dtype":"U8"}})", 1, "tensor \"t\": the key \"dtype\" appears twice"},
      {"shape twice", R"({"t":{"shape":[],"shape":[]}})", 1, "tensor \"t\": the key \"shape\" appears twice"},
      {"name twice",
       R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
       2, "the tensor name \"t\" appears twice"},
      {"name twice, once escaped",
       R"({"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\u0074":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
       0, "the tensor name \"t\" appears twice"},
      {"metadata twice", R"({"__metadata__":{},"__metadata__":{}})", 0, "the key \"__metadata__\" appears twice"},
      {"metadata key twice", R"({"__metadata__":{"k":"1","k":"2"}})", 0, "the metadata key \"k\" appears twice"},
      {"metadata not an object", R"({"__metadata__":"x"})", 0,
       "\"__metadata__\" must be an object of strings, found a string"},
      {"metadata not a string", R"({"__metadata__":{"k":1}})", 0,
       "the metadata value of \"k\" must be a string, found a number"},
      {"metadata null", R"({"__metadata__":null})", 0, "\"__metadata__\" must be an object of strings, found null"},
      {"metadata nested", R"({"__metadata__":{"k":{}}})", 0,
       "the metadata value of \"k\" must be a string, found an object"},
      // dtype
      {"unknown dtype", one("\"F33\"", "[1]", "[0,4]"), 4, "tensor \"t\": unknown dtype \"F33\""},
      {"dtype in lower case", one("\"u8\"", "[1]", "[0,1]"), 1, "unknown dtype \"u8\""},
      {"dtype not a string", one("8", "[1]", "[0,1]"), 1, "tensor \"t\": dtype must be a string, found a number"},
      {"dtype of control characters", one("\"\\u0000\\u001b[2J\"", "[1]", "[0,1]"), 1,
       "unknown dtype \"\\x00\\x1b[2J\""},
      {"dtype without end", one('"' + std::string(5000, 'F') + '"', "[1]", "[0,1]"), 1, "FF... (5000 bytes)\""},
      // shape
      {"shape not an array", one(u8, "1", "[0,1]"), 1,
       "tensor \"t\": shape must be an array of integers, found a number"},
      {"shape negative", one(u8, "[-1]", "[0,1]"), 1,
       "tensor \"t\": shape holds -1; extents must be integers in [0, 2^63)"},
      {"shape fractional", one(u8, "[1.5]", "[0,1]"), 1, "shape holds 1.5; extents must be integers"},
      {"shape with exponent", one(u8, "[1e0]", "[0,1]"), 1, "shape holds 1e0; extents must be integers"},
      {"shape above 2^63", one(u8, "[9223372036854775808]", "[0,1]"), 1, "shape holds 9223372036854775808; extents"},
      {"shape above 2^64", one(u8, "[99999999999999999999]", "[0,1]"), 1, "shape holds 99999999999999999999; extents"},
      {"shape of strings", one(u8, "[\"1\"]", "[0,1]"), 1, "tensor \"t\": shape must hold integers, found a string"},
      {"shape of booleans", one(u8, "[true]", "[0,1]"), 1, "shape must hold integers, found true"},
      {"shape nested", one(u8, "[[1]]", "[0,1]"), 1, "shape must hold integers, found an array"},
      {"nesting without end", one(u8, std::string(1'000'000, '['), "[0,1]"), 1,
       "shape must hold integers, found an array"},
      {"objects without end",
       [] {
         std::string text;
         for (int i = 0; i < 100'000; ++i) text += "{\"x\":";
         return text;
       }(),
       0, "tensor \"x\": unknown key \"x\""},
      {"rank without end",
       [&] {
         std::string axes = "[1";
         for (int i = 0; i < 100'000; ++i) axes += ",1";
         return one(u8, axes + "]", "[0,1]");
       }(),
       1, "tensor \"t\": shape has more than 64 axes"},
      {"product above 2^63", one(u8, "[4294967296,4294967296]", "[0,0]"), 0,
       "shape [4294967296, 4294967296] of U8 is more than 2^63 - 1 bytes"},
      {"product wraps to the size", one("\"F64\"", "[2305843009213693953]", "[0,8]"), 8,
       "of F64 is more than 2^63 - 1 bytes"},
      {"product above 2^63 beside zero", one(u8, "[0," + max + "," + max + "]", "[0,0]"), 0,
       "is more than 2^63 - 1 bytes"},
      // offsets
      {"offsets not an array", one(u8, "[1]", "{}"), 1,
       "tensor \"t\": data_offsets must be two integers, found an object"},
      {"no offset", one(u8, "[1]", "[]"), 1, "data_offsets must be two integers, found 0"},
      {"one offset", one(u8, "[1]", "[0]"), 1, "data_offsets must be two integers, found 1"},
      {"three offsets", one(u8, "[1]", "[0,1,2]"), 1, "data_offsets must be two integers, found more"},
      {"offset of text", one(u8, "[1]", "[0,\"1\"]"), 1, "data_offsets must be two integers, found a string"},
      {"offset negative", one(u8, "[1]", "[-1,0]"), 1, "data_offsets hold -1; offsets must be integers in [0, 2^63)"},
      {"offset fractional", one(u8, "[1]", "[0,1.0]"), 1, "data_offsets hold 1.0; offsets must be integers"},
      {"offset above 2^64", one(u8, "[1]", "[0,18446744073709551617]"), 1,
       "data_offsets hold 18446744073709551617; offsets"},
      {"backwards", one(u8, "[1]", "[1,0]"), 1, "tensor \"t\": data_offsets [1, 0] end before they begin"},
      {"beyond the end", one(u8, "[2]", "[0,2]"), 1,
       "tensor \"t\": data_offsets [0, 2] reach beyond the 1 bytes of data"},
      {"far beyond the end", one(u8, "[" + max + "]", "[0," + max + "]"), 1, "reach beyond the 1 bytes of data"},
      {"too few bytes", one("\"F32\"", "[2,3]", "[0,20]"), 20,
       "tensor \"t\": data_offsets [0, 20] hold 20 bytes, but shape [2, 3] of F32 needs 24"},
      {"too many bytes", one("\"F32\"", "[]", "[0,8]"), 8, "hold 8 bytes, but shape [] of F32 needs 4"},
      {"bytes for nothing", one("\"F32\"", "[0]", "[0,4]"), 4, "hold 4 bytes, but shape [0] of F32 needs 0"},
      // layout
      {"overlap", two("[0,4]", "[3,7]"), 7, "tensor \"b\" at byte 3 overlaps tensor \"a\", which ends at byte 4"},
      {"same place", two("[0,4]", "[0,4]"), 4, "overlaps tensor"},
      {"hole", two("[0,4]", "[5,9]"), 9, "bytes [4, 5) of the data, before tensor \"b\", belong to no tensor"},
      {"hole at the begin", one(u8, "[1]", "[1,2]"), 2,
       "bytes [0, 1) of the data, before tensor \"t\", belong to no tensor"},
      {"bytes at the end", two("[0,4]", "[4,8]"), 9, "bytes [8, 9) at the end of the data belong to no tensor"},
      {"data without tensors", "{}", 3, "bytes [0, 3) at the end of the data belong to no tensor"},
      {"no elements inside another",
       R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
       4, "tensor \"b\" at byte 2 overlaps tensor \"a\""},
  };
  for (const hostile& h : cases) {
    CAPTURE(h.mistake);
    const byte_vector bytes = safetensors_bytes(h.header, h.data);
    std::string error;
    try {
      static_cast<void>(parse(bytes));
    } catch (const io_error& caught) {
      error = caught.what();
    }
    CHECK_THAT(error, ContainsSubstring(h.text));
    CHECK_THAT(error, ContainsSubstring("safetensors file test.safetensors: "));
    CHECK_THAT(error, ContainsSubstring(". See docs/reference/io/safetensors.md"));
    CHECK(error.size() < 600);
  }
}

TEST_CASE("safetensors: a length field that lies is refused before anything is read", "[io][errors]") {
  for (std::size_t size = 0; size < 8; ++size)
    REQUIRE(refuses([&] { static_cast<void>(parse(byte_vector(size))); },
                    "is " + std::to_string(size) + " bytes long; a safetensors file has at least 8"));
  const auto with_length = [](std::uint64_t length, std::size_t size) {
    byte_vector bytes(size);
    std::memcpy(bytes.data(), &length, 8);
    return [bytes] { static_cast<void>(parse(bytes)); };
  };
  REQUIRE(refuses(with_length(3, 10), "header length (3) exceeds the 2 bytes that follow it"));
  REQUIRE(refuses(with_length(1, 8), "header length (1) exceeds the 0 bytes that follow it"));
  REQUIRE(refuses(with_length(100'000'001, 10), "header length (100000001) exceeds the limit of 100000000 bytes"));
  REQUIRE(refuses(with_length(~std::uint64_t{0}, 16), "header length (18446744073709551615) exceeds the limit"));
}

TEST_CASE("safetensors: the error for a file on disk names the file", "[io][errors]") {
  const temporary_folder folder;
  const auto open = [](const std::string& path) { return [path] { io::safetensors_file file(path); }; };
  REQUIRE(refuses(open(folder / "no"), "no\" cannot be opened: No such file or directory"));
  REQUIRE(refuses(open(folder.path().string()), "is a directory, not a file"));
  write_file(folder / "empty", "");
  REQUIRE(refuses(open(folder / "empty"), "empty: is 0 bytes long; a safetensors file has at least 8"));
  write_file(folder / "text", "This is no safetensors file.");
  REQUIRE(refuses(open(folder / "text"), "text: header length ("));
}

TEST_CASE("safetensors: a file cut at any length is refused", "[io][property]") {
  const byte_vector whole = sample();
  for (std::size_t length = 0; length < whole.size(); ++length) {
    CAPTURE(length);
    const byte_vector part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
    REQUIRE_THROWS_AS(parse(part), io_error);
  }
  byte_vector longer = whole;
  longer.push_back({});
  REQUIRE_THROWS_AS(parse(longer), io_error);
}

TEST_CASE("safetensors: any byte changed to any other either parses or gives an io_error", "[io][property]") {
  const byte_vector whole = sample();
  int parsed = 0;
  int refused = 0;
  for (std::size_t position = 0; position < whole.size(); ++position)
    for (unsigned flip = 1; flip < 256; ++flip) {
      byte_vector changed = whole;
      changed[position] ^= static_cast<std::byte>(flip);
      try {
        static_cast<void>(read_everything(parse(changed)));
        ++parsed;
      } catch (const io_error&) {
        ++refused;
      }
    }
  // Another exception ends the test. All data bytes and many letters may change freely, most of the header may not.
  REQUIRE(parsed > 40 * 255);
  REQUIRE(refused > 40 * 255);
}
