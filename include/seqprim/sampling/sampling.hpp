// SPDX-License-Identifier: Apache-2.0
#pragma once

/// All of sampling on the CPU. The slow definition that tests compare with is <seqprim/sampling/reference.hpp>.
#include <seqprim/sampling/det_math.hpp>
#include <seqprim/sampling/draw.hpp>
#include <seqprim/sampling/greedy.hpp>
#include <seqprim/sampling/gumbel_max.hpp>
#include <seqprim/sampling/min_p.hpp>
#include <seqprim/sampling/sample.hpp>
#include <seqprim/sampling/stage.hpp>
#include <seqprim/sampling/temperature.hpp>
#include <seqprim/sampling/top_k.hpp>
#include <seqprim/sampling/top_p.hpp>
