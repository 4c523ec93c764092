// SPDX-License-Identifier: Apache-2.0
#include <arch/own_code.hpp>

own_code run_in_b() { return run_here(); }
