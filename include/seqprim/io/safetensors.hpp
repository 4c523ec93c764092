// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Safetensors files, read and written.
#include <seqprim/io/safetensors_reader.hpp>
#include <seqprim/io/safetensors_writer.hpp>
