// SPDX-License-Identifier: Apache-2.0
// self-check: needs exactly one line
static_assert(false, "the mistake");
