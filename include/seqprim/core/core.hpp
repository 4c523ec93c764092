// SPDX-License-Identifier: Apache-2.0
#pragma once

/// All of core except the adapters.
#include <seqprim/core/bfloat16.hpp>
#include <seqprim/core/config.hpp>
#include <seqprim/core/element.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/float16.hpp>
#include <seqprim/core/index.hpp>
#include <seqprim/core/index_array.hpp>
#include <seqprim/core/packing.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/philox.hpp>
#include <seqprim/core/row_starts.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/core/tensor_view.hpp>
