// SPDX-License-Identifier: Apache-2.0
// Fails with the sentence expected, but with SRF_CONTROL too.
// expect: the same complaint
static_assert(false, "the same complaint");
int main() {}
