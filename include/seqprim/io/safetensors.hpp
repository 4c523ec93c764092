// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Reads and writes safetensors files: named, typed tensors and text metadata. Checkpoints and golden files use it.
/// CMake target `seqprim::io`, which needs nlohmann_json.
#include <seqprim/io/safetensors_reader.hpp>
#include <seqprim/io/safetensors_writer.hpp>
