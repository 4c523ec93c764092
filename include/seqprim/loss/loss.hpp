// SPDX-License-Identifier: Apache-2.0
#pragma once

/// All losses.
#include <seqprim/loss/cross_entropy.hpp>
#include <seqprim/loss/linear_cross_entropy.hpp>
