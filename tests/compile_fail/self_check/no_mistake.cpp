// SPDX-License-Identifier: Apache-2.0
// expect-error: some text
// self-check: compiles, but should not
int main() {}
