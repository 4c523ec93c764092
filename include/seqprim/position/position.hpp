// SPDX-License-Identifier: Apache-2.0
#pragma once

/// All position maps and encodings.
#include <seqprim/position/coordinates.hpp>
#include <seqprim/position/encode.hpp>
#include <seqprim/position/frequencies.hpp>
#include <seqprim/position/none.hpp>
#include <seqprim/position/on_read.hpp>
#include <seqprim/position/packed.hpp>
#include <seqprim/position/parameter_gradient.hpp>
#include <seqprim/position/placed.hpp>
#include <seqprim/position/rotary.hpp>
#include <seqprim/position/rule.hpp>
#include <seqprim/position/sequential.hpp>
#include <seqprim/position/shifted.hpp>
#include <seqprim/position/table.hpp>
#include <seqprim/position/token_ids.hpp>
