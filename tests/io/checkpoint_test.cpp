// SPDX-License-Identifier: Apache-2.0
#include <seqprim/io/checkpoint.hpp>
#include <seqprim/nn/adamw.hpp>
#include <seqprim/nn/gated_mlp.hpp>

#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <nn/layers.hpp>
#include <unistd.h>
#include <vector>

using namespace seqprim;

namespace {

using layer_type = nn::swiglu<>;
constexpr index_t dim = 4;

layer_type new_layer(std::uint64_t seed) {
  layer_type layer(dim, {.hidden = 6});
  test::random_numbers random(seed);
  test::randomize(layer, random);
  return layer;
}

/// A file in memory.
struct stored {
  std::vector<std::byte> bytes;
  io::safetensors_view file;
  explicit stored(const io::safetensors_writer& writer)
      : bytes(writer.bytes()), file(io::safetensors_view::parse(bytes, "memory")) {}
};

void train(layer_type& layer, nn::adamw<>& optimizer, test::random_numbers& random, int steps) {
  for (int i = 0; i < steps; ++i) {
    layer.visit_parameters([&](const std::string&, auto& p) { random.fill(p.grad); });
    optimizer.step(cpu{}, layer, 0.01);
  }
}

std::vector<float> numbers_of(const layer_type& layer) {
  std::vector<float> all;
  layer.visit_parameters(
      [&](const std::string&, const auto& p) { all.insert(all.end(), p.value.begin(), p.value.end()); });
  return all;
}

}  // namespace

TEST_CASE("checkpoint: training continues from a file with the same bits", "[io][property]") {
  test::random_numbers random(141), again(141);
  layer_type layer = new_layer(1);
  nn::adamw<> optimizer(layer);
  train(layer, optimizer, random, 3);
  io::safetensors_writer writer;
  io::add_parameters(writer, layer);
  io::add_optimizer(writer, optimizer);
  writer.metadata("step", "3");
  const stored saved(writer);
  train(layer, optimizer, random, 4);

  layer_type restored = new_layer(2);
  nn::adamw<> continued(restored);
  REQUIRE(saved.file.metadata("step") == "3");
  io::load_checkpoint(saved.file, restored, continued);
  REQUIRE(continued.steps() == 3);
  layer_type scrap = new_layer(1);  // takes the gradients of the steps before
  nn::adamw<> other(scrap);
  train(scrap, other, again, 3);
  train(restored, continued, again, 4);
  REQUIRE(numbers_of(restored) == numbers_of(layer));
}

TEST_CASE("checkpoint: parameters alone load from a file with an optimizer", "[io]") {
  const layer_type layer = new_layer(1);
  layer_type restored = new_layer(2);
  io::safetensors_writer writer;
  io::add_parameters(writer, layer);
  const nn::adamw<> optimizer(layer);
  io::add_optimizer(writer, optimizer);
  io::load_parameters(stored(writer).file, restored);
  REQUIRE(numbers_of(restored) == numbers_of(layer));
}

TEST_CASE("checkpoint: a file that does not fit is one clear error and changes nothing", "[io][errors]") {
  layer_type layer = new_layer(1);
  nn::adamw<> optimizer(layer);
  const auto before = numbers_of(layer);
  const layer_type source = new_layer(2);
  const nn::adamw<> source_optimizer(source);
  const tensor<float, 2> gate(6, 4), up(6, 4), down(4, 6), wrong(6, 5);
  const tensor<float, 1> flat(24);
  const tensor<double, 2> wide(6, 4);
  io::safetensors_writer writer;
  const auto refused = [&](const std::string& text) {
    const stored saved(writer);
    REQUIRE_THROWS_AS(io::load_parameters(saved.file, layer), io_error);
    REQUIRE_THROWS_WITH(io::load_parameters(saved.file, layer), ContainsSubstring(text));
    REQUIRE_THROWS_WITH(io::load_checkpoint(saved.file, layer, optimizer), ContainsSubstring(text));
    REQUIRE(numbers_of(layer) == before);
  };
  writer.add("gate_proj.weight", gate);
  writer.add("up_proj.weight", up);
  SECTION("missing") { refused("checkpoint 'memory': tensor 'down_proj.weight' [4, 6] is missing"); }
  SECTION("another shape") {
    writer.add("down_proj.weight", wrong);
    refused("tensor 'down_proj.weight' has shape [6, 5], the model needs [4, 6]");
  }
  SECTION("another rank") {
    writer.add("down_proj.weight", flat);
    refused("tensor 'down_proj.weight' has shape [24], the model needs [4, 6]");
  }
  SECTION("another type") {
    const tensor<double, 2> doubles(4, 6);
    writer.add("down_proj.weight", doubles);
    refused("tensor 'down_proj.weight' has dtype F64, the model needs F32");
  }
  SECTION("too much") {
    writer.add("down_proj.weight", down);
    writer.add("lm_head.weight", wrong);
    refused("tensor 'lm_head.weight' [6, 5] is not a parameter of the model, which has 3 tensors");
  }
  SECTION("the optimizer does not fit") {
    writer.add("down_proj.weight", down);
    const auto optimizer_refused = [&](const std::string& text) {
      const stored saved(writer);
      REQUIRE_THROWS_WITH(io::load_checkpoint(saved.file, layer, optimizer), ContainsSubstring(text));
      REQUIRE(numbers_of(layer) == before);
      REQUIRE(optimizer.steps() == 0);
    };
    optimizer_refused("tensor 'optimizer.gate_proj.weight.exp_avg' [24] is missing");
    source_optimizer.visit_state(
        [&](const std::string& name, const auto& view) { writer.add("optimizer." + name, view); });
    optimizer_refused("metadata 'optimizer.steps' is missing");
    writer.metadata("optimizer.steps", "12x");
    optimizer_refused("metadata 'optimizer.steps' must be a number >= 0");
    writer.add("optimizer.bias.exp_avg", flat);
    optimizer_refused("tensor 'optimizer.bias.exp_avg' is not part of the optimizer's state, which has 6 tensors");
  }
}

TEST_CASE("checkpoint: a file written, and read again", "[io]") {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("seqprim_checkpoint_" + std::to_string(::getpid()) + ".safetensors"))
          .string();
  layer_type m = new_layer(1);
  nn::adamw<> optimizer(m);
  const auto before = numbers_of(m);
  // example-begin checkpoint
  io::safetensors_writer out;
  io::add_parameters(out, m);
  io::add_optimizer(out, optimizer);
  out.metadata("step", "3");
  out.save(path);

  const io::safetensors_file in(path);
  io::load_checkpoint(in, m, optimizer);  // or load_parameters(in, m)
  // example-end checkpoint
  REQUIRE(in.metadata("step") == "3");
  REQUIRE(numbers_of(m) == before);
  std::remove(path.c_str());
}
