// SPDX-License-Identifier: Apache-2.0
// The only translation unit of the tests that knows how golden files are written.
#include <seqprim/io/safetensors_reader.hpp>

#include <nlohmann/json.hpp>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <support/golden.hpp>

namespace seqprim {

namespace {

const nlohmann::json& json_of(const std::shared_ptr<const void>& node) {
  return *static_cast<const nlohmann::json*>(node.get());
}

/// Writes "family/stem:tensor" for every tensor that this program reads, once, to the file that SEQPRIM_GOLDEN_RECORD names.
class record {
 public:
  void add(const std::string& tensor) {
    if (file_.is_open() && seen_.insert(tensor).second) file_ << tensor << '\n' << std::flush;
  }
  static record& of_this_program() {
    static record instance;
    return instance;
  }

 private:
  record() {
    if (const char* const path = std::getenv("SEQPRIM_GOLDEN_RECORD")) file_.open(path, std::ios::trunc);
  }
  std::ofstream file_;
  std::set<std::string> seen_;
};

}  // namespace

void golden_value::fail(const std::string& what) const {
  throw std::runtime_error("golden file " + path_ + ": " + what + "; it holds " + json_of(node_).dump());
}

golden_value golden_value::at(const std::string& key) const {
  const auto& json = json_of(node_);
  if (!json.is_object() || !json.contains(key)) fail("has no entry '" + key + "'");
  return {{node_, &json.at(key)}, path_ + '.' + key};
}
golden_value golden_value::at(index_t entry) const {
  const auto& json = json_of(node_);
  if (!json.is_array() || entry < 0 || entry >= size()) fail("has no entry " + std::to_string(entry));
  return {{node_, &json.at(static_cast<std::size_t>(entry))}, path_ + '[' + std::to_string(entry) + ']'};
}
bool golden_value::contains(const std::string& key) const {
  const auto& json = json_of(node_);
  return json.is_object() && json.contains(key) && !json.at(key).is_null();
}
bool golden_value::is_null() const { return json_of(node_).is_null(); }
index_t golden_value::size() const {
  if (!json_of(node_).is_array() && !json_of(node_).is_object()) fail("is no list and no group");
  return static_cast<index_t>(json_of(node_).size());
}

bool golden_value::boolean() const {
  if (!json_of(node_).is_boolean()) fail("is not true or false");
  return json_of(node_).get<bool>();
}
std::int64_t golden_value::integer() const {
  const auto& json = json_of(node_);
  if (!json.is_number_integer()) fail("is no integer");
  if (json.is_number_unsigned() && json.get<std::uint64_t>() > INT64_MAX) fail("does not fit into 64 bits with a sign");
  return json.get<std::int64_t>();
}
std::uint64_t golden_value::natural() const {
  if (!json_of(node_).is_number_unsigned()) fail("is no integer >= 0");
  return json_of(node_).get<std::uint64_t>();
}
double golden_value::number() const {
  if (!json_of(node_).is_number()) fail("is no number");
  return json_of(node_).get<double>();
}
std::string golden_value::text() const {
  if (!json_of(node_).is_string()) fail("is no text");
  return json_of(node_).get<std::string>();
}

struct golden::contents {
  contents(const std::string& family, const std::string& stem)
      : name(family + '/' + stem),
        file(std::string(SEQPRIM_GOLDEN_DIR "/") + name + ".safetensors"),
        tensors(file.names()) {
    if (file.has_metadata("params")) params = nlohmann::json::parse(file.metadata("params"));
  }
  std::string name;
  io::safetensors_file file;
  std::vector<std::string> tensors;
  nlohmann::json params;
};

golden::golden(const std::string& family, const std::string& stem)
    : golden(std::make_shared<const contents>(family, stem)) {}
golden::golden(std::shared_ptr<const contents> file)
    : params({file, &file->params}, file->name + ": params"), file_(std::move(file)) {}

const std::string& golden::source() const { return file_->name; }
std::string golden::metadata(const std::string& key) const { return file_->file.metadata(key); }
const std::vector<std::string>& golden::names() const { return file_->tensors; }
bool golden::contains(const std::string& name) const { return file_->file.contains(name); }
const std::vector<index_t>& golden::shape(const std::string& name) const { return file_->file.shape(name); }

void golden::fail(const std::string& name, const std::string& what) const {
  throw std::runtime_error("golden file " + file_->name + ", tensor " + name + ": " + what);
}

void golden::expect_rank(const std::string& name, int rank) const {
  if (shape(name).size() != static_cast<std::size_t>(rank))
    fail(name, "has rank " + std::to_string(shape(name).size()) + ", the test reads " + std::to_string(rank));
}

void golden::read(const std::string& name, const char* type, void* to, index_t elements) const {
  const auto& info = file_->file.info(name);
  if (std::strcmp(io::name_of(info.dtype), type) != 0)
    fail(name, std::string("holds ") + io::name_of(info.dtype) + ", the test reads " + type);
  const auto bytes = file_->file.bytes(name);
  if (static_cast<index_t>(bytes.size()) != elements * io::size_of(info.dtype))
    fail(name,
         "has " + std::to_string(bytes.size()) + " bytes, the test reads " + std::to_string(elements) + " elements");
  if (info.dtype == io::dtype::boolean)  // any other byte in a bool is undefined behavior
    for (const std::byte value : bytes)
      if (value > std::byte{1}) fail(name, "holds a truth value that is neither 0 nor 1");
  if (!bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());
  record::of_this_program().add(file_->name + ':' + name);
}

}  // namespace seqprim
