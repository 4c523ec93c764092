// SPDX-License-Identifier: Apache-2.0
#pragma once

/// All position maps and encodings.
#include <seqprim/position/encode.hpp>
#include <seqprim/position/none.hpp>
#include <seqprim/position/packed.hpp>
#include <seqprim/position/placed.hpp>
#include <seqprim/position/rotary.hpp>
#include <seqprim/position/rotary_table.hpp>
#include <seqprim/position/rule.hpp>
#include <seqprim/position/sequential.hpp>
#include <seqprim/position/shifted.hpp>
#include <seqprim/position/token_ids.hpp>
