// SPDX-License-Identifier: Apache-2.0
// Fails without saying what is expected.
#if !defined(SRF_CONTROL)
static_assert(false, "a complaint nobody waits for");
#endif
int main() {}
