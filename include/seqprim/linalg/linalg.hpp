// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Loops over rows and matrices that every family needs.
#include <seqprim/linalg/buffer.hpp>
#include <seqprim/linalg/gather.hpp>
#include <seqprim/linalg/matmul.hpp>
#include <seqprim/linalg/reduce.hpp>
#include <seqprim/linalg/rows.hpp>
