// SPDX-License-Identifier: Apache-2.0
// Compiles with and without SRF_CONTROL.
// expect: never said
int main() {}
