// SPDX-License-Identifier: Apache-2.0
// The other of two files with every header.
#include "all_headers.hpp"

int second();

int second() { return SRFORMER_VERSION_MINOR; }
