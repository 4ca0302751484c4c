// SPDX-License-Identifier: Apache-2.0
// One of two files with every header: a function that is not inline is defined twice and does not link.
#include "all_headers.hpp"

int second();

int main() { return second() == SRFORMER_VERSION_MINOR ? 0 : 1; }
