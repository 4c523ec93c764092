// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Everything of seqprim.hpp, and CUDA.
#include <seqprim/attention/append.cuh>
#include <seqprim/attention/backward.cuh>
#include <seqprim/attention/decode.cuh>
#include <seqprim/attention/forward.cuh>
#include <seqprim/attention/merge.cuh>
#include <seqprim/attention/ragged.cuh>
#include <seqprim/attention/sink_gradient.cuh>
#include <seqprim/core/gpu.cuh>
#include <seqprim/mask/block_map.cuh>
#include <seqprim/position/encode.cuh>
#include <seqprim/seqprim.hpp>
