// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/io/safetensors.hpp>

#include <charconv>
#include <set>
#include <string>
#include <string_view>
#include <utility>

/// Checkpoints: the parameters of a layer or model under their names, and the state of its optimizer, as one
/// safetensors file.
///
/// Tensors whose name begins with "optimizer." belong to the optimizer: "optimizer.<parameter>.exp_avg", ".exp_avg_sq",
/// and the metadata "optimizer.steps". load_parameters ignores them. Names that begin with "extra." belong to the
/// caller and are ignored too. All other tensors must be exactly the parameters.
///
/// Types   float models store F32, double models F64; nothing is converted.
/// Errors  io_error naming the file, one tensor and the numbers: a tensor is missing, not expected, or has another
///         shape or dtype. Everything is checked before the first element of the model or the optimizer changes.
/// Cost    saving writes each element once, straight from its tensor where that is dense. Loading maps the file and
///         copies each element once.
/// Page docs/reference/io/checkpoint.md
namespace seqprim::io {

namespace detail {

inline constexpr std::string_view optimizer_prefix = "optimizer.";
inline constexpr std::string_view caller_prefix = "extra.";
inline constexpr const char* steps_key = "optimizer.steps";

template <class... Parts> [[noreturn]] void refuse(const safetensors_view& file, const Parts&... parts) {
  throw io_error(message("checkpoint '", file.source(), "': ", parts..., ". See docs/reference/io/checkpoint.md"));
}

template <class Shape> [[nodiscard]] std::string shape_text(const Shape& shape, int rank) {
  std::string text = "[";
  for (int axis = 0; axis < rank; ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string(shape[static_cast<std::size_t>(axis)]);
  }
  return text + "]";
}

/// The tensor of this name fits the view exactly.
template <class T, int Rank>
void expect_tensor(const safetensors_view& file, const std::string& name, const tensor_view<T, Rank>& view) {
  if (!file.contains(name)) refuse(file, "tensor '", name, "' ", shape_text(view.extents, Rank), " is missing");
  const auto& shape = file.shape(name);
  bool same = shape.size() == static_cast<std::size_t>(Rank);
  for (int axis = 0; same && axis < Rank; ++axis) same = shape[static_cast<std::size_t>(axis)] == view.extent(axis);
  if (!same)
    refuse(file, "tensor '", name, "' has shape ", shape_text(shape, static_cast<int>(shape.size())),
           ", the model needs ", shape_text(view.extents, Rank));
  constexpr dtype wanted = dtype_of<std::remove_const_t<T>>;
  if (file.dtype(name) != wanted)
    refuse(file, "tensor '", name, "' has dtype ", name_of(file.dtype(name)), ", the model needs ", name_of(wanted));
}

template <class Layer> void check_parameters(const safetensors_view& file, const Layer& layer) {
  std::set<std::string, std::less<>> names;
  layer.visit_parameters([&](const std::string& name, const auto& p) {
    expect_tensor(file, name, p.value.view());
    names.insert(name);
  });
  for (const std::string& name : file.names())
    if (!name.starts_with(optimizer_prefix) && !name.starts_with(caller_prefix) && !names.contains(name))
      refuse(file, "tensor '", name, "' ", shape_text(file.shape(name), static_cast<int>(file.shape(name).size())),
             " is not a parameter of the model, which has ", names.size(), " tensors");
}

template <class Layer> void copy_parameters(const safetensors_view& file, Layer& layer) {
  layer.visit_parameters([&](const std::string& name, auto& p) { file.copy_to(name, p.value.view()); });
}

template <class Optimizer> [[nodiscard]] index_t check_optimizer(const safetensors_view& file, const Optimizer& o) {
  std::set<std::string, std::less<>> names;
  o.visit_state([&](const std::string& name, const auto& view) {
    names.insert(std::string(optimizer_prefix) + name);
    expect_tensor(file, std::string(optimizer_prefix) + name, view);
  });
  for (const std::string& name : file.names())
    if (name.starts_with(optimizer_prefix) && !names.contains(name))
      refuse(file, "tensor '", name, "' is not part of the optimizer's state, which has ", names.size(), " tensors");
  if (!file.has_metadata(steps_key)) refuse(file, "metadata '", steps_key, "' is missing");
  const std::string& text = file.metadata(steps_key);
  index_t steps = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), steps);
  if (error != std::errc{} || end != text.data() + text.size() || steps < 0)
    refuse(file, "metadata '", steps_key, "' must be a number >= 0");
  return steps;
}

}  // namespace detail

/// Adds every parameter under its name. The layer must stay as it is until the file is saved.
template <class Layer> void add_parameters(safetensors_writer& file, const Layer& layer) {
  layer.visit_parameters([&](const std::string& name, const auto& p) { file.add(name, p.value); });
}

/// Adds the moments of an optimizer and its number of steps.
template <class Optimizer> void add_optimizer(safetensors_writer& file, const Optimizer& optimizer) {
  optimizer.visit_state(
      [&](const std::string& name, const auto& view) { file.add(std::string(detail::optimizer_prefix) + name, view); });
  file.metadata(detail::steps_key, std::to_string(optimizer.steps()));
}

/// Replaces the parameters with those of the file.
template <class Layer> void load_parameters(const safetensors_view& file, Layer& layer) {
  detail::check_parameters(file, layer);
  detail::copy_parameters(file, layer);
}

/// Replaces the parameters and the state of the optimizer: training continues with the same bits.
template <class Layer, class Optimizer>
void load_checkpoint(const safetensors_view& file, Layer& layer, Optimizer& optimizer) {
  detail::check_parameters(file, layer);
  const index_t steps = detail::check_optimizer(file, optimizer);
  detail::copy_parameters(file, layer);
  optimizer.visit_state([&](const std::string& name, const auto& view) {
    file.copy_to(std::string(detail::optimizer_prefix) + name, view);
  });
  optimizer.set_steps(steps);
}

}  // namespace seqprim::io
