// SPDX-License-Identifier: Apache-2.0
// Fails, with another sentence than the one expected.
// expect: the sentence that is not said
#if !defined(SRF_CONTROL)
static_assert(false, "some other complaint");
#endif
int main() {}
