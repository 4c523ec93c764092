// SPDX-License-Identifier: Apache-2.0
#pragma once

/// All masks.
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/attention_sinks.hpp>
#include <seqprim/mask/block_map.hpp>
#include <seqprim/mask/by_label.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/mask/check.hpp>
#include <seqprim/mask/concat.hpp>
#include <seqprim/mask/count_tiles.hpp>
#include <seqprim/mask/dense.hpp>
#include <seqprim/mask/documents.hpp>
#include <seqprim/mask/full.hpp>
#include <seqprim/mask/key_padding.hpp>
#include <seqprim/mask/key_range.hpp>
#include <seqprim/mask/labels.hpp>
#include <seqprim/mask/last_queries.hpp>
#include <seqprim/mask/next_cut.hpp>
#include <seqprim/mask/packed.hpp>
#include <seqprim/mask/per_head.hpp>
#include <seqprim/mask/prefix.hpp>
#include <seqprim/mask/query_range.hpp>
#include <seqprim/mask/row_ranges.hpp>
#include <seqprim/mask/row_words.hpp>
#include <seqprim/mask/rule.hpp>
#include <seqprim/mask/shifted_rows.hpp>
#include <seqprim/mask/sliding_window.hpp>
#include <seqprim/mask/transposed.hpp>
#include <seqprim/mask/where.hpp>
