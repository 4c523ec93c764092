// SPDX-License-Identifier: Apache-2.0
#pragma once

/// All score modifiers.
#include <seqprim/score/alibi.hpp>
#include <seqprim/score/chain.hpp>
#include <seqprim/score/constant.hpp>
#include <seqprim/score/key_bias.hpp>
#include <seqprim/score/packed.hpp>
#include <seqprim/score/query_scale.hpp>
#include <seqprim/score/relative_bias.hpp>
#include <seqprim/score/rule.hpp>
#include <seqprim/score/shifted.hpp>
#include <seqprim/score/soft_cap.hpp>
#include <seqprim/score/t5_buckets.hpp>
