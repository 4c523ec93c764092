// SPDX-License-Identifier: Apache-2.0
#include "layers.hpp"
#include <seqprim/nn/checkpoint.hpp>
#include <seqprim/nn/gated_mlp.hpp>

#include <cstddef>
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

TEST_CASE("checkpoint: training continues from a file with the same bits", "[nn][property]") {
  test::random_numbers random(141), again(141);
  layer_type layer = new_layer(1);
  nn::adamw<> optimizer(layer);
  train(layer, optimizer, random, 3);
  io::safetensors_writer writer;
  nn::add_parameters(writer, layer);
  nn::add_optimizer(writer, optimizer);
  writer.metadata("step", "3");
  const stored saved(writer);
  train(layer, optimizer, random, 4);

  layer_type restored = new_layer(2);
  nn::adamw<> continued(restored);
  REQUIRE(saved.file.metadata("step") == "3");
  nn::load_checkpoint(saved.file, restored, continued);
  REQUIRE(continued.steps() == 3);
  layer_type scrap = new_layer(1);  // takes the gradients of the steps before
  nn::adamw<> other(scrap);
  train(scrap, other, again, 3);
  train(restored, continued, again, 4);
  REQUIRE(numbers_of(restored) == numbers_of(layer));
}

TEST_CASE("checkpoint: parameters alone load from a file with an optimizer", "[nn]") {
  const layer_type layer = new_layer(1);
  layer_type restored = new_layer(2);
  io::safetensors_writer writer;
  nn::add_parameters(writer, layer);
  const nn::adamw<> optimizer(layer);
  nn::add_optimizer(writer, optimizer);
  nn::load_parameters(stored(writer).file, restored);
  REQUIRE(numbers_of(restored) == numbers_of(layer));
}

TEST_CASE("checkpoint: a file that does not fit is one clear error and changes nothing", "[nn][errors]") {
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
    REQUIRE_THROWS_AS(nn::load_parameters(saved.file, layer), io_error);
    REQUIRE_THROWS_WITH(nn::load_parameters(saved.file, layer), ContainsSubstring(text));
    REQUIRE_THROWS_WITH(nn::load_checkpoint(saved.file, layer, optimizer), ContainsSubstring(text));
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
      REQUIRE_THROWS_WITH(nn::load_checkpoint(saved.file, layer, optimizer), ContainsSubstring(text));
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
