// SPDX-License-Identifier: Apache-2.0
#pragma once

/// How many results are NaN where hidden keys and values are, for one element type; must be 0.
struct leaked_nans {
  int out = 0, decoded = 0, dq = 0, dk = 0, dv = 0;
};

/// The same code, from translation units with and without -ffast-math -fno-finite-math-only.
leaked_nans run_strict_float();
leaked_nans run_strict_bfloat16();
leaked_nans run_fast_float();
leaked_nans run_fast_bfloat16();
