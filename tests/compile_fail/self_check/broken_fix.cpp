// SPDX-License-Identifier: Apache-2.0
// expect-error: the mistake
// self-check: does not compile with -DFIXED either
#if defined(FIXED)
static_assert(false, "still wrong");
#else
static_assert(false, "the mistake");
#endif
