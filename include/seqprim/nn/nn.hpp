// SPDX-License-Identifier: Apache-2.0
#pragma once

/// All layers, optimizers and schedules; checkpoints are in io/checkpoint.hpp.
#include <seqprim/nn/activation.hpp>
#include <seqprim/nn/adamw.hpp>
#include <seqprim/nn/attention_mixer.hpp>
#include <seqprim/nn/block.hpp>
#include <seqprim/nn/clip.hpp>
#include <seqprim/nn/decoder.hpp>
#include <seqprim/nn/embedding.hpp>
#include <seqprim/nn/gated_mlp.hpp>
#include <seqprim/nn/initialize.hpp>
#include <seqprim/nn/linear.hpp>
#include <seqprim/nn/parameter.hpp>
#include <seqprim/nn/rms_norm.hpp>
#include <seqprim/nn/schedule.hpp>
