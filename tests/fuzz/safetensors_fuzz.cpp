// SPDX-License-Identifier: Apache-2.0
// Fuzz target of the safetensors reader and writer. Whatever the bytes: parse() returns or throws io_error; what it returns
// keeps its promises; and what the writer makes of it reads back the same.
#include <seqprim/io/safetensors.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace io = seqprim::io;
using seqprim::index_t;

namespace {

// Not assert(): must also stop an optimized build.
void require(bool condition, const char* promise) {
  if (condition) return;
  std::fprintf(stderr, "broken promise: %s\n", promise);
  std::abort();
}

std::optional<io::safetensors_view> parse(std::span<const std::byte> bytes) {
  try {
    return io::safetensors_view::parse(bytes, "fuzz");
  } catch (const seqprim::io_error& error) {
    const std::string text = error.what();
    require(text.starts_with("safetensors file fuzz: ") && text.size() < 2000, "one short sentence names the file");
    for (const char c : text) require(c >= 0x20 && c < 0x7f, "an error message is printable");
    return std::nullopt;
  }
}

/// Keeps the values of one tensor alive for the writer, as T and with its rank.
template <class T, int Rank>
void read_typed(const io::safetensors_view& file, const io::tensor_info& info, io::safetensors_writer& writer,
                std::vector<seqprim::tensor<std::byte, 1>>& keep) {
  try {
    const auto values = file.load<T, Rank>(info.name);
    const auto raw = file.bytes(info.name);
    require(values.size() * index_t{sizeof(T)} == static_cast<index_t>(raw.size()), "a shape agrees with its bytes");
    seqprim::tensor<std::byte, 1> copy(static_cast<index_t>(raw.size()));
    if (!raw.empty()) std::memcpy(copy.data(), values.data(), raw.size());
    require(raw.empty() || std::memcmp(copy.data(), raw.data(), raw.size()) == 0, "load copies the bytes");
    seqprim::tensor_view<const T, Rank> view = values.view();
    view.data = reinterpret_cast<const T*>(copy.data());
    writer.add(info.name, view);
    keep.push_back(std::move(copy));
  } catch (const seqprim::io_error&) {
    require(std::is_same_v<T, bool>, "a tensor of the right type and rank can be loaded");  // bytes above 1
  }
}

template <class T>
void read_ranks(const io::safetensors_view& file, const io::tensor_info& info, io::safetensors_writer& writer,
                std::vector<seqprim::tensor<std::byte, 1>>& keep) {
  switch (info.shape.size()) {
    case 1: return read_typed<T, 1>(file, info, writer, keep);
    case 2: return read_typed<T, 2>(file, info, writer, keep);
    case 3: return read_typed<T, 3>(file, info, writer, keep);
    default: return;
  }
}

void read_all(const io::safetensors_view& file) {
  io::safetensors_writer writer;
  std::vector<seqprim::tensor<std::byte, 1>> keep;
  const std::string* previous = nullptr;
  for (const io::tensor_info& info : file.tensors()) {
    require(previous == nullptr || *previous < info.name, "names are sorted and differ");
    previous = &info.name;
    index_t count = 1;
    for (const index_t extent : info.shape) count *= extent;
    const auto raw = file.bytes(info.name);
    require(count * io::size_of(info.dtype) == static_cast<index_t>(raw.size()), "a shape agrees with its bytes");
    unsigned sum = 0;
    for (const std::byte value : raw) sum += std::to_integer<unsigned>(value);  // a sanitizer looks at the addresses
    require(sum <= 255u * raw.size(), "bytes are bytes");
    switch (info.dtype) {
      case io::dtype::f64: read_ranks<double>(file, info, writer, keep); break;
      case io::dtype::f32: read_ranks<float>(file, info, writer, keep); break;
      case io::dtype::bf16: read_ranks<seqprim::bfloat16>(file, info, writer, keep); break;
      case io::dtype::i64: read_ranks<std::int64_t>(file, info, writer, keep); break;
      case io::dtype::u8: read_ranks<std::uint8_t>(file, info, writer, keep); break;
      case io::dtype::boolean: read_ranks<bool>(file, info, writer, keep); break;
      default: break;
    }
  }
  for (const auto& [key, value] : file.metadata()) writer.metadata(key, value);

  const std::vector<std::byte> bytes = writer.bytes();
  const auto again = parse(bytes);
  require(again.has_value(), "the reader accepts what the writer wrote");
  require(again->metadata() == file.metadata(), "metadata comes back");
  require(again->tensors().size() == keep.size(), "every tensor comes back");
  for (const io::tensor_info& info : again->tensors()) {
    const auto a = file.bytes(info.name), b = again->bytes(info.name);
    require(info.shape == file.shape(info.name) && info.dtype == file.dtype(info.name), "shapes and types come back");
    require(a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0), "values come back");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::byte> bytes(reinterpret_cast<const std::byte*>(data),
                                     reinterpret_cast<const std::byte*>(data) + size);
  if (const auto file = parse(bytes)) read_all(*file);

  // A change of the header mostly breaks the length before it: once more with the length that fits the last brace.
  for (std::size_t end = size; end > 8; --end)
    if (data[end - 1] == '}') {
      std::vector<std::byte> mended = bytes;
      const std::uint64_t length = end - 8;
      std::memcpy(mended.data(), &length, 8);
      if (const auto file = parse(mended)) read_all(*file);
      break;
    }
  return 0;
}
