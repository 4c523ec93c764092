// SPDX-License-Identifier: Apache-2.0
#include "files.hpp"
#include <seqprim/core/philox.hpp>
#include <seqprim/io/safetensors.hpp>

using namespace seqprim;
using namespace seqprim::test;

namespace {

io::safetensors_view parse(const byte_vector& bytes) { return io::safetensors_view::parse(bytes, "test.safetensors"); }

template <class T, int Rank>
void same(const io::safetensors_view& file, const std::string& name, const tensor<T, Rank>& x) {
  CAPTURE(name);
  const auto stored = file.view<T, Rank>(name);  // aligned
  for (int axis = 0; axis < Rank; ++axis) REQUIRE(stored.extent(axis) == x.extent(axis));
  REQUIRE((x.size() == 0 || std::memcmp(stored.data, x.data(), static_cast<std::size_t>(x.size()) * sizeof(T)) == 0));
}

template <class X> concept can_be_added = requires(io::safetensors_writer& writer, X&& values) {
  writer.add("x", std::forward<X>(values));
};
static_assert(can_be_added<const tensor<float, 1>&> && can_be_added<tensor_view<const float16, 3>>);
static_assert(!can_be_added<tensor<float, 1>>);  // would be gone when the writer saves
static_assert(!can_be_added<float>);

/// Every bit pattern is a value.
template <class T> tensor<T, 2> noise(index_t rows, index_t columns, std::uint32_t seed) {
  tensor<T, 2> x(rows, columns);
  for (index_t i = 0; i < x.size(); ++i) {
    const auto words = philox({{static_cast<std::uint32_t>(i), 0, 0, 0}}, seed, 0);
    if constexpr (std::is_same_v<T, bool>)
      x.data()[i] = (words[0] & 1u) != 0;
    else
      std::memcpy(x.data() + i, words.word, sizeof(T));
  }
  return x;
}

}  // namespace

