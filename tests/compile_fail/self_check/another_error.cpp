// SPDX-License-Identifier: Apache-2.0
// The expected text is in the second error only.
// expect-error: the second mistake
// self-check: the first error is not the expected one
static_assert(false, "the first mistake");
static_assert(false, "the second mistake");
