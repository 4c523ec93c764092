// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Everything that runs on a CPU and needs no further package. Files (<seqprim/io/safetensors.hpp>, checkpoints) need a
/// JSON parser and stay out; so do the adapters to other views of memory (<seqprim/core/mdspan.hpp>, ...) and the slow
/// definitions (<seqprim/attention/reference.hpp>).
#include <seqprim/attention/attention.hpp>
#include <seqprim/core/core.hpp>
#include <seqprim/linalg/linalg.hpp>
#include <seqprim/loss/loss.hpp>
#include <seqprim/mask/mask.hpp>
#include <seqprim/nn/nn.hpp>
#include <seqprim/position/position.hpp>
#include <seqprim/sampling/sampling.hpp>
#include <seqprim/score/score.hpp>