TEST_CASE("safetensors: every type comes back bit for bit", "[io][property]") {
  const index_t rows = GENERATE(as<index_t>{}, 0, 1, 3);
  const auto a = noise<double>(rows, 5, 1);
  const auto b = noise<float>(rows, 5, 2);
  const auto c = noise<float16>(rows, 5, 3);
  const auto d = noise<bfloat16>(rows, 5, 4);
  const auto e = noise<std::int64_t>(rows, 5, 5);
  const auto f = noise<std::int32_t>(rows, 5, 6);
  const auto g = noise<std::int16_t>(rows, 5, 7);
  const auto h = noise<std::int8_t>(rows, 5, 8);
  const auto i = noise<std::uint64_t>(rows, 5, 9);
  const auto j = noise<std::uint32_t>(rows, 5, 10);
  const auto k = noise<std::uint16_t>(rows, 5, 11);
  const auto l = noise<std::uint8_t>(rows, 5, 12);
  const auto m = noise<bool>(rows, 5, 13);
  const std::string awkward = "caf\xc3\xa9 \"\\\n\x01/";
  io::safetensors_writer writer;
  writer.metadata(awkward, awkward);
  writer.add_scalar("step", std::int64_t{42});
  writer.add_scalar("on", true);
  writer.add("m", m);
  writer.add("l", l);
  writer.add("k", k);
  writer.add("j", j);
  writer.add("i", i);
  writer.add("h", h);
  writer.add("g", g);
  writer.add("f", f);
  writer.add("e", e);
  writer.add("d", d);
  writer.add("c", c);
  writer.add("b", b);
  writer.add(awkward, a);

  const temporary_folder folder;
  writer.save(folder / "all.safetensors");
  const io::safetensors_file file(folder / "all.safetensors");
  same(file, awkward, a);
  same(file, "b", b);
  same(file, "c", c);
  same(file, "d", d);
  same(file, "e", e);
  same(file, "f", f);
  same(file, "g", g);
  same(file, "h", h);
  same(file, "i", i);
  same(file, "j", j);
  same(file, "k", k);
  same(file, "l", l);
  same(file, "m", m);
  REQUIRE(file.scalar<std::int64_t>("step") == 42);
  REQUIRE(file.scalar<bool>("on"));
  REQUIRE(file.shape("step").empty());
  REQUIRE(file.metadata(awkward) == awkward);
  REQUIRE(file.tensors().size() == 15);

  const byte_vector bytes = writer.bytes();
  REQUIRE(read_file(folder / "all.safetensors") ==
          std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

TEST_CASE("safetensors: the bytes written are these, whatever the order of the calls", "[io]") {
  const tensor<std::uint8_t, 1> small(3);
  const tensor<float, 2> large(1, 2);
  const tensor<float, 1> other(1);
  io::safetensors_writer writer;
  writer.add("a", small);
  writer.add("z", large);
  writer.add("m", other);
  writer.metadata("b", "2");
  writer.metadata("a", "1");
  const std::string header = R"({"__metadata__":{"a":"1","b":"2"},)"
                             R"("m":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                             R"("z":{"dtype":"F32","shape":[1,2],"data_offsets":[4,12]},)"
                             R"("a":{"dtype":"U8","shape":[3],"data_offsets":[12,15]}})";
  REQUIRE(writer.bytes() == safetensors_bytes(header + std::string((8 - header.size() % 8) % 8, ' '), 15));

  io::safetensors_writer again;
  again.metadata("a", "1");
  again.add("m", other);
  again.metadata("b", "2");
  again.add("a", small);
  again.add("z", large);
  REQUIRE(again.bytes() == writer.bytes());

  REQUIRE(io::safetensors_writer{}.bytes() == safetensors_bytes("{}      ", 0));
}

TEST_CASE("safetensors: views with strides are stored dense", "[io]") {
  const auto x = noise<float>(200, 300, 1);  // more than one buffer of the writer
  const auto turned = as_view(x).transposed(0, 1);
  const auto part = as_view(x).slice(0, {3, 7}).slice(1, {10, 12});
  const index_t extents[] = {2, 300}, strides[] = {0, 1};
  const tensor_view<const float, 2> repeated(x.data(), extents, strides);
  io::safetensors_writer writer;
  writer.add("turned", turned);
  writer.add("part", part);
  writer.add("repeated", repeated);
  const byte_vector bytes = writer.bytes();
  const auto file = parse(bytes);
  const auto check = [&](const std::string& name, const tensor_view<const float, 2>& expected) {
    const auto stored = file.view<float, 2>(name);
    REQUIRE(stored.extent(0) == expected.extent(0));
    REQUIRE(stored.extent(1) == expected.extent(1));
    bool equal = true;
    for (index_t i = 0; i < stored.extent(0); ++i)
      for (index_t j = 0; j < stored.extent(1); ++j)
        equal = equal && bit_cast<std::uint32_t>(stored(i, j)) == bit_cast<std::uint32_t>(expected(i, j));
    REQUIRE(equal);
  };
  check("turned", turned);
  check("part", part);
  check("repeated", repeated);
}

TEST_CASE("safetensors: views of rank one to six are stored and read", "[io]") {
  std::vector<std::uint8_t> data(64);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::uint8_t>(i);
  const tensor_view<const std::uint8_t, 1> one(data.data(), 64);
  const tensor_view<const std::uint8_t, 6> six(data.data(), 2, 2, 2, 2, 2, 2);
  const auto turned = six.transposed(0, 5);
  io::safetensors_writer writer;
  writer.add("one", one);
  writer.add("turned", turned);
  const byte_vector bytes = writer.bytes();
  const auto file = parse(bytes);
  REQUIRE(file.view<std::uint8_t, 1>("one")(63) == 63);
  REQUIRE(file.view<std::uint8_t, 6>("turned")(1, 0, 0, 0, 0, 0) == 1);
  REQUIRE(file.view<std::uint8_t, 6>("turned")(0, 1, 0, 0, 1, 1) == six(1, 1, 0, 0, 1, 0));
}

TEST_CASE("safetensors: what cannot be a file is refused when it is added", "[io][errors]") {
  const tensor<float, 1> x(2);
  io::safetensors_writer writer;
  writer.add("x", x);
  writer.metadata("k", "v");
  REQUIRE_THROWS_WITH(writer.add("x", x), ContainsSubstring("the tensor name \"x\" is used twice"));
  REQUIRE_THROWS_WITH(writer.add_scalar("x", 1.0f), ContainsSubstring("the tensor name \"x\" is used twice"));
  REQUIRE_THROWS_WITH(writer.add("__metadata__", x), ContainsSubstring("the name \"__metadata__\" is reserved"));
  REQUIRE_THROWS_WITH(writer.add("\xff", x), ContainsSubstring("the tensor name \"\\xff\" must be UTF-8"));
  REQUIRE_THROWS_WITH(writer.metadata("k", "w"), ContainsSubstring("the metadata key \"k\" is used twice"));
  REQUIRE_THROWS_WITH(writer.metadata("\xff", "w"), ContainsSubstring("the metadata key must be UTF-8"));
  REQUIRE_THROWS_WITH(writer.metadata("l", "\xff"), ContainsSubstring("the metadata value of \"l\" must be UTF-8"));
  const tensor_view<const float, 2> nothing(nullptr, 2, 3);
  REQUIRE_THROWS_WITH(writer.add("n", nothing), ContainsSubstring("tensor \"n\" of shape [2, 3] has no data"));
  const tensor_view<const float, 1> negative(x.data(), -1);
  REQUIRE_THROWS_WITH(writer.add("n", negative), ContainsSubstring("tensor \"n\" has a negative extent: [-1]"));
  const index_t huge[] = {index_t{1} << 40, index_t{1} << 40}, steps[] = {0, 0};
  const tensor_view<const float, 2> vast(x.data(), huge, steps);
  REQUIRE_THROWS_WITH(writer.add("n", vast), ContainsSubstring("is more than 2^63 - 1 bytes"));
  REQUIRE_THROWS_AS(writer.add("x", x), precondition_error);

  // Nothing of that is in the file.
  const byte_vector bytes = writer.bytes();
  REQUIRE(parse(bytes).names() == std::vector<std::string>{"x"});
  REQUIRE(parse(bytes).metadata().size() == 1);
}

TEST_CASE("safetensors: a header that no reader takes is not written", "[io][errors]") {
  const temporary_folder folder;
  io::safetensors_writer writer;
  writer.metadata("k", std::string(100'000'000, 'x'));
  REQUIRE_THROWS_WITH(writer.save(folder / "a"), ContainsSubstring("exceeds the limit of 100000000 bytes"));
  REQUIRE(folder.entries().empty());
}

TEST_CASE("safetensors: a save that fails leaves the old file as it was", "[io][errors]") {
  const temporary_folder folder;
  const tensor<float, 1> x(1000);
  io::safetensors_writer writer;
  writer.add("x", x);
  REQUIRE(refuses([&] { writer.save(folder / "no/a"); }, "No such file or directory"));
  REQUIRE(refuses([&] { writer.save(folder.path().string()); }, "exists and is not a regular file"));

  write_file(folder / "a", "old");
  REQUIRE(as_ordinary_user([&] { return refuses([&] { writer.save(folder / "a"); }, ""); }));
  REQUIRE(read_file(folder / "a") == "old");
  REQUIRE(folder.entries() == std::vector<std::string>{"a"});
  writer.save(folder / "a");
  same(io::safetensors_file(folder / "a"), "x", x);
}

TEST_CASE("safetensors: the example of the reference page runs", "[io]") {
  const temporary_folder folder;
  const std::string path = folder / "model.safetensors";
  // example-begin safetensors
  tensor<float, 2> weight(4, 3);
  weight.fill(0.5f);

  io::safetensors_writer out;
  out.metadata("format", "example");
  out.add("weight", weight);
  out.add_scalar("step", std::int64_t{1200});
  out.save(path);

  const io::safetensors_file in(path);
  const tensor_view<const float, 2> mapped = in.view<float, 2>("weight");  // inside the file, nothing copied
  const tensor<float, 2> copied = in.load<float, 2>("weight");
  in.copy_to("weight", weight);  // into memory that exists
  const auto step = in.scalar<std::int64_t>("step");
  // example-end safetensors
  REQUIRE(mapped(3, 2) == 0.5f);
  REQUIRE(copied(3, 2) == 0.5f);
  REQUIRE(weight(3, 2) == 0.5f);
  REQUIRE(step == 1200);
}
