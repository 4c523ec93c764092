// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Softmax attention on the CPU. The definition is in attention/reference.hpp, CUDA in attention/forward.cuh.
#include <seqprim/attention/append.hpp>
#include <seqprim/attention/backward.hpp>
#include <seqprim/attention/decode.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/attention/gradients.hpp>
#include <seqprim/attention/merge.hpp>
#include <seqprim/attention/paged.hpp>
#include <seqprim/attention/quantized.hpp>
#include <seqprim/attention/ragged.hpp>
#include <seqprim/attention/sink_gradient.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/attention/tuning.hpp>
#include <seqprim/attention/weights.hpp>
